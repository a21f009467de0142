"""What every stage script shares: how it starts, and how it ends after an error."""

import inspect
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from techloop.allocator import keep_freed_memory
from techloop.pipeline.status import Outcome, Status, classify, write_status
from techloop.rank import is_rank_zero

# An error usually stops every process. Rank 0 reports it; the others wait, or their exit could end
# rank 0 first.
RANK0_GRACE_S = 10


def run_stage(main: Callable[..., None]) -> None:
    """Call `main` with the command line's arguments; a user's mistake ends as one paragraph.

    `techloop.pipeline.status.classify` says which error ends how: with a message on stderr, or, as
    a defect of ours, with its traceback. How the stage ended is written for the flow.
    """
    name = Path(sys.argv[0]).stem
    exit_on_sigterm()
    keep_freed_memory()
    _report(Status(Outcome.RUNNING))
    try:
        main(*_arguments(main, name))
    except BaseException as error:
        status = classify(error)
        _report(status)
        if not status.message:
            raise
        if status.outcome is Outcome.ERROR and not is_rank_zero():
            time.sleep(RANK0_GRACE_S)
        print(f"{name}: {status.message}", file=sys.stderr)
        sys.exit(status.exit_code)
    _report(Status(Outcome.OK))


def exit_on_sigterm() -> None:
    """Have SIGTERM end this process as Ctrl-C would: cleanly, so that runs and files are ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _arguments(main: Callable[..., None], name: str) -> list[str]:
    """The command line's arguments; exits if they do not fit `main`."""
    signature, arguments = inspect.signature(main), sys.argv[1:]
    try:
        signature.bind(*arguments)
    except TypeError:
        expected = " ".join(parameter.upper() for parameter in signature.parameters)
        sys.exit(f"usage: python -m stages.{name} {expected}".rstrip())
    return arguments


def _report(status: Status) -> None:
    if is_rank_zero():
        write_status(status)

"""What every stage script shares: how it ends when a person made a mistake."""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path


def run_stage(main: Callable[..., None]) -> None:
    """Call `main` with the command line's arguments; a user's mistake ends as one paragraph.

    A `ValueError` (or arguments that do not fit) or an `OSError` (as of a full disk) is printed to
    stderr without a traceback, and the exit code is 1; of a network that failed it is
    `os.EX_TEMPFAIL`, upon which the flow tries again. Anything else is a defect of ours and keeps
    its traceback.
    """
    name, arguments = Path(sys.argv[0]).stem, sys.argv[1:]
    signature = inspect.signature(main)
    try:
        signature.bind(*arguments)
    except TypeError:
        expected = " ".join(parameter.upper() for parameter in signature.parameters)
        sys.exit(f"usage: python -m stages.{name} {expected}".rstrip())
    try:
        main(*arguments)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:  # a full or read-only disk, as a rule
        if _is_network(error):
            print(f"{name}: {error}. That may pass: run it again to go on.", file=sys.stderr)
            sys.exit(os.EX_TEMPFAIL)
        sys.exit(
            f"{name}: {error}. Nothing is half written: make room, or the place writable, and run "
            "it again; it goes on where it was. `dvc checkout` brings back what was there before."
        )


def _is_network(error: BaseException | None) -> bool:
    """Whether a connection is behind an error; libraries raise kinds of their own upon one."""
    while error and not isinstance(error, ConnectionError | TimeoutError):
        error = error.__cause__ or error.__context__
    return error is not None

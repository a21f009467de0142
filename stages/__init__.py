"""What every stage script shares: how it ends when a person made a mistake."""

import errno
import inspect
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from techloop.allocator import keep_freed_memory

# A full or read-only disk, a quota, no permission, a file that may not grow.
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EFBIG}

# What stops one of several processes mostly stops all; the first, which tells the run, ends first.
FIRST_S = 10


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
    keep_freed_memory()
    leave_when_told()  # the run is told how it ended, and what was trained is kept
    try:
        main(*arguments)
    except (ValueError, FloatingPointError) as error:
        from techloop.tracking.run import is_first

        if not is_first():
            time.sleep(FIRST_S)
        sys.exit(f"{name}: {error}")
    except OSError as error:
        if _is_network(error):
            print(f"{name}: {error}. That may pass: run it again to go on.", file=sys.stderr)
            sys.exit(os.EX_TEMPFAIL)
        if error.errno not in UNWRITABLE:
            sys.exit(f"{name}: {error}")
        sys.exit(
            f"{name}: {error}. Nothing is half written: make room, or the place writable, and run "
            "it again; a training goes on where it was. `dvc checkout dvc.yaml` brings back what "
            "was there before."
        )
    except RuntimeError as error:
        if "closed by peer" not in str(error) and "reset by peer" not in str(error):
            raise
        traceback.print_exc()  # of several processes another one has ended, and says why
        sys.exit(os.EX_TEMPFAIL)


def leave_when_told() -> None:
    """Have SIGTERM end this process as Ctrl-C would, with whatever is to be done on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _is_network(error: BaseException | None) -> bool:
    """Whether a connection is behind an error; libraries raise kinds of their own upon one."""
    if isinstance(error, BrokenPipeError):  # of a pipeline in a shell
        return False
    while error and not isinstance(error, ConnectionError | TimeoutError):
        error = error.__cause__ or error.__context__
    return error is not None

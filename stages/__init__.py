"""What every stage script shares: how it ends when a person made a mistake."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path


def run_stage(main: Callable[..., None]) -> None:
    """Call `main` with the command line's arguments; a user's mistake ends as one paragraph.

    A `ValueError` (or arguments that do not fit) or an `OSError` (as of a full disk) is printed to
    stderr without a traceback, and the exit code is 1. Anything else is a defect of ours and keeps
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
        sys.exit(f"{name}: {error}. What was there before is as it was; run it again to go on.")

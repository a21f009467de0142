"""How a stage ended: a small file says it, and the flow decides from it whether to retry."""

import contextlib
import errno
import os
import signal
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from techloop.artifacts import read_json, write_json

VARIABLE = "TECHLOOP_STATUS"  # the file's path, in the environment of a stage that the flow starts
# A full or read-only disk, a quota, no permission, a file that may not grow.
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EFBIG}


class Outcome(StrEnum):
    """The kinds of end.

    Attributes:
        RUNNING: the stage started and wrote nothing else, so it was killed.
        OK: it finished.
        ERROR: a retry would fail too: a user's mistake, or a defect of ours.
        TRANSIENT: a retry may succeed: a connection failed, or SIGTERM ended the stage.
        INTERRUPTED: a person pressed Ctrl-C.
    """

    RUNNING = "running"
    OK = "ok"
    ERROR = "error"
    TRANSIENT = "transient"
    INTERRUPTED = "interrupted"


class Status(NamedTuple):
    """How a stage ended.

    Attributes:
        outcome: the kind of end.
        exit_code: of its process; 0 while it runs.
        message: a paragraph for the user; empty where the traceback is to be shown.
    """

    outcome: Outcome
    exit_code: int = 0
    message: str = ""


def classify(error: BaseException) -> Status:
    """How a stage that raised this error ends."""
    if isinstance(error, KeyboardInterrupt):
        return Status(Outcome.INTERRUPTED, 128 + signal.SIGINT)
    if isinstance(error, SystemExit):
        if error.code == 128 + signal.SIGTERM:
            return Status(Outcome.TRANSIENT, 128 + signal.SIGTERM)
        return Status(Outcome.ERROR, 1) if error.code else Status(Outcome.OK)
    if isinstance(error, ValueError | FloatingPointError):
        return Status(Outcome.ERROR, 1, str(error))
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("closed by peer", "reset by peer")
    ):
        message = f"{error}. Another process of this training has ended; its output says why."
        return Status(Outcome.TRANSIENT, os.EX_TEMPFAIL, message)
    return Status(Outcome.ERROR, 1)


def _of_system(error: OSError) -> Status:
    if _is_network(error):
        message = f"{error}. This may be temporary: run it again to resume."
        return Status(Outcome.TRANSIENT, os.EX_TEMPFAIL, message)
    if error.errno in UNWRITABLE:
        message = (
            f"{error}. Nothing is half written: free some space, or make the place writable, and "
            "run it again; a training resumes. `dvc checkout dvc.yaml` restores what was there "
            "before."
        )
        return Status(Outcome.ERROR, 1, message)
    return Status(Outcome.ERROR, 1, str(error))


def _is_network(error: BaseException | None) -> bool:
    """Whether a failed connection caused the error; libraries raise their own kinds upon one."""
    if isinstance(error, BrokenPipeError):  # of a pipeline in a shell
        return False
    while error and not isinstance(error, ConnectionError | TimeoutError):
        error = error.__cause__ or error.__context__
    return error is not None


def write_status(status: Status) -> None:
    """Write the status to the file that the environment names, if it names one."""
    if file := os.environ.get(VARIABLE):
        with contextlib.suppress(OSError):  # on a full disk, the error of the stage matters
            write_json(file, {"outcome": status.outcome, "exit_code": status.exit_code})


def read_status(file: Path) -> Status | None:
    """What a stage wrote; None if it never started."""
    if not file.exists():
        return None
    content = read_json(file)
    return Status(Outcome(content["outcome"]), content["exit_code"])


def is_transient(status: Status | None, exit_code: int) -> bool:
    """Whether a stage whose `dvc repro` failed may succeed on another try.

    It may if it says so, if it was killed (out of memory beside another stage, or pre-empted), if
    DVC did not start it, as while another DVC holds a lock, and if DVC itself was killed after it
    finished.

    Args:
        status: what the stage wrote; None if it never started.
        exit_code: of DVC's process; negative where a signal ended it.
    """
    if status is None or status.outcome in (Outcome.RUNNING, Outcome.TRANSIENT):
        return True
    return status.outcome is Outcome.OK and exit_code < 0 and exit_code != -signal.SIGINT

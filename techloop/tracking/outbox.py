"""The outbox: logs of runs that the tracking server does not have completely yet.

A stage whose server is away writes its log to `mlruns/outbox/` and continues. It tries again when
it logs something, at least a minute after the last try, and at its end. So do the next stage that
runs and `python -m techloop.tracking.outbox`.
"""

import contextlib
import math
import platform
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from techloop.artifacts import read_json, write_json
from techloop.tracking.address import OUTBOX, repository_root, shown_address, tracking_address
from techloop.tracking.pipeline import ParentRun, ParentState
from techloop.tracking.provenance import process_start
from techloop.tracking.store import (
    BATCH,
    LOCK,
    MAX_VALUE_CHARS,
    Row,
    Store,
    is_outage,
    metric_rows,
    mlflow_message,
    valid_key,
)

SEND_EVERY_S = 3.0
RETRY_S = 60.0
MAX_REASON_CHARS = 400  # of the warning


@dataclass
class RunLog:
    """Everything logged for a run, sent or pending.

    Attributes:
        stage: name of the stage.
        parent: what its parent run is identified by.
        tags, params: of the run, as MLflow takes them.
        collects: see `track`.
        host, pid, pid_started: the process that writes this; pids are reused, so its start counts.
        run_id: MLflow's id; empty until the server has the run.
        metrics: rows in the order of logging.
        headline: metrics that stand for the stage in the parent run.
        artifacts: absolute paths.
        status, error: how the run ended.
    """

    stage: str
    parent: ParentState
    tags: dict[str, str]
    params: dict[str, str]
    collects: list[str]
    host: str
    pid: int
    pid_started: float
    run_id: str = ""
    metrics: list[Row] = field(default_factory=list)
    headline: dict[str, float] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    status: str = "RUNNING"
    error: str = ""

    def is_in_use(self, file: Path) -> bool:
        """Whether the process that writes the log is still running."""
        if self.host != platform.node():
            return time.time() - file.stat().st_mtime < 2 * RETRY_S
        # Two seconds, as a clock may be corrected meanwhile.
        return abs(process_start(self.pid) - self.pid_started) < 2


def read_log(file: Path) -> RunLog:
    """A log from its file in the outbox.

    Raises:
        ValueError: the file is damaged.
        KeyError, TypeError: its keys are those of another version.
    """
    content = read_json(file)
    # JSON has neither tuples nor NaN.
    rows = [(k, math.nan if v is None else v, ms, step) for k, v, ms, step in content["metrics"]]
    headline = {k: math.nan if v is None else v for k, v in content["headline"].items()}
    parent = ParentState(**content["parent"])
    return RunLog(**content | {"metrics": rows, "headline": headline, "parent": parent})


class Sender:
    """Sends a run's log to the store; what cannot be sent waits in the outbox.

    Args:
        root: top of the repository.
        log: the run's log.
        file: the log's file, if it is in the outbox already.

    Attributes:
        log: the run's log.
        is_offline: whether the server was unreachable at the last attempt.
        experiment_id, parent_id: MLflow's ids; empty until the server has the run.
        address: where the run is, as it may be shown to others.
    """

    def __init__(self, root: Path, log: RunLog, file: Path | None = None) -> None:
        self.log = log
        self.is_offline = False
        self.experiment_id = self.parent_id = ""
        self.address = shown_address(tracking_address(root))
        name = valid_key(log.stage).replace("/", "-")
        self._root = root
        self._file = file or root / OUTBOX / f"{name}-{uuid.uuid4().hex[:8]}.json"
        self._store: Store | None = None
        self._metrics_sent = self._artifacts_sent = 0
        self._metrics_tried = 0
        self._sent_at = self._retry_at = 0.0

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics; they are sent together every few seconds, so that training hardly waits."""
        self.log.metrics += metric_rows(metrics, step)
        pending = len(self.log.metrics) - self._metrics_tried
        if time.monotonic() - self._sent_at > SEND_EVERY_S or pending >= BATCH:
            self.flush()

    def flush(self) -> bool:
        """Send what is missing. Returns True if the server now has everything."""
        self._sent_at, self._metrics_tried = time.monotonic(), len(self.log.metrics)
        if self._sent_at < self._retry_at:
            self._save()
            return False
        try:
            store = self._store = self._store or self._begin()
            pending = self.log.metrics[self._metrics_sent :]
            store.log_metrics(self.log.run_id, pending)
            self._metrics_sent += len(pending)
            while self._artifacts_sent < len(self.log.artifacts):
                self._send_artifact(store, Path(self.log.artifacts[self._artifacts_sent]))
                self._artifacts_sent += 1
        except Exception as error:
            self.queue(error)
            return False
        self._file.unlink(missing_ok=True)
        return True

    def end(self, status: str, error: str = "") -> None:
        """End the run, now or once the server is back.

        Args:
            status: FINISHED, FAILED or KILLED.
            error: what ended it.
        """
        self.log.status, self.log.error, self._retry_at = status, error[:MAX_VALUE_CHARS], 0.0
        if not self.flush():
            return
        assert self._store
        try:
            if error:
                self._store.client.set_tag(self.log.run_id, "error", self.log.error)
            with FileLock(self._root / LOCK):
                self.parent_id = self._parent(self._store).end(
                    self.log.run_id, status, self.log.headline, self.log.collects
                )
        except Exception as trouble:
            self.queue(trouble)

    def queue(self, error: Exception) -> None:
        """Put the log into the outbox: neither an outage nor a deleted run may stop a stage.

        Raises:
            Exception: the error itself, if it is a defect of ours.
        """
        self.is_offline, message = is_outage(error), mlflow_message(error)[:MAX_REASON_CHARS]
        if self.is_offline:
            reason = f"cannot be reached or refuses access ({message or type(error).__name__})"
        elif message:
            reason = f"refuses this run, which may have been deleted ({message})"
        else:
            raise error
        if not self._retry_at:
            warnings.warn(
                f"the tracking server at {self.address} {reason}. The stage continues; its log is "
                f"queued in {OUTBOX / self._file.name} and the next stage sends it. To drop it, "
                "delete that file. `techloop doctor` checks the server.",
                stacklevel=2,
            )
        now = time.monotonic()
        # A try can take long (timeout). Wait 20 times as long before the next, so that tries take
        # at most 5 % of the time.
        self._retry_at = now + max(RETRY_S, 20 * (now - self._sent_at))
        self._save()

    def _begin(self) -> Store:
        with FileLock(self._root / LOCK):
            store = Store(self._root)
            self.experiment_id, self.address = store.experiment_id, store.address
            parent = self._parent(store)
            if self.log.run_id:
                self.parent_id = parent.id()
            else:
                self.log.run_id, self.parent_id = parent.begin(self.log.tags)
        store.log_params(self.log.run_id, self.log.params)
        return store

    def _parent(self, store: Store) -> ParentRun:
        return ParentRun(store, self._root, self.log.stage, self.log.parent)

    def _send_artifact(self, store: Store, path: Path) -> None:
        """Copy the file to the run; if the stage collects others, also to the parent run."""
        if path.exists():  # the log may have waited for days
            store.log_artifact(self.log.run_id, path)
            if self.log.collects:
                store.log_artifact(self.parent_id, path)

    def _save(self) -> None:
        write_json(self._file, asdict(self.log))


def flush_outbox(root: Path) -> None:
    """Send the queued logs of runs that are no longer running.

    Returns at once if another process is doing so. Stops at the first outage.

    Args:
        root: top of the repository.
    """
    if not (root / OUTBOX).is_dir():
        return
    with contextlib.suppress(Timeout), FileLock(root / f"{OUTBOX}.lock", timeout=0):
        for file in sorted((root / OUTBOX).glob("*.json")):
            try:
                if _send(root, file).is_offline:
                    break
            except Exception as error:  # trouble of an old run may not stop a new one
                warnings.warn(
                    f"{OUTBOX / file.name} cannot be sent and stays: "
                    f"{type(error).__name__}: {error}",
                    stacklevel=2,
                )


def _send(root: Path, file: Path) -> Sender:
    log = read_log(file)
    sender = Sender(root, log, file)
    if log.status == "RUNNING":
        if log.is_in_use(file):
            return sender
        log.status = "KILLED"
    sender.end(log.status, log.error)
    return sender


if __name__ == "__main__":
    flush_outbox(repository_root())

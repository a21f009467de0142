"""What happened: each stage is an MLflow run. The only import of mlflow, and only once it is used.

Runs go to the address in `MLFLOW_TRACKING_URI`, else into `mlflow.db` and `mlruns/` at the top of
the repository. `reports/runs/<stage>.json` remembers the run that made a stage's outputs, so that a
stage taken from DVC's cache still knows its own.

The stages that ran on one state of the repository (commit, changes or none, params.yaml) are the
children of one run, of the pipeline or of the study: two settings are two such runs to compare.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from filelock import FileLock
from pydantic import BaseModel

from techloop.artifacts import fingerprint, read_json, write_json
from techloop.params import load_params

EXPERIMENT = "techloop"
LOCK = "mlflow.db.lock"  # at the repository's top; held by whoever looks first and then writes
LIBRARIES = ("techloop", "torch", "numpy", "scipy", "pandas", "lightning-fabric", "dvc")
BATCH = 100  # what MLflow takes of parameters in one call; of metrics it would take 1,000
SEND_EVERY_S = 3.0
LONGEST = 6000  # characters of a parameter's value


class Run:
    """A run in progress: `track` makes it and ends it."""

    def __init__(
        self, client: Any, run_id: str, experiment_id: str, above: str | None = None
    ) -> None:
        self.id = run_id
        self.experiment_id = experiment_id
        self.final: dict[str, float] = {}  # what was logged without a step
        self._client = client
        self._keepers = [run_id, above] if above else [run_id]
        self._waiting: list[tuple[str, float, int, int]] = []
        self._sent = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, at a step where there is one (in training: loops seen).

        Kept here and sent together every few seconds, so that a training step hardly waits. NaN is
        kept as such, an infinity as the largest number of its sign.
        """
        if step is None:
            self.final |= {k: float(v) for k, v in metrics.items()}
        self._waiting += _rows(metrics, step or 0)
        if time.monotonic() - self._sent > SEND_EVERY_S or len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        _send(self._client, self.id, waiting)
        self._sent = time.monotonic()

    def artifacts(self, path: str | Path) -> None:
        """Keep a copy of a file, or of a folder under its own name; MLflow's UI shows and plays it.

        Raises:
            ValueError: nothing is there.
        """
        path = Path(path)
        if not path.exists():
            raise ValueError(f"{path} is not there, so the run cannot keep a copy of it")
        for run_id in self._keepers:
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), artifact_path=path.resolve().name)
            else:
                self._client.log_artifact(run_id, str(path))


@contextmanager
def track(
    stage: str,
    params: BaseModel | Mapping[str, Any],
    inputs: Sequence[str | Path] = (),
    collects: Sequence[str] = (),
) -> Iterator[Run]:
    """An MLflow run named after the stage, around what it does; a child of the pipeline's run.

    Logs the parameters (nested keys joined by dots), commit, input fingerprints, library versions
    and device at the start; wall time and peak memory at the end. After an error the run is FAILED,
    after an interruption KILLED, and `reports/runs/<stage>.json` is not written.

    Args:
        stage: name of the stage, with its cell: `train_audio_vae@kl`.
        params: what the stage was told; a section of params.yaml.
        inputs: folders (or files) it reads.
        collects: stages whose outputs it brings together. The pipeline's run then keeps its
            artifacts too, and of stages that were taken from DVC's cache notes run and metrics.

    Raises:
        ValueError: not inside a repository, or an input is not there.
    """
    start = time.monotonic()
    root = repository_root()
    told = params.model_dump(mode="json") if isinstance(params, BaseModel) else dict(params)
    read = {_name(root, path): _fingerprint(Path(path)) for path in inputs}
    commit, dirty = git_state(root)
    tags = {
        "mlflow.source.name": stage,
        "mlflow.source.git.commit": commit,
        "dirty": str(dirty).lower(),
        "device": _device(),
        "version.python": platform.python_version(),
        **{f"version.{library}": _version(library) for library in LIBRARIES},
        **{f"input.{name}": value for name, value in read.items()},
    }
    lock = FileLock(root / LOCK)
    with _PeakMemory() as peak:
        with lock:
            client, experiment_id, address = _connect(root)
            parent = _Parent(client, experiment_id, root, stage, commit, dirty)
            run_id, above = parent.begin({_key(k): v for k, v in tags.items()})
        run = Run(client, run_id, experiment_id, above if collects else None)
        try:
            _log_params(client, run_id, told)
            yield run
            cost = {"wall_s": time.monotonic() - start, "peak_memory_mb": peak.megabytes()}
            run.log(cost)
            run.flush()
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            with contextlib.suppress(Exception):  # the error to be told is the one above
                client.set_tag(run_id, "error", f"{type(error).__name__}: {error}"[:LONGEST])
                run.flush()
            with contextlib.suppress(Exception), lock:
                parent.end(run_id, status)
            raise
        with lock:
            parent_id = parent.end(run_id, "FINISHED", run.final, collects)
    write_json(
        root / "reports" / "runs" / f"{stage}.json",
        {
            "stage": stage,
            "run_id": run_id,
            "parent_run_id": parent_id,
            "experiment_id": experiment_id,
            "tracking_uri": address,
            "wall_s": round(cost["wall_s"], 2),
            "peak_memory_mb": round(cost["peak_memory_mb"]),
            "commit": commit,
            "dirty": dirty,
            "device": tags["device"],
            "params": told,
            "inputs": read,
            "metrics": run.final,
        },
    )


def repository_root() -> Path:
    """The top of the repository: `DVC_ROOT`, which DVC sets for its stages, else by looking up.

    Raises:
        ValueError: there is none.
    """
    if given := os.environ.get("DVC_ROOT"):
        return Path(given).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise ValueError(
        f"{here} is in no DVC repository (no folder above it holds .dvc), so there is no place for "
        "the runs. Go into the repository, or set DVC_ROOT to its top."
    )


def tracking_address(root: Path) -> str:
    """Where runs go: `MLFLOW_TRACKING_URI`, else the database at the top of the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def shown_address(address: str) -> str:
    """An address as it may be told to others: no password, and no path of this machine."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return parts.scheme
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def experiment_id(root: Path) -> str:
    """What the tracking store calls the experiment of all runs; made where there is none."""
    with FileLock(root / LOCK):
        return _connect(root)[1]


def git_state(root: Path) -> tuple[str, bool]:
    """The commit checked out at `root`, and whether files differ from it.

    No `dvc.lock` counts: `dvc repro` changes it between stages. Without git, or outside a
    repository, or before its first commit: ("unknown", False).
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--verify", "HEAD")
        return commit, bool(git("status", "--porcelain", "--", ".", ":(exclude,glob)**/dvc.lock"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


class _Parent:
    """The run above those of all stages that ran on one state of the repository.

    `dvc repro` does not say that it begins, each stage is a process of its own, and some may run at
    once: whichever comes first makes it, and the others find it. To be used under the lock.
    """

    def __init__(
        self, client: Any, experiment_id: str, root: Path, stage: str, commit: str, dirty: bool
    ) -> None:
        file = root / "params.yaml"
        self.told = load_params(file).model_dump(mode="json") if file.is_file() else {}
        self.kind = "study" if stage.startswith("study") else "pipeline"
        self.stage = stage
        told = _digest(self.told)
        self.name = f"{self.kind} {commit[:8]}-{told[:6]}{'-dirty' if dirty else ''}"
        self.tags = {
            "state": _digest([self.kind, str(root), commit, dirty, told])[:16],
            "mlflow.source.name": "dvc repro",
            "mlflow.source.git.commit": commit,
            "dirty": str(dirty).lower(),
        }
        self._runs = root / "reports" / "runs"
        self._client, self._experiment_id = client, experiment_id

    def begin(self, tags: Mapping[str, str]) -> tuple[str, str]:
        """Open the stage's run, with these tags, under the parent; the ids of both."""
        parent = self._found()
        parent_id = str(parent.info.run_id)
        for run in self._running(parent_id):
            if run.info.run_name == self.stage:  # DVC runs no stage twice at once: it was cut off
                self._client.set_terminated(run.info.run_id, "KILLED")
        if (cached := self._tag(self.stage)) in parent.data.tags:
            self._client.delete_tag(parent_id, cached)
        child = self._client.create_run(
            self._experiment_id,
            run_name=self.stage,
            tags={**tags, "mlflow.parentRunId": parent_id},
        )
        self._client.update_run(parent_id, status="RUNNING")
        return str(child.info.run_id), parent_id

    def end(
        self,
        run_id: str,
        status: str,
        metrics: Mapping[str, float] | None = None,
        collects: Sequence[str] = (),
    ) -> str:
        """End the stage's run; the parent ends as the last of its stages does. The parent's id.

        The pipeline's run takes the headlines of the stages' final metrics, so that two settings
        can be compared; the cells of the study are compared with one another.
        """
        self._client.set_terminated(run_id, status)
        parent_id = str(self._found().info.run_id)
        # It may have been deleted meanwhile, and be another one now.
        self._client.set_tag(run_id, "mlflow.parentRunId", parent_id)
        known = {self.stage: metrics or {}}
        for stage in collects:
            record = self._record(stage)
            if record and record.get("parent_run_id") != parent_id:
                self._client.set_tag(parent_id, self._tag(stage), record["run_id"])
                known[stage] = record.get("metrics", {})
        if self.kind == "pipeline":
            for stage, found in known.items():
                headline = {f"{_place(stage)}/{k}": v for k, v in _headline(found).items()}
                _send(self._client, parent_id, _rows(headline, 0))
        if not self._running(parent_id):
            self._client.set_terminated(parent_id, status)
        return parent_id

    def _found(self) -> Any:
        """The parent; a new one where there is none, or none any more."""
        runs = self._client.search_runs(
            [self._experiment_id], f"tags.state = '{self.tags['state']}'", max_results=1
        )
        if runs:
            parent = runs[0]
        else:
            parent = self._client.create_run(
                self._experiment_id, run_name=self.name, tags=self.tags
            )
        if not parent.data.params:
            _log_params(self._client, parent.info.run_id, self.told)
        return parent

    def _running(self, parent_id: str) -> list[Any]:
        """The stages at work."""
        of_parent = f"tags.`mlflow.parentRunId` = '{parent_id}' and attributes.status = 'RUNNING'"
        return list(self._client.search_runs([self._experiment_id], of_parent))

    def _record(self, stage: str) -> dict[str, Any]:
        """What is known of a stage's run; nothing if it has not run, or its file is damaged."""
        with contextlib.suppress(ValueError):
            record = read_json(self._runs / f"{stage}.json")
            if isinstance(record, dict) and "run_id" in record:
                return record
        return {}

    @staticmethod
    def _tag(stage: str) -> str:
        return f"cached.{_place(stage)}"


def _headline(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Metrics that have a value, without baselines (another's name behind a word) and dimensions.

    To MLflow NaN would be different from NaN.
    """
    baselines = {a for a in metrics for b in metrics if a.endswith(f"_{b}")}
    return {
        name: value
        for name, value in metrics.items()
        if value is not None and math.isfinite(value)
        if name not in baselines and "_dim_" not in name
    }


def _digest(value: object) -> str:
    """What a value is recognised by."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _place(stage: str) -> str:
    """A stage with its cell in characters that MLflow allows; the UI groups by slashes."""
    return _key(stage.replace("@", "/"))


def _connect(root: Path) -> tuple[Any, str, str]:
    """A client, the id of the experiment, and the address as it may be shown to others.

    To be used under the lock: several processes would race in the tables' migrations, and for the
    experiment's name.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)
    address = tracking_address(root)
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=address)
    if found := client.get_experiment_by_name(EXPERIMENT):
        experiment_id = found.experiment_id
    else:
        experiment_id = client.create_experiment(
            EXPERIMENT,
            artifact_location=(root / "mlruns").as_uri() if local else None,
            tags={"mlflow.experimentKind": "custom_model_development"},  # as the UI lays it out
        )
    return client, experiment_id, "sqlite:///mlflow.db" if local else shown_address(address)


def _rows(metrics: Mapping[str, float], step: int) -> list[tuple[str, float, int, int]]:
    """Metrics of now, as MLflow takes them."""
    now_ms = int(time.time() * 1000)
    return [(_key(k), float(v), now_ms, step) for k, v in metrics.items()]


def _send(client: Any, run_id: str, rows: Sequence[tuple[str, float, int, int]]) -> None:
    """Log metrics in batches that MLflow takes."""
    from mlflow.entities import Metric

    for i in range(0, len(rows), BATCH):
        client.log_batch(run_id, metrics=[Metric(*row) for row in rows[i : i + BATCH]])


def _log_params(client: Any, run_id: str, told: Mapping[str, Any]) -> None:
    """Log parameters in batches that MLflow takes."""
    from mlflow.entities import Param

    rows = [Param(_key(k), str(v)[:LONGEST]) for k, v in _flat(told).items()]
    for i in range(0, len(rows), BATCH):
        client.log_batch(run_id, params=rows[i : i + BATCH])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _key(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w. :/-]", "_", str(name), flags=re.ASCII)


def _name(root: Path, path: str | Path) -> str:
    """A path as it may be shown to others: from the repository's top, else its last part."""
    path = Path(path).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _fingerprint(path: Path) -> str:
    """What a folder's card says of it (a card is cheaper than hashing gigabytes), else a hash."""
    if not path.exists():
        raise ValueError(f"{path} is not there; `dvc repro` makes it, `dvc pull` fetches it")
    card = path / "card.json"
    if card.is_file() and (known := read_json(card).get("fingerprint")):
        return str(known)
    return fingerprint(path)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _device() -> str:
    """The graphics card if torch is in use and finds one, else the number of cores."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"cpu: {os.cpu_count()} cores"


class _PeakMemory:
    """Resident memory of this process and those it started, together, at its highest.

    Looked at twice a second: the system keeps a peak for each process, but none for their sum.
    """

    def __enter__(self) -> "_PeakMemory":
        self._bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def megabytes(self) -> float:
        """The peak until now."""
        unit = 1 if sys.platform == "darwin" else 1024
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return max(own, self._bytes) / 1e6

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(0.5):
            total = 0
            for process in (this, *this.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it may have ended just now
                    total += process.memory_info().rss
            self._bytes = max(self._bytes, total)

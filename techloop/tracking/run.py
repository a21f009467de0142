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
import importlib.util
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
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel

from techloop.artifacts import atomic_write, fingerprint, read_json, write_json
from techloop.closure import code_fingerprint, module_file
from techloop.metric import Measurement
from techloop.params import load_params

EXPERIMENT = "techloop"
LOCK = "mlflow.db.lock"  # at the repository's top; held by whoever looks first and then writes
LIBRARIES = ("techloop", "torch", "numpy", "scipy", "pandas", "lightning-fabric", "dvc")
BATCH = 100  # what MLflow takes of parameters in one call; of metrics it would take 1,000
SEND_EVERY_S = 3.0
TRY_AGAIN_S = 60.0
WAITING = Path("mlruns/waiting")  # at the repository's top: runs that the server has not all of
CHECKOUT = Path("mlruns/checkout")  # there too: what the server knows this checkout by
LONGEST = 6000  # characters of a parameter's value
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")  # of places for runs
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")  # of a process among several


@dataclass
class _Journal:
    """All that is to be told of a run, whether the server has heard it or not."""

    stage: str
    parent: dict[str, Any]  # see `_state`
    tags: dict[str, str]
    params: dict[str, str]
    collects: list[str]
    process: int  # that writes it, on this machine
    began: float  # that process: numbers come again
    machine: str
    run_id: str = ""
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    final: dict[str, float] = field(default_factory=dict)  # what was logged without a step
    error: str = ""
    status: str = "RUNNING"


class Run:
    """A run in progress: `track` makes it and ends it.

    What cannot be sent is kept in a file of `mlruns/waiting/` and tried again each minute, at the
    end, and by the next stage that runs. The stage goes on meanwhile.
    """

    def __init__(self, root: Path, journal: _Journal, file: Path | None = None) -> None:
        self._root, self._journal = root, journal
        name = _key(journal.stage).replace("/", "-")
        self._file = file or root / WAITING / f"{name}-{uuid.uuid4().hex[:8]}.json"
        self._client: Any = None
        self._parent: _Parent | None = None
        self._told, self._kept = 0, 0  # of metrics, of artifacts
        self._seen = 0  # of metrics, when last something was to be sent
        self._keepers: list[str] = []
        self._sent, self._again_at = 0.0, 0.0
        self.away = False  # the server, when last something was to be sent
        self.experiment_id = self.parent_id = ""
        self.address = shown_address(tracking_address(root))

    @property
    def id(self) -> str:
        """What MLflow calls the run; empty as long as the server has not heard of it."""
        return self._journal.run_id

    @property
    def final(self) -> dict[str, float]:
        """What was logged without a step."""
        return self._journal.final

    def log(self, metrics: Mapping[str, float | Measurement], step: int | None = None) -> None:
        """Log metrics, at a step where there is one (in training: loops seen).

        Kept here and sent together every few seconds, so that a training step hardly waits. NaN is
        kept as such, an infinity as the largest number of its sign.
        """
        numbers: dict[str, float] = {}
        for name, value in metrics.items():
            numbers |= value.flat() if isinstance(value, Measurement) else {name: value}
        if step is None:
            self._journal.final |= {k: float(v) for k, v in numbers.items()}
        self._journal.metrics += _rows(numbers, step or 0)
        fresh = len(self._journal.metrics) - self._seen
        if time.monotonic() - self._sent > SEND_EVERY_S or fresh >= BATCH:
            self.tell()

    def artifacts(self, path: str | Path) -> None:
        """Keep a copy of a file, or of a folder under its own name; MLflow's UI shows and plays it.

        Raises:
            ValueError: nothing is there.
        """
        path = Path(path)
        if not path.exists():
            raise ValueError(f"{path} is not there, so the run cannot keep a copy of it")
        self._journal.artifacts.append(str(path.resolve()))
        self.tell()

    def tell(self) -> bool:
        """Send what the server has not heard; whether it now has heard all."""
        self._sent, self._seen = time.monotonic(), len(self._journal.metrics)
        if self._sent < self._again_at:
            self._save()
            return False
        try:
            if not self._parent:
                self._begin()
            waiting = self._journal.metrics[self._told :]
            _send(self._client, self.id, waiting)
            self._told += len(waiting)
            while self._kept < len(self._journal.artifacts):
                self._keep(Path(self._journal.artifacts[self._kept]))
                self._kept += 1
        except Exception as error:
            self._put_by(error)
            return False
        self._file.unlink(missing_ok=True)
        return True

    def end(self, status: str, error: str = "") -> None:
        """End the run, now or when the server is back."""
        self._journal.status, self._journal.error, self._again_at = status, error[:LONGEST], 0.0
        if not self.tell():
            return
        assert self._parent
        try:
            if error:
                self._client.set_tag(self.id, "error", self._journal.error)
            with FileLock(self._root / LOCK):
                self.parent_id = self._parent.end(
                    self.id, status, self._journal.final, self._journal.collects
                )
        except Exception as trouble:
            self._put_by(trouble)

    def _begin(self) -> None:
        with FileLock(self._root / LOCK):
            self._client, self.experiment_id, self.address = _connect(self._root)
            parent = _Parent(self._client, self.experiment_id, self._root, self._journal)
            if self._journal.run_id:
                self.parent_id = parent.id()
            else:
                self._journal.run_id, self.parent_id = parent.begin(self._journal.tags)
        self._keepers = [self.id, self.parent_id] if self._journal.collects else [self.id]
        _log_params(self._client, self.id, self._journal.params)
        self._parent = parent

    def _keep(self, path: Path) -> None:
        for run_id in self._keepers if path.exists() else ():  # it may have been waiting for days
            if path.is_dir():
                self._client.log_artifacts(run_id, str(path), artifact_path=path.name)
            else:
                self._client.log_artifact(run_id, str(path))

    def _put_by(self, error: Exception) -> None:
        """Keep the journal for later: neither a server that is away nor one that refuses a run,
        which somebody has deleted, is to stop a stage. Anything else is a defect of ours.
        """
        from mlflow.exceptions import MlflowException

        self.away = _is_outage(error)
        if self.away:
            said = f"cannot be reached, or lets nobody in ({type(error).__name__})"
        elif isinstance(error, MlflowException):
            said = f"takes nothing more of this run, which may be deleted ({error.message[:200]})"
        else:
            raise error
        if not self._again_at:
            warnings.warn(
                f"the tracking server at {self.address} {said}; this goes on, and what there is "
                f"to log waits in {WAITING / self._file.name} until a stage can tell it, or until "
                "you delete that. `techloop doctor` looks at the server.",
                stacklevel=2,
            )
        now = time.monotonic()
        # A server that does not even refuse takes long to try: no more than a 20th of all time.
        self._again_at = now + max(TRY_AGAIN_S, 20 * (now - self._sent))
        self._save()

    def _save(self) -> None:
        write_json(self._file, asdict(self._journal))


def _is_outage(error: Exception) -> bool:
    """Whether a server was away or in trouble, and did not just refuse what it was told."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import OperationalError  # of a database: it is away, or locked

    if isinstance(error, MlflowException):
        return error.get_http_status_code() >= 500 or "API request to" in str(error)
    return isinstance(error, RequestException | OperationalError | ConnectionError | TimeoutError)


def deliver(root: Path) -> None:
    """Tell the server, unless it still is away, of runs that ended or were cut off meanwhile."""
    if not (root / WAITING).is_dir():
        return
    with contextlib.suppress(Timeout), FileLock(root / f"{WAITING}.lock", timeout=0):
        for file in sorted((root / WAITING).glob("*.json")):
            try:
                if _deliver(root, file).away:
                    break
            except Exception as error:  # no trouble of an old run may stop a new one
                warnings.warn(
                    f"{WAITING / file.name} cannot be delivered, and stays: "
                    f"{type(error).__name__}: {error}",
                    stacklevel=2,
                )


def _deliver(root: Path, file: Path) -> Run:
    kept = read_json(file)
    # JSON has neither tuples nor NaN.
    rows = [(k, math.nan if v is None else v, ms, step) for k, v, ms, step in kept["metrics"]]
    journal = _Journal(**kept | {"metrics": rows})
    run = Run(root, journal, file)
    if journal.status == "RUNNING":
        if journal.machine != platform.node():
            if time.time() - file.stat().st_mtime < 2 * TRY_AGAIN_S:
                return run  # in use there
        elif abs(_began(journal.process) - journal.began) < 2:  # clocks are put right
            return run
        journal.status = "KILLED"
    run.end(journal.status, journal.error)
    return run


def _began(process: int) -> float:
    """When a process of this machine began; 0 where there is none."""
    try:
        return psutil.Process(process).create_time()
    except psutil.Error:
        return 0.0


class _Untold(Run):
    """What the other processes of one training have: the first alone tells."""

    def __init__(self) -> None:
        pass

    def log(self, metrics: Mapping[str, float | Measurement], step: int | None = None) -> None:
        pass

    def artifacts(self, path: str | Path) -> None:
        pass


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

    Of several processes that train together, only the first is a run.

    Args:
        stage: name of the stage, with its cell: `train_audio_vae@kl`.
        params: what the stage was told; a section of params.yaml.
        inputs: folders (or files) it reads.
        collects: stages whose outputs it brings together. The pipeline's run then keeps its
            artifacts too, and of stages that were taken from DVC's cache notes run and metrics.

    Raises:
        ValueError: not inside a repository, or an input is not there.
    """
    if not is_first():
        yield _Untold()
        return
    start = time.monotonic()
    root = repository_root()
    told = params.model_dump(mode="json") if isinstance(params, BaseModel) else dict(params)
    read = {_name(root, path): _fingerprint(Path(path)) for path in inputs}
    commit, dirty = git_state(root)
    checkout = _checkout(root)
    # Of two runs with the same, the second goes on with the first, if that did not end well.
    script = f"stages.{stage.partition('@')[0]}"
    code = code_fingerprint(script) if module_file(script) else ""
    work = _digest([checkout, stage, told, read, code])[:16]
    tags = {
        "work": work,
        "mlflow.source.name": stage,
        "mlflow.source.git.commit": commit,
        "dirty": str(dirty).lower(),
        **_machine(),
        "version.python": platform.python_version(),
        **{f"version.{library}": _version(library) for library in LIBRARIES},
        **{f"input.{name}": value for name, value in read.items()},
    }
    journal = _Journal(
        stage=stage,
        parent=_state(root, checkout, stage, commit, dirty),
        tags={_key(k): v for k, v in tags.items()},
        params={_key(k): str(v)[:LONGEST] for k, v in _flat(told).items()},
        collects=list(collects),
        process=os.getpid(),
        began=_began(os.getpid()),
        machine=platform.node(),
    )
    run = Run(root, journal)
    with _PeakMemory() as peak:
        deliver(root)  # first: one of them may be what this goes on with
        run.tell()
        try:
            yield run
            cost = {"wall_s": time.monotonic() - start, "peak_memory_mb": peak.megabytes()}
            run.log(cost)
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            with contextlib.suppress(Exception):  # the error to be told is the one above
                run.end(status, f"{type(error).__name__}: {error}")
            raise
        run.end("FINISHED")
    write_json(
        root / "reports" / "runs" / f"{stage}.json",
        {
            "stage": stage,
            "run_id": run.id,
            "work": work,
            "parent_run_id": run.parent_id,
            "experiment_id": run.experiment_id,
            "tracking_uri": run.address,
            "wall_s": round(cost["wall_s"], 2),
            "peak_memory_mb": round(cost["peak_memory_mb"]),
            "commit": commit,
            "dirty": dirty,
            "device": tags["device"],
            "threads": tags["threads"],
            "params": told,
            "inputs": read,
            "metrics": run.final,
        },
    )


def is_first() -> bool:
    """Whether this process is alone, or the one that tells of several that train together."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


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
    """Where runs go: `MLFLOW_TRACKING_URI`, else the database at the top of the repository.

    Raises:
        ValueError: it is no address, which is not repeated, as it may hold a password.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        _ = parts.port  # a password with a slash in it would be one
        if parts.scheme.partition("+")[0] in SCHEMES:
            return address
    raise ValueError(
        "MLFLOW_TRACKING_URI is no address of a server (http://127.0.0.1:5000, https://...) or "
        f"database ({', '.join(SCHEMES[2:])}). In a name or password, characters such as / and @ "
        "are written as %2F and %40."
    )


def shown_address(address: str) -> str:
    """An address as it may be told to others: no password, and no path of this machine."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return parts.scheme
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}"


def experiment_id(root: Path) -> str:
    """What the tracking store calls the experiment of all runs; made where there is none."""
    with FileLock(root / LOCK):
        return _connect(root)[1]


def database_schemas() -> tuple[str, set[str]]:
    """The schema of this MLflow's database, and those of it and all MLflows before."""
    # Asking MLflow would import it, which takes seconds.
    package = importlib.util.find_spec("mlflow")
    assert package
    files = Path(str(package.origin)).parent.glob("store/db_migrations/versions/*.py")
    told = [re.findall(r'^(\w*)revision = "(\w+)"', file.read_text(), re.M) for file in files]
    known, replaced = ({name for of in told for k, name in of if k == key} for key in ("", "down_"))
    [newest] = known - replaced
    return newest, known


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

    def __init__(self, client: Any, experiment_id: str, root: Path, journal: _Journal) -> None:
        self.stage = journal.stage
        self.kind, self.name = journal.parent["kind"], journal.parent["name"]
        self.tags, self.told = journal.parent["tags"], journal.parent["told"]
        self._runs = root / "reports" / "runs"
        self._client, self._experiment_id = client, experiment_id

    def id(self) -> str:
        """What MLflow calls it."""
        return str(self._found().info.run_id)

    def begin(self, tags: Mapping[str, str]) -> tuple[str, str]:
        """Open the stage's run, with these tags, under the parent; the ids of both.

        One of the same work that did not end well is gone on with, as a training resumes from its
        checkpoint, whatever else was changed or committed meanwhile.
        """
        from mlflow.entities import RunTag
        from mlflow.exceptions import MlflowException

        parent = self._found()
        parent_id = str(parent.info.run_id)
        tags = {**tags, "mlflow.parentRunId": parent_id}
        self._client.update_run(parent_id, status="RUNNING")
        if (cached := self._tag(self.stage)) in parent.data.tags:
            self._client.delete_tag(parent_id, cached)
        if unfinished := self._children("work", tags["work"], "attributes.status != 'FINISHED'"):
            run = unfinished[0]  # DVC runs no stage of a checkout twice at once: it has ended
            run_id, before = str(run.info.run_id), run.data.tags["mlflow.parentRunId"]
            self._client.update_run(run_id, status="RUNNING")
            if "error" in run.data.tags:
                self._client.delete_tag(run_id, "error")
            self._client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])
            if before != parent_id:
                with contextlib.suppress(MlflowException):  # it may have been deleted
                    self._close(before, "KILLED")
            return run_id, parent_id
        child = self._client.create_run(self._experiment_id, run_name=self.stage, tags=tags)
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
        self._close(parent_id, status)
        return parent_id

    def _close(self, parent_id: str, status: str) -> None:
        """End a parent unless a stage of its is running."""
        running = "attributes.status = 'RUNNING'"
        if not self._children("mlflow.parentRunId", parent_id, running):
            self._client.set_terminated(parent_id, status)

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

    def _children(self, tag: str, value: str, status: str) -> list[Any]:
        """Runs of stages with such a tag and status, the newest first."""
        such = f"tags.`{tag}` = '{value}' and {status}"
        return list(self._client.search_runs([self._experiment_id], such))

    def _record(self, stage: str) -> dict[str, Any]:
        """What is known of a stage's run; nothing if it has not run, or its file is damaged."""
        try:
            record = read_json(self._runs / f"{stage}.json")
        except ValueError:
            return {}
        if not isinstance(record, dict):
            return {}
        if not record.get("run_id"):  # the server was away
            made = self._children("work", str(record.get("work")), "attributes.status = 'FINISHED'")
            if not made:
                return {}
            record["run_id"] = made[0].info.run_id
            record["parent_run_id"] = made[0].data.tags["mlflow.parentRunId"]
        return record

    @staticmethod
    def _tag(stage: str) -> str:
        return f"cached.{_place(stage)}"


def _checkout(root: Path) -> str:
    """What this checkout is known by: others may be at the same path of other machines."""
    with FileLock(root / LOCK):
        if not (root / CHECKOUT).exists():
            atomic_write(root / CHECKOUT, uuid.uuid4().hex)
        return (root / CHECKOUT).read_text()


def _state(root: Path, checkout: str, stage: str, commit: str, dirty: bool) -> dict[str, Any]:
    """What the parent of a stage's run is known by: kind, name, tags, and all of params.yaml."""
    file = root / "params.yaml"
    told = load_params(file).model_dump(mode="json") if file.is_file() else {}
    kind = "study" if stage.startswith("study") else "pipeline"
    digest = _digest(told)
    return {
        "kind": kind,
        "name": f"{kind} {commit[:8]}-{digest[:6]}{'-dirty' if dirty else ''}",
        "told": told,
        "tags": {
            "state": _digest([kind, checkout, commit, dirty, digest])[:16],
            "mlflow.source.name": "dvc repro",
            "mlflow.source.git.commit": commit,
            "dirty": str(dirty).lower(),
        },
    }


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
    # With the password in it.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # we try again ourselves
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient, MlflowException

    logging.getLogger("alembic").setLevel(logging.WARNING)
    address = tracking_address(root)
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    client = MlflowClient(tracking_uri=address)
    found = client.get_experiment_by_name(EXPERIMENT)
    if not found:
        try:
            client.create_experiment(
                EXPERIMENT,
                artifact_location=(root / "mlruns").as_uri() if local else None,
                tags={"mlflow.experimentKind": "custom_model_development"},  # as the UI lays it out
            )
        except MlflowException as error:
            # Another machine, which no lock of ours holds back, was quicker.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(EXPERIMENT)
        assert found
    if found.lifecycle_stage == "deleted":  # its name is taken until MLflow's `gc`
        client.restore_experiment(found.experiment_id)
    shown = "sqlite:///mlflow.db" if local else shown_address(address)
    return client, found.experiment_id, shown


def _rows(metrics: Mapping[str, float], step: int) -> list[tuple[str, float, int, int]]:
    """Metrics of now, as MLflow takes them."""
    now_ms, most = int(time.time() * 1000), sys.float_info.max
    # NaN passes both: what is kept for later knows no infinity, but NaN.
    return [(_key(k), min(max(float(v), -most), most), now_ms, step) for k, v in metrics.items()]


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
        raise ValueError(
            f"{path} is not there; `dvc repro` makes it, `dvc pull dvc.yaml` fetches it"
        )
    card = path / "card.json"
    if card.is_file() and (known := read_json(card).get("fingerprint")):
        return str(known)
    return fingerprint(path)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _machine() -> dict[str, str]:
    """What a number may depend on besides code and data: device, system, processor, threads."""
    device, threads = f"cpu: {os.cpu_count()} cores", os.environ.get("OMP_NUM_THREADS", "")
    if torch := sys.modules.get("torch"):
        threads = str(torch.get_num_threads())
        if torch.cuda.is_available():
            device = f"cuda: {torch.cuda.get_device_name()}"
    told = {}
    with contextlib.suppress(OSError):  # Linux alone has it
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        told = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return {
        "device": device,
        "threads": threads or str(os.cpu_count()),
        "platform": platform.platform(),
        "cpu": told.get("model name") or platform.processor() or platform.machine(),
        "cpu.flags": (told.get("flags") or told.get("Features") or "unknown")[:LONGEST],
    }


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


if __name__ == "__main__":
    deliver(repository_root())

"""A stage's run in MLflow: `track` opens it, `Run` logs to it.

Runs go to the address in `MLFLOW_TRACKING_URI`, else into `mlflow.db` and `mlruns/` at the top of
the repository.
"""

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from techloop.closure import code_fingerprint, module_file
from techloop.metric import Measurement
from techloop.rank import is_rank_zero
from techloop.tracking.address import repository_root
from techloop.tracking.outbox import RunLog, Sender, flush_outbox
from techloop.tracking.pipeline import parent_state
from techloop.tracking.provenance import (
    PeakMemory,
    checkout_id,
    digest,
    git_state,
    input_fingerprints,
    machine,
    process_start,
    versions,
)
from techloop.tracking.record import write_record
from techloop.tracking.store import flat_params, valid_key


class Run:
    """A run in progress: `track` opens and ends it."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    @property
    def id(self) -> str:
        """MLflow's id of the run; empty while the server has not been reached."""
        return self._sender.log.run_id

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment; empty while the server has not been reached."""
        return self._sender.experiment_id

    def log(self, metrics: Mapping[str, float | Measurement], step: int | None = None) -> None:
        """Log metrics.

        A measurement logs its value, and the ends of its interval and its baselines under names of
        their own (`Measurement.flat`). Values logged without `step` are copied to the parent
        run; their intervals and baselines are not. NaN stays NaN, an infinity becomes the largest
        number of its sign.

        Args:
            metrics: by name.
            step: in training, the number of loops seen.
        """
        numbers: dict[str, float] = {}
        values: dict[str, float] = {}
        for name, metric in metrics.items():
            if isinstance(metric, Measurement):
                numbers |= metric.flat()
                values[metric.metric.name] = float(metric.value)
            else:
                numbers[name] = values[name] = float(metric)
        if step is None:
            self._sender.log.headline |= values
        self._sender.add(numbers, step or 0)

    def artifacts(self, path: str | Path) -> None:
        """Copy a file, or a folder under its own name, to the run; MLflow's UI shows and plays it.

        Raises:
            ValueError: the path does not exist.
        """
        path = Path(path)
        if not path.exists():
            raise ValueError(f"{path} does not exist, so the run cannot keep a copy of it")
        self._sender.log.artifacts.append(str(path.resolve()))
        self.flush()

    def flush(self) -> None:
        """Send what is missing."""
        self._sender.flush()


class NullRun(Run):
    """The run of every process but rank 0: it logs nothing."""

    def __init__(self) -> None:
        pass

    def log(self, metrics: Mapping[str, float | Measurement], step: int | None = None) -> None:
        """Nothing."""

    def artifacts(self, path: str | Path) -> None:
        """Nothing."""


@contextmanager
def track(
    stage: str,
    params: BaseModel | Mapping[str, object],
    inputs: Sequence[str | Path] = (),
    collects: Sequence[str] = (),
) -> Iterator[Run]:
    """Record the block as an MLflow run named after the stage, a child of the parent run.

    At the start it logs parameters (nested keys joined by dots), commit, fingerprints of inputs,
    library versions and device; at the end wall time and peak memory. After an error the run is
    FAILED, after an interruption KILLED, and `reports/runs/<stage>.json` is not written.

    When several processes train together, only rank 0 opens a run.

    Args:
        stage: name of the stage, with its cell: `train_audio_vae@kl`.
        params: what the stage was given; a section of params.yaml.
        inputs: folders or files that it reads.
        collects: stages it summarises. The parent run also gets this stage's files, and the run and
            metrics of those stages that came from DVC's cache.

    Raises:
        ValueError: the current folder is outside a repository, or an input is missing.
    """
    if not is_rank_zero():
        yield NullRun()
        return
    start = time.monotonic()
    root = repository_root()
    settings = params.model_dump(mode="json") if isinstance(params, BaseModel) else dict(params)
    fingerprints = input_fingerprints(root, inputs)
    commit, dirty = git_state(root)
    checkout = checkout_id(root)
    script = f"stages.{stage.partition('@')[0]}"
    code = code_fingerprint(script) if module_file(script) else ""
    resume_key = digest([checkout, stage, settings, fingerprints, code])[:16]
    tags = {
        "resume_key": resume_key,
        "mlflow.source.name": stage,
        "mlflow.source.git.commit": commit,
        "dirty": str(dirty).lower(),
        **machine(),
        **{f"version.{library}": version for library, version in versions().items()},
        **{f"input.{name}": value for name, value in fingerprints.items()},
    }
    log = RunLog(
        stage=stage,
        parent=parent_state(root, checkout, stage, commit, dirty),
        tags={valid_key(name): value for name, value in tags.items()},
        params=flat_params(settings),
        collects=list(collects),
        host=platform.node(),
        pid=os.getpid(),
        pid_started=process_start(os.getpid()),
    )
    sender = Sender(root, log)
    run = Run(sender)
    with PeakMemory() as peak:
        flush_outbox(root)  # first, as one of its runs may be the one to reopen
        run.flush()
        try:
            yield run
            cost = {"wall_s": time.monotonic() - start, "peak_memory_mb": peak.megabytes()}
            run.log(cost)
        except BaseException as error:
            status = "FAILED" if isinstance(error, Exception) else "KILLED"
            with contextlib.suppress(Exception):  # it would hide the error above
                sender.end(status, f"{type(error).__name__}: {error}")
            raise
        sender.end("FINISHED")
    write_record(
        root,
        {
            "stage": stage,
            "run_id": run.id,
            "resume_key": resume_key,
            "parent_run_id": sender.parent_id,
            "experiment_id": sender.experiment_id,
            "tracking_uri": sender.address,
            "wall_s": round(cost["wall_s"], 2),
            "peak_memory_mb": round(cost["peak_memory_mb"]),
            "commit": commit,
            "dirty": dirty,
            "device": tags["device"],
            "threads": tags["threads"],
            "params": settings,
            "inputs": fingerprints,
            "metrics": dict(log.headline),
        },
    )

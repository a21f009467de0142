"""The flow `techloop`, a task per stage. Only this module imports prefect.

`python -m stages.flow` runs it in this process. A deployment names it
`techloop/pipeline/flow.py:run_pipeline`, and a worker runs it in its checkout of the repository.
"""

import io
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed

from techloop.pipeline.plan import DVC, stages_to_run
from techloop.pipeline.slots import SlotPool
from techloop.pipeline.status import VARIABLE, Status, is_transient, read_status
from techloop.tracking.record import RunRecord, read_record

TRIES = 3
RETRY_DELAY_S = 10
PROGRESS_EVERY_S = 30.0
TRANSIENT = "Interrupted"  # the state of a failed task that is tried again


def should_retry(_task: object, _run: object, state: "State[object]") -> bool:
    """Whether a failed task is tried again."""
    return state.name == TRANSIENT


@task(
    cache_policy=NO_CACHE,
    retries=TRIES - 1,
    retry_delay_seconds=RETRY_DELAY_S,
    retry_condition_fn=should_retry,
)
def reproduce(stage: str, gpu: bool, slots: SlotPool) -> "State[None]":
    """Have DVC bring one stage up to date; a stage that fails is a failed task."""
    with slots.slot(gpu) as environment:
        exit_code, status = _repro(stage, slots, environment)
    if exit_code:
        again = is_transient(status, exit_code) and not slots.is_stopped
        return Failed(
            name=TRANSIENT if again else "Failed",
            message=f"`dvc repro --single-item {stage}` ended with {exit_code}",
        )
    if status is None:
        get_run_logger().info("Up to date, or taken from DVC's cache")
    if record := read_record(Path(), stage):
        _show(record)
    return Completed()


@flow(name="techloop")
def run_pipeline(slots: int | None = None) -> "State[None]":
    """Every stage that is not up to date, side by side where the graph allows.

    Args:
        slots: stages that may compute with a model at once; by default one per GPU, or one.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # stages/flow.py blocks it
    pool, futures = SlotPool(slots), dict[str, PrefectFuture["State[None]"]]()
    try:
        for stage, (after, gpu) in stages_to_run().items():
            futures[stage] = reproduce.with_options(name=stage, task_run_name=stage).submit(
                stage, gpu, pool, wait_for=[futures[name] for name in after], return_state=False
            )
        wait(list(futures.values()))
    except BaseException:  # Ctrl-C, or a cancelled run
        pool.stop()
        raise
    failed = [stage for stage, future in futures.items() if not future.state.is_completed()]
    return Failed(message=f"not completed: {', '.join(failed)}") if failed else Completed()


def _repro(stage: str, slots: SlotPool, environment: dict[str, str]) -> tuple[int, Status | None]:
    """Run `dvc repro` of one stage; its exit code, and what the stage wrote.

    Each line of output goes into the task's log at once. A progress bar, which overwrites its line,
    is logged only twice per minute.
    """
    command = [*DVC, "repro", "--single-item", stage]
    # Stages are started as `python`, which must be this interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    log, shown_at = get_run_logger(), 0.0
    with tempfile.TemporaryDirectory(prefix="techloop-flow-") as folder:
        file = Path(folder, "status.json")
        environment = os.environ | {"PATH": path, VARIABLE: str(file)} | environment
        with slots.process(command, environment) as process:
            assert process.stdout
            for line in io.TextIOWrapper(process.stdout, errors="replace", newline=""):
                text, is_progress = line.strip(), line.endswith("\r")
                if not text or (is_progress and time.monotonic() - shown_at < PROGRESS_EVERY_S):
                    continue
                if is_progress:
                    shown_at = time.monotonic()
                log.info(text)
        return process.returncode, read_status(file)


def _show(run: RunRecord) -> None:
    """The stage's MLflow run as an artifact of the task, and a link to the report's page."""
    name, address = f"`{run['run_id']}`", run["tracking_uri"]
    if not run["run_id"]:
        name = "that waits for its server"
    elif address.startswith("http"):
        name = f"[{name}]({address}/#/experiments/{run['experiment_id']}/runs/{run['run_id']})"
    lines = [
        f"MLflow run {name} at {address}, {run['wall_s']:.0f} s, {run['peak_memory_mb']} MB, "
        f"commit `{run['commit'][:8]}`"
    ]
    if metrics := {k: v for k, v in run["metrics"].items() if v is not None}:
        lines += ["", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    stage = run["stage"]
    key = re.sub("[^a-z0-9]+", "-", stage.lower())
    create_markdown_artifact("\n".join(lines), key=key, description=f"the run of {stage}")
    if stage == "report":
        create_link_artifact(Path("reports/index.html").resolve().as_uri(), "the report", "page")

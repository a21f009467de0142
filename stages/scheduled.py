"""What Prefect runs: the flow `techloop`, a task a stage. The only import of prefect.

`python -m stages.flow` calls it here and now; a deployment names it
`stages/scheduled.py:techloop`, for a worker to run in its checkout of the repository.
"""

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.states import Completed, Failed

from stages.flow import settled, stages_to_run
from techloop.artifacts import read_json

TRIES = 3
WAIT_S = 10
BAR_EVERY_S = 30.0
PASSING = "Interrupted"  # what a failure is called that may not come again
# DVC's words: how a command ended, and that another process holds what this one needs.
ENDED = re.compile(r"failed to run: .*, exited with (-?\d+)")
LOCKED = ("Unable to acquire lock", "it is being blocked by")


class Machine:
    """What the stages of a flow share: slots for those with a model, and an end for all.

    A slot has GPUs where there are some; with more slots than there are GPUs for, several share.
    """

    def __init__(self, slots: int | None) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A shell has what it starts in the background ignore it, and all that this starts too.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        gpus = gpus_of_slots()
        self.dvc = threading.Lock()
        self._free: Queue[str | None] = Queue()
        for i in range(slots or len(gpus) or 1):
            self._free.put(gpus[i % len(gpus)] if gpus else None)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    @contextmanager
    def slot(self, needed: bool) -> Iterator[dict[str, str]]:
        """The environment of a stage, once there is room for it."""
        if not needed:
            yield {}
            return
        gpu = self._free.get()
        try:
            yield {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            self._free.put(gpu)

    @contextmanager
    def process(self, command: list[str], environment: dict[str, str]) -> Iterator[Any]:
        """A process that `stop` reaches, with all that it starts."""
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            self._running.add(process)
            if self._stopped:
                self.stop()
            yield process
        self._running.discard(process)

    def stop(self) -> None:
        """Interrupt what runs, and what is yet to start, as Ctrl-C would: trainings can resume."""
        self._stopped = True
        for process in tuple(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)


def gpus_of_slots() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` is to be in one slot after the other: no GPU is in two.

    One each, or so many as `TECHLOOP_DEVICES` has a training use together.
    """
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        gpus = [gpu for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    else:
        import torch

        gpus = [str(i) for i in range(torch.cuda.device_count())]
    together = os.environ.get("TECHLOOP_DEVICES", "")
    n = max(1, int(together)) if together.isdecimal() else 1
    return [",".join(gpus[i : i + n]) for i in range(0, len(gpus) - n + 1, n)]


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed task is worth another try."""
    return bool(state.name == PASSING)


@task(
    cache_policy=NO_CACHE,
    retries=TRIES - 1,
    retry_delay_seconds=WAIT_S,
    retry_condition_fn=may_pass,
)
def reproduce(stage: str, gpu: bool, machine: Machine) -> Any:
    """Have DVC make one stage's outputs; a stage that fails is a failed task, not a defect."""
    with machine.dvc:
        done = settled(stage)
    if done:
        get_run_logger().info("Up to date, or taken from DVC's cache")
    else:
        with machine.slot(gpu) as device:
            code, said = _run(stage, machine, device)
        if code:
            message = f"`dvc repro --single-item {stage}` ended with {code}"
            return Failed(name=PASSING if is_passing(code, said) else "Failed", message=message)
    _tell(stage)
    return Completed()


@flow(name="techloop")
def techloop(slots: int | None = None) -> Any:
    """Every stage that is not up to date, side by side where the graph allows.

    Args:
        slots: stages that may compute with a model at once; by default one a GPU, or one.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see main of stages/flow.py
    machine, ends = Machine(slots), dict[str, Any]()
    try:
        for stage, (after, gpu) in stages_to_run().items():
            ends[stage] = reproduce.with_options(name=stage, task_run_name=stage).submit(
                stage, gpu, machine, wait_for=[ends[n] for n in after], return_state=False
            )
        wait(list(ends.values()))
    except BaseException:  # Ctrl-C, or a cancelled run
        machine.stop()
        raise
    left = [stage for stage, end in ends.items() if not end.state.is_completed()]
    return Failed(message=f"not completed: {', '.join(left)}") if left else Completed()


def is_passing(code: int, said: str) -> bool:
    """Whether a stage that ended so may pass on a second try.

    That is: it says so (`os.EX_TEMPFAIL`, see `run_stage`), it was killed (out of memory beside
    another, or pre-empted) and not by Ctrl-C, or another DVC held a lock.
    """
    ends = [code, *(int(found) for found in ENDED.findall(said))]
    # A shell says 128 + the signal's number.
    signals = [-end if end < 0 else end - 128 for end in ends if end < 0 or 128 < end < 192]
    if signals:
        return signal.SIGINT not in signals
    return os.EX_TEMPFAIL in ends or any(words in said for words in LOCKED)


def _run(stage: str, machine: Machine, device: dict[str, str]) -> tuple[int, str]:
    """Run a stage, each line into the task's log as it comes; the exit code and all it said.

    Of a progress bar, which overwrites its line, a state twice a minute.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    # Stages are started as `python`: the one that runs this, even where it is not on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    log, said, shown = get_run_logger(), [], 0.0
    with machine.process(command, os.environ | {"PATH": path} | device) as process:
        for line in io.TextIOWrapper(process.stdout, errors="replace", newline=""):
            text, bar = line.strip(), line.endswith("\r")
            if not text or (bar and time.monotonic() - shown < BAR_EVERY_S):
                continue
            if bar:
                shown = time.monotonic()
            else:
                said.append(text)
            log.info(text)
    return process.returncode, "\n".join(said)


def _tell(stage: str) -> None:
    """The stage's MLflow run as an artifact of the task, and the page's address if it made one."""
    file = Path("reports/runs") / f"{stage}.json"
    if not file.is_file():
        return
    run = read_json(file)
    name, place = f"`{run['run_id']}`", run["tracking_uri"]
    if not run["run_id"]:
        name = "that waits for its server"
    elif place.startswith("http"):
        name = f"[{name}]({place}/#/experiments/{run['experiment_id']}/runs/{run['run_id']})"
    told = [
        f"MLflow run {name} at {place}, {run['wall_s']:.0f} s, {run['peak_memory_mb']} MB, "
        f"commit `{run['commit'][:8]}`"
    ]
    if metrics := {k: v for k, v in run["metrics"].items() if v is not None}:
        told += ["", "| metric | value |", "|---|---|"]
        told += [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    key = re.sub("[^a-z0-9]+", "-", stage.lower())
    create_markdown_artifact("\n".join(told), key=key, description=f"what made {stage}")
    if stage == "report":
        create_link_artifact(Path("reports/index.html").resolve().as_uri(), "the report", "page")

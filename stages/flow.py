"""The pipeline as a Prefect flow: `python -m stages.flow`. DVC's own graph says what to do.

A task a stage, run by `dvc repro --single-item`. What is up to date becomes no task, and when
everything is, Prefect is not even started. No server has to be: the flow brings a temporary one,
unless `PREFECT_API_URL` names another.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any


def stages_to_run(root: str | Path = ".") -> dict[str, list[str]]:
    """The stages that are not up to date and those after them, in an order they can run in.

    Each with the stages it waits for. A stage after a changed one may turn out unchanged once its
    turn comes; DVC then skips it.

    Raises:
        ValueError: `root` is in no DVC repository, or its dvc.yaml is wrong.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            reads = {
                stage.addressing: sorted(upstream.addressing for upstream in reads)
                for stage, reads in repo.index.graph.adjacency()
                if stage.path_in_repo == "dvc.yaml"  # the study is asked for by itself
            }
            changed = set(repo.status())
    except DvcException as error:
        raise ValueError(f"DVC cannot read the pipeline: {error}") from None
    plan: dict[str, list[str]] = {}
    for stage in TopologicalSorter(dict(sorted(reads.items()))).static_order():
        upstream = sorted(plan.keys() & set(reads[stage]))
        if stage in changed or upstream:
            plan[stage] = upstream
    return plan


def reproduce(stage: str) -> Any:
    """Run one stage through DVC; to Prefect a stage that fails is a failed task, not a defect."""
    from prefect.states import Completed, Failed

    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage]
    # Stages are started as `python`: the one that runs this, even where it is not on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    code = subprocess.run(command, check=False, env=os.environ | {"PATH": path}).returncode
    if code:
        return Failed(message=f"`dvc repro --single-item {stage}` ended with {code}")
    return Completed()


def run(stages: Mapping[str, Sequence[str]], root: str | Path = ".") -> list[str]:
    """Run stages as a Prefect flow, one at a time; those that did not complete are returned.

    Args:
        stages: what `stages_to_run` gives.
        root: the repository's top; Prefect keeps its things in its `.prefect/`.
    """
    for name, value in {
        "PREFECT_HOME": str(Path(root).resolve() / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)  # before Prefect is imported, which reads them then
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.futures import wait
    from prefect.states import Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    ends: dict[str, Any] = {}

    one_at_a_time: Any = ThreadPoolTaskRunner(max_workers=1)

    @flow(name="techloop", task_runner=one_at_a_time)
    def techloop() -> Any:
        for stage, upstream in stages.items():
            one: Any = task(name=stage, task_run_name=stage, cache_policy=NO_CACHE)(reproduce)
            ends[stage] = one.submit(stage, wait_for=[ends[name] for name in upstream])
        wait(list(ends.values()))
        left = [stage for stage, end in ends.items() if not end.state.is_completed()]
        return Failed(message=f"not completed: {', '.join(left)}") if left else Completed()

    techloop(return_state=True)
    return [stage for stage, end in ends.items() if not end.state.is_completed()]


def main() -> None:
    """Run what is not up to date."""
    parser = argparse.ArgumentParser(prog="python -m stages.flow", description=__doc__)
    parser.parse_args()
    try:
        stages = stages_to_run()
    except ValueError as error:
        sys.exit(f"flow: {error}")
    if not stages:
        print("Data and pipelines are up to date.")
    elif left := run(stages):
        sys.exit(f"flow: not completed: {', '.join(left)}. The first failure's output is above.")


if __name__ == "__main__":
    main()

"""The pipeline as a Prefect flow: `python -m stages.flow`. DVC's own graph says what to do.

A task a stage, run by `dvc repro --single-item`; stages whose inputs are ready run side by side.
Those that compute with a model (`meta: {gpu: true}` in dvc.yaml) wait for one of the slots, each
with a GPU of its own where there are any; the others need none. What is up to date becomes no
task, what DVC has in its cache no process, and when everything is up to date, Prefect is not even
started. No server has to be: the flow brings a temporary one, unless `PREFECT_API_URL` names
another. A stage that was killed, or that says so, is tried again; one that fails fails those that
read what it writes, and no other.
"""

import argparse
import logging
import os
import signal
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from stages import leave_when_told


class Planned(NamedTuple):
    """A stage to run: those it waits for, and whether it takes a slot."""

    after: list[str]
    gpu: bool


def stages_to_run(root: str | Path = ".") -> dict[str, Planned]:
    """The stages that are not up to date and those after them, in an order they can run in.

    A stage after a changed one may turn out to be up to date once its turn comes (see `settled`).
    The study and the notebook, pipelines of their own, are asked for by themselves.

    Raises:
        ValueError: `root` is in no DVC repository, or its dvc.yaml is wrong.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.index import Index

    try:
        with Repo(str(root)) as repo, repo.lock:
            graph = Index.from_file(repo, str(Path(root) / "dvc.yaml")).graph
            reads = {stage.name: {s.name for s in before} for stage, before in graph.adjacency()}
            gpu = {stage.name: bool((stage.meta or {}).get("gpu")) for stage in graph}
            changed = {stage.name for stage in graph if stage.changed()}
    except DvcException as error:
        raise ValueError(f"DVC cannot read the pipeline: {error}") from None
    plan: dict[str, Planned] = {}
    for stage in TopologicalSorter(dict(sorted(reads.items()))).static_order():
        after = sorted(plan.keys() & reads[stage])
        if stage in changed or after:
            plan[stage] = Planned(after, gpu[stage])
    return plan


def settled(stage: str) -> bool:
    """Whether a stage need not run: it is up to date, or DVC's run cache has just made it so.

    It is what `dvc repro` does before it runs a command, without a process for it. DVC is not made
    for threads: one call at a time.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # the task says what matters
    try:
        with Repo(_wait_for_lock=True) as repo, repo.lock:
            found = repo.stage.load_one(name=stage)
            if not found.changed():
                return True
            if found.changed_stage() or found.changed_deps():
                found.save_deps()
                for out in found.outs:  # what dvc.lock knows is what the old inputs led to
                    out.hash_info = HashInfo()
            repo.stage_cache.restore(found, dry=True)
            found.remove_outs()
            repo.stage_cache.restore(found)
            found.save()
            found.commit()
            found.dump(update_pipeline=False)
            return True
    except DvcException:  # not cached; or whatever is wrong, `dvc repro` will say it
        return False


def main() -> None:
    """Run what is not up to date."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.flow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--slots",
        type=int,
        metavar="N",
        help="stages that may compute with a model at once (by default one a GPU, or one)",
    )
    slots = parser.parse_args().slots
    if slots is not None and slots < 1:
        parser.error(f"--slots {slots}: at least one stage at a time has to run")
    try:
        stages = stages_to_run()
    except ValueError as error:
        sys.exit(f"flow: {error}")
    if not stages:
        print("Data and pipelines are up to date.")
        return
    for name, value in {
        "PREFECT_HOME": str(Path.cwd() / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "DO_NOT_TRACK": "1",
    }.items():
        os.environ.setdefault(name, value)  # before Prefect is imported, which reads them then
    from stages.scheduled import techloop

    # Of Ctrl-C a temporary server must not hear, or nobody is left to be told; the flow does again.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    leave_when_told()  # a temporary server ends with it
    try:
        end: Any = techloop(slots, return_state=True)
    except KeyboardInterrupt:
        sys.exit("flow: interrupted. Run it again to go on; what was trained is not lost.")
    if not end.is_completed():
        sys.exit(f"flow: {end.message}. The first failure's output is above.")


if __name__ == "__main__":
    main()

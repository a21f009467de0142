"""Which stages to run: DVC's graph, and what DVC says is not up to date."""

import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

# Waits while another DVC holds the repository's lock.
DVC = (sys.executable, "-m", "dvc", "--wait-for-lock")


class Planned(NamedTuple):
    """A stage to run: the stages it waits for, and whether it needs a slot."""

    after: list[str]
    gpu: bool


def stages_to_run(root: str | Path = ".") -> dict[str, Planned]:
    """The stages that are not up to date and those after them, in an order they can run in.

    A stage after a changed one may turn out to be up to date once its turn comes. The study and the
    notebook are pipelines of their own and left out.

    Args:
        root: the repository's top.

    Raises:
        ValueError: `root` is outside a DVC repository, or its dvc.yaml is wrong.
    """
    stale = stale_stages(root)
    if not stale:
        return {}
    reads, gpu = _graph(Path(root))
    plan: dict[str, Planned] = {}
    for stage in TopologicalSorter(dict(sorted(reads.items()))).static_order():
        after = sorted(plan.keys() & reads[stage])
        if stage in stale or after:
            plan[stage] = Planned(after, gpu[stage])
    return plan


def stale_stages(root: str | Path = ".") -> set[str]:
    """The stages of dvc.yaml that DVC does not find up to date.

    Raises:
        ValueError: see `stages_to_run`.
    """
    command = [*DVC, "status", "--json", "dvc.yaml"]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ValueError(f"DVC cannot read the pipeline: {answer.stderr.strip()}")
    return set(json.loads(answer.stdout))


def _graph(root: Path) -> tuple[dict[str, set[str]], dict[str, bool]]:
    """The stages whose outputs each stage reads, and whether its `meta` says `gpu: true`.

    The graph is not part of DVC's public API, so the requirements bound DVC's version.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.index import Index

    try:
        with Repo(str(root)) as repo:
            graph = Index.from_file(repo, str(root / "dvc.yaml")).graph
            reads = {stage.name: {s.name for s in before} for stage, before in graph.adjacency()}
            return reads, {stage.name: bool((stage.meta or {}).get("gpu")) for stage in graph}
    except DvcException as error:
        raise ValueError(f"DVC cannot read the pipeline: {error}") from None

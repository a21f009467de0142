"""The MLflow runs behind what the page shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from techloop.artifacts import read_json
from techloop.reporting.cells import STAGES, CellNames


class RunRecord(TypedDict):
    """What `reports/runs/<stage>.json` says of a run, as far as the page shows it."""

    stage: str
    run_id: str
    commit: str
    dirty: bool
    device: str
    wall_s: float
    peak_memory_mb: float
    params: Mapping[str, object]
    inputs: Mapping[str, str]


def stages_before(names: CellNames) -> list[str]:
    """The stages of the pipeline that come before the report, each with its cell."""
    return ["prepare_loops"] + [
        f"{stage}@{name}" for stage, (vae, _) in STAGES.items() for name in names[vae]
    ]


def read_runs(folder: Path, stages: Sequence[str]) -> list[RunRecord]:
    """The runs that produced the outputs of these stages, in their order."""
    paths = [folder / f"{stage}.json" for stage in stages]
    return [read_json(path) for path in paths if path.is_file()]

"""The MLflow runs behind what the page shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from techloop.artifacts import read_json
from techloop.reporting.cells import STAGES, CellNames

if TYPE_CHECKING:
    from techloop.tracking.record import RunRecord


def stages_before(names: CellNames) -> list[str]:
    """The stages of the pipeline that come before the report, each with its cell."""
    return ["prepare_loops"] + [
        f"{stage}@{name}" for stage, (kind, _) in STAGES.items() for name in names[kind]
    ]


def read_runs(folder: Path, stages: Sequence[str]) -> "list[RunRecord]":
    """The runs that produced the outputs of these stages, in their order."""
    paths = [folder / f"{stage}.json" for stage in stages]
    return [read_json(path) for path in paths if path.is_file()]

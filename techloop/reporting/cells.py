"""What the stages left for each of their cells: metrics, histories of training, dimensions."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from techloop.artifacts import read_json
from techloop.metric import Measurement, Metric, read_metrics

Kind = Literal["audio", "decoder", "latent"]
CellNames = Mapping[Kind, Sequence[str]]  # the cells in params.yaml of each model, in their order


class StageCells(NamedTuple):
    """Which cells a stage runs for, and the folder of what the page shows of them, if anything."""

    kind: Kind
    folder: str | None


STAGES = {  # the stages that have cells, in their order
    "train_audio_vae": StageCells("audio", "data/audio_vae"),
    "finetune_decoder": StageCells("decoder", "data/decoder"),
    "extract_latents": StageCells("audio", None),
    "train_latent_vae": StageCells("latent", "data/latent_vae"),
    "assemble_instrument": StageCells("latent", None),
    "evaluate_reconstruction": StageCells("audio", "reports/reconstruction"),
    "evaluate_decoder": StageCells("decoder", "reports/decoder"),
    "evaluate_descriptors": StageCells("audio", "reports/descriptors"),
    "evaluate_prior": StageCells("audio", "reports/prior"),
    "evaluate_smoothness": StageCells("latent", "reports/smoothness"),
    "evaluate_generation": StageCells("latent", "reports/generation"),
    "evaluate_controls": StageCells("latent", "reports/controls"),
}


class History(NamedTuple):
    """A training's `history.csv`: what its columns of metrics mean, and all rows as text."""

    columns: Mapping[str, Metric]
    rows: Sequence[Mapping[str, str]]


class Dimensions(NamedTuple):
    """One number for each latent dimension."""

    label: str
    unit: str
    values: Sequence[float]


@dataclass(frozen=True)
class Cell:
    """What one stage left for one cell.

    Attributes:
        name: of the cell.
        folder: the stage's output for it.
        metrics: by name.
        history: of a training.
        dimensions: of a training that measures each latent dimension.
    """

    name: str
    folder: Path
    metrics: Mapping[str, Measurement]
    history: History | None = None
    dimensions: Dimensions | None = None


Stages = Mapping[str, Sequence[Cell]]  # finished cells by stage


def read_stages(reports: Path, data: Path, names: CellNames) -> dict[str, list[Cell]]:
    """The finished cells of every stage that the page shows, in the order of their names.

    Folders of other cells are not read.

    Raises:
        ValueError: a file is damaged, or of an older version.
    """
    roots = {"data": data, "reports": reports}
    stages = {}
    for stage, (kind, place) in STAGES.items():
        if place:
            root, folder = place.split("/")
            stages[stage] = _read_cells(roots[root] / folder, names[kind])
    return stages


def missing_stages(stages: Stages, names: CellNames) -> dict[str, list[str]]:
    """By stage, what has not run: some of its cells, or the stage where no cell has."""
    return {stage: _missing(stage, cells, names) for stage, cells in stages.items()}


def _missing(stage: str, cells: Sequence[Cell], names: CellNames) -> list[str]:
    finished = {cell.name for cell in cells}
    wanted = names[STAGES[stage].kind]
    if wanted and not finished:
        return [stage]
    return [f"{stage}@{name}" for name in wanted if name not in finished]


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV file as a list of its rows."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _read_cells(folder: Path, names: Sequence[str]) -> list[Cell]:
    """The finished ones of these cells of a stage."""
    return [
        Cell(
            path.name,
            path,
            read_metrics(path / "metrics.json"),
            _read_history(path),
            _read_dimensions(path / "dimensions.json"),
        )
        for path in (folder / name for name in names)
        if (path / "metrics.json").is_file()
    ]


def _read_history(folder: Path) -> History | None:
    """The history of a training; None where the folder has none."""
    if not (folder / "history.csv").is_file():
        return None
    columns = {
        name: Metric(name, entry["label"], entry["unit"], entry["better"])
        for name, entry in read_json(folder / "history.json").items()
    }
    return History(columns, read_rows(folder / "history.csv"))


def _read_dimensions(path: Path) -> Dimensions | None:
    """Values of the latent dimensions; None where the file is not there."""
    if not path.is_file():
        return None
    content = read_json(path)
    values = [0.0 if value is None else float(value) for value in content["values"]]
    return Dimensions(content["metric"]["label"], content["metric"]["unit"], values)

"""The cells of the latent VAE side by side: a table, and charts over the points per loop."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from techloop.artifacts import read_json
from techloop.evaluation.baselines import BASELINES
from techloop.metric import Measurement, Metric
from techloop.reporting.cells import Cell, Stages
from techloop.reporting.charts import Chart, ChartGroup, LegendEntry, Line, line_chart
from techloop.reporting.metric_table import best_value
from techloop.reporting.numbers import format_number

# Metrics that tell cells of the latent VAE apart, and the stage that measures each.
STUDY = {
    "rate_nats_per_loop": "train_latent_vae",
    "decoded_log_distance": "train_latent_vae",
    "active_units": "train_latent_vae",
    "perceptual_path_ratio": "evaluate_smoothness",
    "midpoint_nearest_ratio": "evaluate_smoothness",
    "coverage": "evaluate_generation",
    "diversity_ratio": "evaluate_generation",
    "frechet_log_mel": "evaluate_generation",
    "kernel_log_mel": "evaluate_generation",
}
# Those of them that are drawn over the points per loop, and the baselines drawn behind them.
DRAWN: Mapping[str, Sequence[str]] = {
    "perceptual_path_ratio": ("crossfade", "audio_vae"),
    "midpoint_nearest_ratio": ("crossfade",),
    "coverage": ("real",),
    "rate_nats_per_loop": (),
    "decoded_log_distance": (),
}


class CellRow(NamedTuple):
    """A cell of the latent VAE: what was trained, and its value of each metric (or NaN)."""

    name: str
    regulariser: str
    objective: str
    length: int
    values: Mapping[str, float]


class Column(NamedTuple):
    """A metric of the table and its best value, if one is best."""

    metric: Metric
    best: float | None


class Comparison(NamedTuple):
    """A table, sortable by column, and charts."""

    columns: Sequence[Column]
    rows: Sequence[CellRow]
    charts: ChartGroup


def latent_comparison(stages: Stages) -> Comparison:
    """Compare the trained cells of the latent VAE by the metrics of `STUDY`.

    A metric that no cell has a finite value of is left out.

    Raises:
        ValueError: a stage that `STUDY` names has run and did not measure the metric or its
            baselines.
    """
    measured = {name: _measured(name, stages[stage]) for name, stage in STUDY.items()}
    rows = [
        CellRow(
            cell.name,
            *_trained_as(cell.folder),
            {
                name: by_cell[cell.name].value if cell.name in by_cell else math.nan
                for name, by_cell in measured.items()
            },
        )
        for cell in stages["train_latent_vae"]
    ]
    columns = {}
    for name, by_cell in measured.items():
        values = [row.values[name] for row in rows]
        if any(map(math.isfinite, values)):
            metric = next(iter(by_cell.values())).metric
            columns[name] = Column(metric, best_value(values, metric.better))
    legend = _legend(rows)
    charts = [
        _over_lengths(columns[name].metric, rows, legend, list(measured[name].values()))
        for name in DRAWN
        if name in columns
    ]
    return Comparison(list(columns.values()), rows, ChartGroup(list(legend.values()), charts))


def _measured(name: str, cells: Sequence[Cell]) -> dict[str, Measurement]:
    """A metric's measurement in each of these cells, by the cell's name."""
    measured = {}
    for cell in cells:
        measurement = cell.metrics.get(name)
        if not measurement or not set(DRAWN.get(name, ())) <= measurement.baselines.keys():
            raise ValueError(
                f"{cell.folder / 'metrics.json'} lacks metric {name} or its baselines "
                f"{list(DRAWN.get(name, ()))}, which the report compares: the file is of another "
                "version of techloop. `dvc repro` makes it anew."
            )
        measured[cell.name] = measurement
    return measured


def _trained_as(folder: Path) -> tuple[str, str, int]:
    """Regulariser, objective and points per loop of a latent VAE."""
    config = read_json(folder / "config.json")
    if "cell" not in config:
        raise ValueError(
            f"{folder / 'config.json'} lacks `cell`, which says what was trained: it is of an "
            "older version. `dvc repro` makes the folder anew."
        )
    cell = config["cell"]
    return cell["regulariser"], cell["objective"], cell["length"]


def _legend(rows: Sequence[CellRow]) -> dict[tuple[str, str], LegendEntry]:
    """A look for each regulariser and objective: dashes and colours."""
    regularisers = list(dict.fromkeys(row.regulariser for row in rows))
    objectives = list(dict.fromkeys(row.objective for row in rows))
    return {
        (r, o): LegendEntry(f"{r}, {o}", objectives.index(o), regularisers.index(r))
        for r, o in sorted({(row.regulariser, row.objective) for row in rows})
    }


def _over_lengths(
    metric: Metric,
    rows: Sequence[CellRow],
    legend: Mapping[tuple[str, str], LegendEntry],
    measured: Sequence[Measurement],
) -> Chart:
    """One metric over the points per loop, a line per regulariser and objective; baselines."""
    lines = []
    for kind, (name, colour, dash) in legend.items():
        points = sorted(
            (float(row.length), row.values[metric.name])
            for row in rows
            if (row.regulariser, row.objective) == kind and math.isfinite(row.values[metric.name])
        )
        if points:
            lines.append(Line(name, name, colour, dash, False, points))
    bands = {}
    for key in DRAWN[metric.name]:
        values = [m.baselines[key] for m in measured if math.isfinite(m.baselines[key])]
        if values:
            bands[BASELINES[key]] = min(values), max(values)
    listed = [f"{line.name}, {n:g}: {format_number(v)}" for line in lines for n, v in line.points]
    description = f"{metric.label} over the points per loop. {'; '.join(listed)}"
    steps = sorted({float(row.length) for row in rows})
    titles = ("points per loop", metric.label)
    return Chart(metric, False, line_chart(lines, description, titles, steps=steps, bands=bands))

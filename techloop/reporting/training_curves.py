"""Charts of a training: each metric over the loops seen, a line per cell and split."""

import math
from collections.abc import Sequence

from techloop.metric import Metric
from techloop.reporting.cells import Cell
from techloop.reporting.charts import ON_PAGE, Chart, ChartGroup, LegendEntry, Line, line_chart
from techloop.reporting.numbers import format_number

SPLITS = {"train": "training", "validation": "validation"}  # of a history, and in words


def training_curves(cells: Sequence[Cell]) -> ChartGroup:
    """A chart for every metric of the histories that has two finite values in some split."""
    columns: dict[str, Metric] = {}
    for cell in cells:
        columns |= cell.history.columns if cell.history else {}
    legend = [LegendEntry(cell.name, i, i // len(ON_PAGE)) for i, cell in enumerate(cells)]
    charts = [chart for metric in columns.values() if (chart := _curve(metric, cells, legend))]
    return ChartGroup(legend, charts)


def _curve(metric: Metric, cells: Sequence[Cell], looks: Sequence[LegendEntry]) -> Chart | None:
    lines = []
    for cell, (_, colour, dash) in zip(cells, looks, strict=True):
        for split, words in SPLITS.items():
            points = _points(cell, metric.name, split)
            if len(points) > 1:
                title = f"{cell.name}, {words}"
                lines.append(Line(cell.name, title, colour, dash, split == "train", points))
    if not lines:
        return None
    values = [y for line in lines for _, y in line.points]
    log = min(values) > 0 and max(values) / min(values) > 20
    ends = [f"{line.title} {format_number(line.points[-1][1])}" for line in lines]
    description = f"{metric.label} over the loops seen, at the end: {'; '.join(ends)}"
    spec = line_chart(lines, description, ("loops seen", metric.label), log=log)
    return Chart(metric, log, spec)


def _points(cell: Cell, name: str, split: str) -> list[tuple[float, float]]:
    """Loops seen and the metric's value, where it is finite."""
    rows = cell.history.rows if cell.history else ()
    points = [
        (float(row["loops_seen"]), float(row[name]))
        for row in rows
        if row["split"] == split and row.get(name)
    ]
    return [point for point in points if math.isfinite(point[1])]

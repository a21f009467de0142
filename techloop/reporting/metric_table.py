"""Metrics of several cells side by side, and below them those of their baselines."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from techloop.evaluation.baselines import BASELINES
from techloop.metric import Better, Metric
from techloop.reporting.cells import Cell


class Row(NamedTuple):
    """One metric: a value and an interval per cell (NaN and None where there is none).

    `best` is the best value, None where neither direction is better.
    """

    metric: Metric
    values: Sequence[float]
    intervals: Sequence[tuple[float, float] | None]
    best: float | None


class Baseline(NamedTuple):
    """The same metrics, measured on something to compare with."""

    title: str
    rows: Sequence[Row]


class Table(NamedTuple):
    """A stage's metrics: a column per cell, a row per metric."""

    cells: Sequence[str]
    rows: Sequence[Row]
    baselines: Sequence[Baseline]


def metric_table(cells: Sequence[Cell]) -> Table:
    """All metrics of a stage's cells, in the order in which the cells list them."""
    metrics = declared_metrics(cells)
    measured = [m for cell in cells for m in cell.metrics.values()]
    baselines = []
    for key in dict.fromkeys(key for m in measured for key in m.baselines):
        names = {m.metric.name for m in measured if key in m.baselines}
        rows = [_baseline_row(m, key, cells) for name, m in metrics.items() if name in names]
        baselines.append(Baseline(BASELINES[key], rows))
    rows = [_row(metric, cells) for metric in metrics.values()]
    return Table([cell.name for cell in cells], rows, baselines)


def declared_metrics(cells: Sequence[Cell]) -> Mapping[str, Metric]:
    """Every metric that one of the cells has, by name; what it means is what the first says."""
    metrics: dict[str, Metric] = {}
    for cell in cells:
        for name, measurement in cell.metrics.items():
            metrics.setdefault(name, measurement.metric)
    return metrics


def best_value(values: Sequence[float], better: Better) -> float | None:
    """The best of several finite values; None if all are equal or neither direction is better."""
    finite = [value for value in values if math.isfinite(value)]
    if not better or len(set(finite)) < 2:
        return None
    return max(finite) if better == "higher" else min(finite)


def _row(metric: Metric, cells: Sequence[Cell]) -> Row:
    measured = [cell.metrics.get(metric.name) for cell in cells]
    values = [m.value if m else math.nan for m in measured]
    intervals = [m.interval if m else None for m in measured]
    return Row(metric, values, intervals, best_value(values, metric.better))


def _baseline_row(metric: Metric, key: str, cells: Sequence[Cell]) -> Row:
    measured = [cell.metrics.get(metric.name) for cell in cells]
    values = [m.baselines.get(key, math.nan) if m else math.nan for m in measured]
    return Row(metric, values, [None] * len(cells), None)

"""The page's section on the dataset: histograms, tempi, and what was left out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from techloop.data.loops_folder import LoopsFolder
from techloop.data.summary import (
    Family,
    Histogram,
    Reason,
    TempoSource,
    UncertainTempo,
    families,
    histograms,
    least_sure,
    nice_step,
    reasons,
    tempo_sources,
    ticks,
)

WIDTH, HEIGHT = 270, 130  # of the bars of a histogram, in units of about a pixel
EXAMPLES = 5  # shown from the top of a long list


@dataclass(frozen=True)
class Bar:
    """A bin: its place on the page from the left end of the axis, its range and its count."""

    x: float
    width: float
    height: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class HistogramChart:
    """A histogram with its places on the page; without bars where no value is known.

    Attributes:
        bins: what is drawn.
        total: of all counts.
        bars: one per bin.
        x: marks of the axis: places, and values.
        y: the same of the counts, places from the top.
        fullest: the bar with the highest count.
    """

    bins: Histogram
    total: int = 0
    bars: Sequence[Bar] = ()
    x: Sequence[tuple[float, float]] = ()
    y: Sequence[tuple[float, float]] = ()
    fullest: Bar | None = None


@dataclass(frozen=True)
class DatasetSection:
    """What the page says of the loops besides their card.

    Attributes:
        age: a paragraph on what an older dataset lacks, or empty.
        recordings: how many have a loop in the dataset.
        reasons: why things were left out; None where that is not known.
        families: recordings with the most near-duplicates.
        more_families: how many more have some.
        tempi: how tempi were found.
        least_sure: recordings with the least certain tempi.
        histograms: of tempi, loudness and durations.
    """

    age: str
    recordings: int
    reasons: Sequence[Reason] | None
    families: Sequence[Family]
    more_families: int
    tempi: Sequence[TempoSource]
    least_sure: Sequence[UncertainTempo]
    histograms: Sequence[HistogramChart]


def dataset_section(loops: LoopsFolder) -> DatasetSection:
    """Collect what the page says of a dataset of loops."""
    index, rejected = loops.index, loops.rejected
    names = set(index["name"]) if "name" in index else set()
    duplicates = [] if rejected is None else families(rejected, names)
    return DatasetSection(
        age=loops.age(),
        recordings=len(names),
        reasons=None if rejected is None else reasons(rejected),
        families=duplicates[:EXAMPLES],
        more_families=len(duplicates) - EXAMPLES,
        tempi=tempo_sources(index),
        least_sure=least_sure(index, EXAMPLES),
        histograms=[histogram_chart(histogram) for histogram in histograms(index)],
    )


def histogram_chart(histogram: Histogram) -> HistogramChart:
    """Place the bars and axes of a histogram, `WIDTH` by `HEIGHT`."""
    edges, counts = histogram.edges, histogram.counts
    if not counts.size:
        return HistogramChart(histogram)
    step = nice_step(float(counts.max()), 4, 1.0)
    top = step * math.ceil(counts.max() / step)
    scale = np.log if histogram.log else np.asarray
    left, right = scale(edges[[0, -1]])

    def place(values: Sequence[float] | Float[np.ndarray, " _"]) -> list[float]:
        places: list[float] = (WIDTH * (scale(values) - left) / (right - left)).tolist()
        return places

    places, bars = place(edges), []
    for i, count in enumerate(counts.tolist()):
        height = max(HEIGHT * count / top, 1.0) if count else 0.0  # even a small bar is visible
        x, width = places[i] + 0.5, places[i + 1] - places[i] - 1  # with a gap of 1 between bars
        bars.append(Bar(x, width, height, float(edges[i]), float(edges[i + 1]), count))
    marks = ticks(histogram)
    rungs = [step * i for i in range(round(top / step) + 1)]
    return HistogramChart(
        histogram,
        int(counts.sum()),
        bars,
        list(zip(place(marks), marks, strict=True)),
        [(HEIGHT * (1 - rung / top), rung) for rung in rungs],
        max(bars, key=lambda bar: bar.count),
    )

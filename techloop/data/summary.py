"""Numbers about a dataset of loops: its tempi, lengths and levels, and what was left out of it."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

import numpy as np
import pandas as pd
from jaxtyping import Float

MOST_BINS = 20
MOST_TICKS = 7
# Steps within a decade of logarithmic bins, finest first. The first row is the series R'10 of
# preferred numbers (ISO 497).
DECADES = (
    ("1", "1.25", "1.6", "2", "2.5", "3.2", "4", "5", "6.3", "8"),
    ("1", "2", "5"),
    ("1",),
)


@dataclass(frozen=True)
class Histogram:
    """How often values fall into each bin.

    Attributes:
        title: what was measured.
        unit: of the values.
        of: what is counted, as `recordings`.
        edges: round numbers, one more than counts; empty where no value is known.
        counts: values from an edge up to (not including) the next.
        low, median, high: of the values; NaN where no value is known.
        without: how many have no value.
        log: the bins grow by nearly the same factor, not the same step.
    """

    title: str
    unit: str
    of: str
    edges: np.ndarray
    counts: np.ndarray
    low: float
    median: float
    high: float
    without: int
    log: bool = False


@dataclass(frozen=True)
class Reason:
    """A reason for rejection: number of rows, of files rejected as a whole, and example rows."""

    reason: str
    rows: int
    files: int
    examples: list[dict[str, str]]


@dataclass(frozen=True)
class Family:
    """A recording of the dataset, and how much was rejected as its near-duplicate.

    Attributes:
        original: name of the recording.
        rows: rejected items or loops.
        files: recordings that they are from.
        example: name of one of these.
    """

    original: str
    rows: int
    files: int
    example: str


class TempoSource(NamedTuple):
    """How some tempi were found, for how many recordings, and how certain they are (0 to 1)."""

    source: str
    recordings: int
    median_confidence: float
    lowest_confidence: float


class UncertainTempo(TypedDict):
    """A recording whose tempo is uncertain: columns of the index."""

    name: str
    bpm: float
    bpm_confidence: float
    bpm_evidence: str


def histograms(index: pd.DataFrame) -> list[Histogram]:
    """Tempo and length of the recordings, loudness of the loops; empty where a column is missing.

    A recording counts once, however many loops it has.
    """
    of_recordings = _by_recording(index, ["bpm", "duration_s"])
    loudness = _numbers(index, "loudness_lufs")
    return [
        _histogram("Tempo of the recordings", "BPM", "recordings", of_recordings["bpm"], 1),
        _histogram("Loudness before normalisation", "LUFS", "loops", loudness, 1),
        _histogram(
            "Length of the recordings", "s", "recordings", of_recordings["duration_s"], 2, log=True
        ),
    ]


def reasons(rejected: pd.DataFrame, examples: int = 3) -> list[Reason]:
    """Rejections by reason, the most frequent first, each with some example rows."""
    by_reason = []
    for reason, rows in rejected.groupby("reason", sort=True):
        first = rows.head(examples).to_dict("records")
        shown = [{str(key): str(value) for key, value in row.items()} for row in first]
        whole = rows.loc[rows["bar"] == "", "file"].nunique()
        by_reason.append(Reason(str(reason), len(rows), int(whole), shown))
    return sorted(by_reason, key=lambda reason: -reason.rows)


def families(rejected: pd.DataFrame, names: Collection[str]) -> list[Family]:
    """Near-duplicates by the recording that stayed in the dataset, the largest family first.

    Args:
        rejected: the detail of a near-duplicate begins with `of <name> bar <number>`.
        names: of the recordings in the dataset.
    """
    names = set(names)
    rows = rejected[rejected["reason"] == "near_duplicate"]
    originals = [_original(detail, names) for detail in rows["detail"]]
    by_original = [
        Family(str(name), len(family), family["file"].nunique(), str(family["file"].iloc[0]))
        for name, family in rows.groupby(pd.Series(originals, rows.index, dtype=str), sort=True)
    ]
    return sorted(by_original, key=lambda family: -family.rows)


def tempo_sources(index: pd.DataFrame) -> list[TempoSource]:
    """How the tempi of the recordings were found, the most frequent way first."""
    if not {"name", "bpm_source"} <= set(index.columns):
        return []
    first = index.drop_duplicates("name")
    confidence = _numbers(first, "bpm_confidence")
    sources = [
        TempoSource(str(source), len(c), float(c.median()), float(c.min()))
        for source, c in confidence.groupby(first["bpm_source"].astype(str), sort=True)
    ]
    return sorted(sources, key=lambda source: -source.recordings)


def least_sure(index: pd.DataFrame, most: int = 5) -> list[UncertainTempo]:
    """The recordings of lowest tempo confidence, that first; empty where all have the same."""
    if not {"name", "bpm", "bpm_confidence"} <= set(index.columns):
        return []
    first = index.drop_duplicates("name")
    first = first.assign(bpm_confidence=_numbers(first, "bpm_confidence"))
    first = first[first["bpm_confidence"] < first["bpm_confidence"].max()]
    columns = ["name", "bpm", "bpm_confidence", "bpm_evidence"]
    lowest = first.sort_values(["bpm_confidence", "name"]).head(most).reindex(columns=columns)
    lowest = lowest.astype({"bpm_evidence": object}).fillna({"bpm_evidence": ""})
    return cast(list[UncertainTempo], lowest.to_dict("records"))


def duration(hours: float | int) -> str:
    """Hours in words: `3.2 h`, `12 min`, `8 s`."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"


def nice_step(span: float, most: int, least: float = 0.0) -> float:
    """The smallest of 1, 2, 5, 10, ... (or 0.5, 0.2 ...) that divides a span into few steps.

    Args:
        span: length of the range.
        most: the largest number of steps.
        least: the smallest step.
    """
    wanted = max(span / most, least, 1e-9)
    decade = 10.0 ** math.floor(math.log10(wanted))
    # The tolerance: 0.3 / 3 is slightly more than 0.1.
    step = next(m * decade for m in (1, 2, 5, 10, 20) if m * decade >= wanted * (1 - 1e-9))
    return float(f"{step:.12g}")


def ticks(histogram: Histogram) -> list[float]:
    """Round numbers between the edges of a histogram, about `MOST_TICKS`, for its axis."""
    edges = histogram.edges.tolist()
    if not edges:
        return []
    if not histogram.log:
        step = nice_step(edges[-1] - edges[0], MOST_TICKS, edges[1] - edges[0])
        first, last = math.ceil(edges[0] / step), math.floor(edges[-1] / step)
        return [k * step for k in range(first, last + 1)]
    for marks in ("125", "1"):
        round_edges = [edge for edge in edges if re.match(rf"[{marks}]\.?0*e", f"{edge:.6e}")]
        if 2 <= len(round_edges) <= MOST_TICKS:
            return round_edges
    return edges if len(edges) <= MOST_TICKS else [edges[0], edges[-1]]


def _histogram(
    title: str, unit: str, of: str, values: pd.Series, decimals: int, log: bool = False
) -> Histogram:
    """The histogram of values that are meaningful to `decimals` decimals."""
    finite = values.to_numpy(float)
    finite = finite[np.isfinite(finite) & ((finite > 0) | (not log))]
    without = len(values) - len(finite)
    if not finite.size:
        none = np.zeros(0)
        return Histogram(
            title, unit, of, none, none.astype(int), math.nan, math.nan, math.nan, without, log
        )
    # 124.9999 BPM are 125, and belong into the bin of 125.0001.
    rounded = finite.round(decimals)
    if log:
        rounded = rounded.clip(10.0**-decimals)
    low, high = float(rounded.min()), float(rounded.max())
    edges = _log_bin_edges(low, high) if log else _bin_edges(low, high)
    counts = np.histogram(rounded, edges)[0]
    range_ = float(finite.min()), float(np.median(finite)), float(finite.max())
    return Histogram(title, unit, of, edges, counts, *range_, without, log)


def _bin_edges(low: float, high: float) -> Float[np.ndarray, " edges"]:
    """Multiples of a round step of 1 or more, at most `MOST_BINS` bins, the last above `high`."""
    for most in range(MOST_BINS, 0, -1):  # rounding outwards may add up to two bins
        step = nice_step(high - low, most, 1.0)
        first, last = math.floor(low / step), math.floor(high / step) + 1
        if last - first <= MOST_BINS:
            break
    edges: np.ndarray = np.arange(first, last + 1) * step
    return edges


def _log_bin_edges(low: float, high: float) -> Float[np.ndarray, " edges"]:
    """Edges that grow by nearly the same factor (see `DECADES`), the last above `high`."""
    decades = range(math.floor(math.log10(low)) - 1, math.floor(math.log10(high)) + 2)
    edges = np.zeros(0)
    for steps in DECADES:
        marks = np.array([float(f"{step}e{d}") for d in decades for step in steps])
        edges = marks[np.flatnonzero(marks <= low)[-1] : np.flatnonzero(marks > high)[0] + 1]
        if len(edges) <= MOST_BINS + 1:
            break
    return edges


def _numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats; NaN where a value or the column is missing."""
    if column not in frame.columns:
        return pd.Series(math.nan, frame.index, dtype=float)
    return pd.to_numeric(frame[column], errors="coerce").astype(float)


def _by_recording(index: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """One row per recording: the median of each column over its loops."""
    if "name" not in index.columns:
        return pd.DataFrame(columns=list(columns), dtype=float)
    numbers = pd.DataFrame({column: _numbers(index, column) for column in columns})
    return numbers.groupby(index["name"], sort=True).median()


def _original(detail: str, names: Collection[str]) -> str:
    """The name in `of <name> bar <number> ...`; the name itself may contain ` bar <number>`."""
    text = detail.removeprefix("of ")
    candidates = [text[: match.start()] for match in re.finditer(r" bar -?\d+", text)]
    default = candidates[0] if candidates else text
    return next((name for name in candidates if name in names), default)

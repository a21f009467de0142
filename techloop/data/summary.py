"""What is in a dataset of loops and what was left out of it, in numbers, as text and as bins."""

import itertools
import json
import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from upath import UPath

from techloop.grid import Grid

WIDTH = 80  # columns of the text
MOST_BINS = 20
INDEX_COLUMNS = (  # that are looked at; what an older dataset lacks of them is named
    "name",
    "group",
    "split",
    "licence",
    "bpm",
    "bpm_source",
    "bpm_confidence",
    "bpm_evidence",
    "duration_s",
    "loudness_lufs",
)
REJECTED_COLUMNS = ("file", "bar", "reason", "detail", "value", "limit")
SPLITS = ("train", "validation", "test")
# Steps within a decade of logarithmic bins, finest first; the first are preferred numbers (R'10 of
# ISO 497).
DECADES = (
    ("1", "1.25", "1.6", "2", "2.5", "3.2", "4", "5", "6.3", "8"),
    ("1", "2", "5"),
    ("1",),
)
WAY_OUT = (
    "`dvc checkout dvc.yaml` restores it from the cache, `dvc repro prepare_loops` makes it anew."
)
BLOCKS = "▏▎▍▌▋▊▉█"
ASCII = str.maketrans(dict(zip(BLOCKS, "...:::##", strict=True)) | {"–": "-", "…": "~"})


@dataclass(frozen=True)
class LoopsFolder:
    """A dataset as the stage `prepare_loops` left it.

    Attributes:
        name: where it is, as it was asked for.
        card: what `card.json` says.
        grid: of the loops.
        index: a row a loop.
        rejected: a row an item or bar left out, all of it text; None where there is no table.
        lacking: columns that this version looks at and an older one did not write, by file.
    """

    name: str
    card: dict[str, Any]
    grid: Grid
    index: pd.DataFrame
    rejected: pd.DataFrame | None
    lacking: dict[str, list[str]]

    def age(self) -> str:
        """A paragraph on what is lacking and how to get it, empty where nothing is."""
        if not self.lacking:
            return ""
        what = "; ".join(
            f"{file} has no {', '.join(columns)}" if columns else f"{file} is not there"
            for file, columns in self.lacking.items()
        )
        return (
            f"{self.name} was made by an older version of techloop ({what}), so what these say is "
            "not shown. `dvc repro prepare_loops` makes it anew with all of them."
        )


@dataclass(frozen=True)
class Histogram:
    """How often which values are; the last edge, as all others, begins what lies above.

    Attributes:
        title: what was measured.
        unit: of the values.
        of: what is counted.
        edges: round numbers, one more than there are counts; neither where there is no value.
        counts: values from an edge up to the next.
        low, median, high: of the values; NaN where there is none.
        without: how many have no value.
        log: the bins grow by (nearly) the same factor rather than the same step.
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
    """Why things were left out: how many rows, whole files among them, and the first few."""

    reason: str
    rows: int
    files: int
    examples: list[dict[str, str]]


@dataclass(frozen=True)
class Family:
    """A recording that was kept, and what was left out as nearly the same."""

    kept: str
    rows: int
    files: int
    example: str


def open_loops(folder: str | Path) -> LoopsFolder:
    """Read card, index and table of rejects of a loops folder; of the audio nothing.

    Args:
        folder: a path, or a URI that fsspec knows.

    Raises:
        ValueError: it is no such folder, or a file of it is damaged, with the way out.
    """
    try:
        place = UPath(folder)
        is_folder, is_anything = place.is_dir(), place.exists()
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{folder} cannot be opened: {error}") from None
    if not is_folder:
        raise ValueError(_not_a_folder(place, is_anything))
    if not (place / "card.json").exists():
        raise ValueError(_not_a_dataset(place))
    card, grid = _read_card(place)
    index = _read(place / "index.parquet", pd.read_parquet)
    if card.get("loops", len(index)) != len(index):
        raise ValueError(
            f"{place / 'card.json'} speaks of {card['loops']:,} loops and index.parquet beside it "
            f"has {len(index):,}: files of two runs are mixed. {WAY_OUT}"
        )
    lacking = {"index.parquet": [name for name in INDEX_COLUMNS if name not in index.columns]}
    rejected = None
    if (place / "rejected.csv").exists():
        rejected = _read(place / "rejected.csv", _read_rejected)
        lacking["rejected.csv"] = [c for c in REJECTED_COLUMNS if c not in rejected.columns]
        if "name" in rejected.columns and "file" not in rejected.columns:
            rejected = rejected.rename(columns={"name": "file"})
        rejected = rejected.reindex(columns=list(REJECTED_COLUMNS), fill_value="")
    lacking = {file: columns for file, columns in lacking.items() if columns}
    if rejected is None:
        lacking["rejected.csv"] = []
    return LoopsFolder(str(folder), card, grid, index, rejected, lacking)


def histograms(index: pd.DataFrame) -> list[Histogram]:
    """Tempo and length of the recordings, loudness of the loops; empty where a column is lacking.

    A recording counts once, however many loops are from it.
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
    """What was left out by reason, the most frequent first."""
    found = []
    for reason, rows in rejected.groupby("reason", sort=True):
        first = rows.head(examples).to_dict("records")
        shown = [{str(key): str(value) for key, value in row.items()} for row in first]
        whole = rows.loc[rows["bar"] == "", "file"].nunique()
        found.append(Reason(str(reason), len(rows), int(whole), shown))
    return sorted(found, key=lambda r: -r.rows)


def families(rejected: pd.DataFrame, names: Collection[str]) -> list[Family]:
    """Near-duplicates by the recording that was kept, the largest family first.

    Args:
        rejected: the detail of a near-duplicate begins with `of <name> bar <number>`.
        names: of the recordings that were kept.
    """
    known = set(names)
    rows = rejected[rejected["reason"] == "near_duplicate"]
    kept = pd.Series([_kept(detail, known) for detail in rows["detail"]], rows.index, dtype=str)
    found = [
        Family(str(name), len(family), family["file"].nunique(), str(family["file"].iloc[0]))
        for name, family in rows.groupby(kept, sort=True)
    ]
    return sorted(found, key=lambda family: -family.rows)


def tempo_sources(index: pd.DataFrame) -> list[tuple[str, int, float, float]]:
    """What a tempo was found by: recordings, their median and lowest confidence; by frequency."""
    if not {"name", "bpm_source"} <= set(index.columns):
        return []
    first = index.drop_duplicates("name")
    confidence = _numbers(first, "bpm_confidence")
    found = [
        (str(source), len(c), float(c.median()), float(c.min()))
        for source, c in confidence.groupby(first["bpm_source"].astype(str), sort=True)
    ]
    return sorted(found, key=lambda row: -row[1])


def least_sure(index: pd.DataFrame, most: int = 5) -> list[dict[str, Any]]:
    """The recordings whose tempo is least sure; none where all of them are equally so.

    Returns:
        `name`, `bpm`, `bpm_confidence` and `bpm_evidence` of each, the least sure first.
    """
    if not {"name", "bpm", "bpm_confidence"} <= set(index.columns):
        return []
    first = index.drop_duplicates("name")
    first = first.assign(bpm_confidence=_numbers(first, "bpm_confidence"))
    first = first[first["bpm_confidence"] < first["bpm_confidence"].max()]
    columns = ["name", "bpm", "bpm_confidence", "bpm_evidence"]
    lowest = first.sort_values(["bpm_confidence", "name"]).head(most).reindex(columns=columns)
    return lowest.astype({"bpm_evidence": object}).fillna({"bpm_evidence": ""}).to_dict("records")


def duration(hours: float | int) -> str:
    """Hours as they are said: `3.2 h`, `12 min`, `8 s`."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 2 else f"{hours * 3600:.0f} s"


def describe(loops: LoopsFolder, encoding: str = "utf-8") -> str:
    """All of it in plain text of 80 columns.

    Args:
        loops: what to describe.
        encoding: of where the text goes; what it does not have is written in ASCII.
    """
    names = set(loops.index["name"]) if "name" in loops.index else set()
    parts = [_heading(loops, len(names)), _splits(loops), _licences(loops.index)]
    if loops.rejected is None:
        parts.append("Left out: not known, as there is no rejected.csv.")
    else:
        parts.append(_left_out(reasons(loops.rejected, 1)))
        parts.append(_duplicates(families(loops.rejected, names)))
    parts.append(_tempi(loops.index))
    parts += [_drawn(histogram) for histogram in histograms(loops.index)]
    return _encodable("\n\n".join(part for part in parts if part), encoding)


def nice_step(span: float, most: int, least: float = 0.0) -> float:
    """The smallest of 1, 2, 5, 10, ... (or 0.5, 0.2 ...) that takes at most so many steps."""
    wanted = max(span / most, least, 1e-9)
    decade = 10.0 ** math.floor(math.log10(wanted))
    # 1e-9: 0.3 / 3 is a little more than 0.1.
    step = next(m * decade for m in (1, 2, 5, 10, 20) if m * decade >= wanted * (1 - 1e-9))
    return float(f"{step:.12g}")


def ticks(histogram: Histogram, most: int = 7) -> list[float]:
    """Round numbers between the edges of a histogram, about so many, to mark its axis with."""
    edges = histogram.edges.tolist()
    if not edges:
        return []
    if not histogram.log:
        step = nice_step(edges[-1] - edges[0], most, edges[1] - edges[0])
        first, last = math.ceil(edges[0] / step), math.floor(edges[-1] / step)
        return [k * step for k in range(first, last + 1)]
    for marks in ("125", "1"):
        found = [edge for edge in edges if re.match(rf"[{marks}]\.?0*e", f"{edge:.6e}")]
        if 2 <= len(found) <= most:
            return found
    return edges if len(edges) <= most else [edges[0], edges[-1]]


def _histogram(
    title: str, unit: str, of: str, values: pd.Series, decimals: int, log: bool = False
) -> Histogram:
    """Bins of round numbers for values that mean something to so many decimals."""
    known = values.to_numpy(float)
    known = known[np.isfinite(known) & ((known > 0) | (not log))]
    without = len(values) - len(known)
    if not known.size:
        none = np.zeros(0)
        return Histogram(
            title, unit, of, none, none.astype(int), math.nan, math.nan, math.nan, without, log
        )
    # 124.9999 BPM are 125, and belong where 125.0001 are.
    rounded = known.round(decimals)
    if log:
        rounded = rounded.clip(10.0**-decimals)
    low, high = float(rounded.min()), float(rounded.max())
    edges = _log_edges(low, high) if log else _edges(low, high)
    counts = np.histogram(rounded, edges)[0]
    median = float(np.median(known))
    ends = float(known.min()), median, float(known.max())
    return Histogram(title, unit, of, edges, counts, *ends, without, log)


def _edges(low: float, high: float) -> np.ndarray:
    """Whole multiples of a round step, the last above `high`."""
    for most in range(MOST_BINS, 0, -1):  # the ends stick out over the range, by up to two steps
        step = nice_step(high - low, most, 1.0)
        first, last = math.floor(low / step), math.floor(high / step) + 1
        if last - first <= MOST_BINS:
            break
    return np.arange(first, last + 1) * step


def _log_edges(low: float, high: float) -> np.ndarray:
    """Round numbers that grow by nearly the same factor, the last above `high`."""
    decades = range(math.floor(math.log10(low)) - 1, math.floor(math.log10(high)) + 2)
    edges = np.zeros(0)
    for steps in DECADES:
        marks = np.array([float(f"{step}e{d}") for d in decades for step in steps])
        edges = marks[np.flatnonzero(marks <= low)[-1] : np.flatnonzero(marks > high)[0] + 1]
        if len(edges) <= MOST_BINS + 1:
            break
    return edges


def _numbers(frame: pd.DataFrame, column: str) -> pd.Series:
    """A column as floats, NaN where it has none or is lacking."""
    if column not in frame.columns:
        return pd.Series(math.nan, frame.index, dtype=float)
    return pd.to_numeric(frame[column], errors="coerce").astype(float)


def _by_recording(index: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A row a recording: the median of each column over its loops."""
    if "name" not in index.columns:
        return pd.DataFrame(columns=list(columns), dtype=float)
    numbers = pd.DataFrame({column: _numbers(index, column) for column in columns})
    return numbers.groupby(index["name"], sort=True).median()


def _kept(detail: str, known: Collection[str]) -> str:
    """The name in `of <name> bar <number> ...`, which may itself speak of bars."""
    text = detail.removeprefix("of ")
    found = [text[: m.start()] for m in re.finditer(r" bar -?\d+", text)]
    return next((name for name in found if name in known), found[0] if found else text)


# Reading


def _read(path: UPath, read: Any) -> pd.DataFrame:
    """A table of the folder.

    Raises:
        ValueError: it is not there, or damaged.
    """
    try:
        with path.open("rb") as stream:
            return read(stream)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there, so the dataset is not whole. {WAY_OUT}") from None
    except Exception as error:  # whatever a decoder makes of damaged bytes
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is truncated or damaged: {what.rstrip('.')}. It was probably copied or "
            f"written only in part; {WAY_OUT}"
        ) from None


def _read_card(place: UPath) -> tuple[dict[str, Any], Grid]:
    """The card of a loops folder and its grid.

    Raises:
        ValueError: it is damaged, or another artifact's.
    """
    path = place / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if "model" in card:
            raise ValueError(
                f"{place} holds latents, not loops. `techloop inspect` looks at a folder that "
                "`prepare_loops` made; the pipeline's is data/loops."
            )
        grid = Grid(**card["grid"])
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {WAY_OUT}") from None
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged, or no card of a dataset of loops: its grid cannot be read "
            f"({error}). {WAY_OUT}"
        ) from None
    return card, grid


def _read_rejected(stream: Any) -> pd.DataFrame:
    """The table of rejects, all of it text; a name may hold what else ends a line.

    Raises:
        ValueError: it has no reasons.
    """
    table = pd.read_csv(stream, dtype=str, keep_default_na=False, lineterminator="\n")
    if table.columns[-1].endswith("\r"):  # it went through a spreadsheet
        last = table.columns[-1]
        table[last] = table[last].str.removesuffix("\r")
        table = table.rename(columns={last: last.removesuffix("\r")})
    if "reason" not in table.columns:
        raise ValueError(f"no column `reason` among {', '.join(map(str, table.columns))}")
    return table


def _not_a_folder(place: UPath, is_anything: bool) -> str:
    """What to say of a path that is no folder."""
    if not is_anything:
        return (
            f"{place} is not there. The stage `prepare_loops` makes data/loops: run `dvc repro "
            "prepare_loops` in the repository, or give the folder of another dataset."
        )
    if (place.parent / "card.json").exists():
        return f"{place} is one file of a dataset: give its folder, {place.parent}."
    return (
        f"{place} is a file. `techloop inspect` looks at the folder of a dataset, such as "
        "data/loops, that `prepare_loops` has made."
    )


def _not_a_dataset(place: UPath) -> str:
    """What to say of a folder without a card."""
    from techloop.audio.io import SUFFIXES

    if (place / "loops" / "card.json").exists():
        return f"{place} is no dataset, but holds one: give {place / 'loops'}."
    if (place / "model.safetensors").exists():
        return f"{place} holds a model. `techloop inspect` looks at a dataset, such as data/loops."
    # Deep enough to find audio, not so deep as to list a bucket.
    below = place.rglob("*") if isinstance(place, Path) else place.iterdir()
    files = itertools.islice(below, 5000)
    audio = next((file for file in files if file.suffix.lower() in SUFFIXES), None)
    if audio is not None:
        return (
            f"{place} holds recordings (such as {audio.name}), not yet a dataset. `techloop "
            f"prepare {place} FOLDER` makes one of them; so does `dvc repro` with `source: folder` "
            "and `path` set to it under `prepare_loops` in params.yaml."
        )
    return (
        f"{place} is no dataset: there is no card.json in it. `dvc repro prepare_loops` makes "
        "one in data/loops, `dvc checkout dvc.yaml` or `dvc pull dvc.yaml` fetches one that "
        "was made."
    )


# Text


def _heading(loops: LoopsFolder, recordings: int) -> str:
    """What it is in a line, and how much of the source is in it in another."""
    grid, n = loops.grid, len(loops.index)
    bars = "1 bar" if grid.bars == 1 else f"{grid.bars} bars"
    source = _clean(str(loops.card.get("source", "an unknown source")))
    what = (
        f"{n:,} loops of {bars} ({duration(n * grid.duration_s / 3600)}) from "
        f"{_shorten(source, 16)}, {grid.beats_per_bar}/4 at {grid.bpm:g} BPM, "
        f"{grid.sample_rate_hz:,} Hz"
    )
    lines = [_shorten(_clean(loops.name), WIDTH), what]
    if recordings and loops.card.get("items"):
        whole = f"{recordings:,} of {loops.card['items']:,} recordings are in it"
        authors = loops.card.get("authors")
        lines.append(f"{whole}, by {authors:,} authors" if authors else whole)
    return "\n".join(lines)


def _splits(loops: LoopsFolder) -> str:
    """Loops, groups and hours of each split."""
    if "split" not in loops.index:
        return ""
    hours = loops.grid.duration_s / 3600
    rows = []
    for split in dict.fromkeys([*SPLITS, *loops.index["split"].astype(str)]):
        here = loops.index[loops.index["split"] == split]
        groups = f"{here['group'].nunique():,}" if "group" in here else "?"
        rows.append([split, f"{len(here):,}", groups, f"{len(here) * hours:,.2f}"])
    return _table(["Splits", "loops", "groups", "hours"], rows)


def _licences(index: pd.DataFrame) -> str:
    """Loops and recordings of each licence, the most frequent first."""
    if not {"licence", "name"} <= set(index.columns):
        return ""
    of_licence = index["name"].groupby(index["licence"].fillna("").astype(str), sort=True)
    found = sorted(of_licence, key=lambda pair: -len(pair[1]))
    rows = [[str(key) or "unknown", f"{len(n):,}", f"{n.nunique():,}"] for key, n in found]
    return _table(["Licences", "loops", "recordings"], rows)


def _left_out(found: Sequence[Reason]) -> str:
    """The table of reasons, each with an example."""
    if not found:
        return "Left out: nothing."
    total = sum(reason.rows for reason in found)
    rows = [[r.reason.replace("_", " "), f"{r.rows:,}", f"{r.files:,}"] for r in found]
    rows.append(["all", f"{total:,}", f"{sum(r.files for r in found):,}"])
    lines = _table(["Left out", "rows", "whole files"], rows).split("\n")
    for i, reason in reversed(list(enumerate(found, 1))):
        lines.insert(i + 1, _example(reason.examples[0]))
    return "\n".join(lines)


def _example(row: Mapping[str, str]) -> str:
    """A row of the rejects in a line, or two where one would lose something."""
    bar = f", bar {row['bar'].removesuffix('.0')}" if row["bar"] else ""
    limit = f"limit {_measure(row['limit'])}" if row["limit"] else ""
    measured = ", ".join(part for part in (_measure(row["value"]), limit) if part)
    name, detail = _clean(row["file"]), _clean(row["detail"])
    room = WIDTH - 4
    line = f"{name}{bar}: {detail}" + (f" ({measured})" if measured else "")
    if _columns(line) <= room:
        return f"    {line}"
    end = bar + (f": {measured}" if measured else "")
    first = _shorten(name, room - _columns(end)) + end
    return f"    {first}\n    {_shorten(detail, room)}" if detail else f"    {first}"


def _duplicates(found: Sequence[Family], most: int = 5) -> str:
    """The largest families of near-duplicates."""
    if not found:
        return ""
    rows = [[f.kept, f"{f.rows:,}", f"{f.files:,}"] for f in found[:most]]
    if len(found) > most:
        left = sum(f.rows for f in found[most:])
        rows.append([f"{len(found) - most:,} more", f"{left:,}", ""])
    return _table(["Kept, with near-duplicates left out", "rows", "of files"], rows)


def _tempi(index: pd.DataFrame) -> str:
    """How tempi were found, and where that is least sure."""
    rows = [
        [source, f"{n:,}", _confidence(median), _confidence(lowest)]
        for source, n, median, lowest in tempo_sources(index)
    ]
    if not rows:
        return ""
    text = _table(["Tempo found by", "recordings", "confidence: median", "lowest"], rows)
    lines = []
    for row in least_sure(index):
        start = f"  {_confidence(row['bpm_confidence']):>4}  {row['bpm']:>7,.2f} BPM  "
        lines.append(start + _shorten(_clean(str(row["name"])), WIDTH - len(start)))
        if row["bpm_evidence"]:
            lines.append(f"        {_shorten(_clean(str(row['bpm_evidence'])), WIDTH - 8)}")
    return text + ("\n\nLeast sure of\n" + "\n".join(lines) if lines else "")


def _drawn(histogram: Histogram) -> str:
    """A histogram as bars of text, a line a bin."""
    h = histogram
    if not h.counts.size:
        return f"{h.title} ({h.unit}): not known of any"
    about = f"  {h.counts.sum():,} {h.of}: {_figure(h.low)} to {_figure(h.high)}, median "
    about += _figure(h.median) + (f"; not known of {h.without:,}" if h.without else "")
    edges = [f"{edge:,.10g}" for edge in h.edges]
    left, right = max(map(len, edges[:-1])), max(map(len, edges[1:]))
    most = int(h.counts.max())
    room = WIDTH - left - right - len(f"{most:,}") - 8
    lines = [f"{h.title} ({h.unit})", about]
    for low, high, count in zip(edges, edges[1:], h.counts.tolist(), strict=False):
        # What is there at all is seen.
        eighths = max(round(8 * room * count / most), 1) if count else 0
        bar = BLOCKS[-1] * (eighths // 8) + (BLOCKS[eighths % 8 - 1] if eighths % 8 else "")
        label = f"  {low:>{left}} – {high:>{right}}  "
        lines.append(f"{label}{bar} {count:,}" if count else label.rstrip())
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under their heads, numbers to the right; names give way where it gets too wide."""
    cells = [[f"  {_clean(row[0])}", *row[1:]] for row in rows]
    widths = [max(_columns(row[i]) for row in (head, *cells)) for i in range(len(head))]
    widths[0] = min(max(widths[0], 22), WIDTH - sum(width + 3 for width in widths[1:]))
    lines = []
    for first, *others in (list(head), *cells):
        first = _shorten(first, widths[0])
        line = first + " " * (widths[0] - _columns(first))
        for text, width in zip(others, widths[1:], strict=True):
            line += f"   {text:>{width}}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _measure(text: str) -> str:
    """A value or limit of the rejects: a short number, or short words."""
    try:
        return _figure(float(text))
    except ValueError:
        return _shorten(_clean(text), 24)


def _figure(value: float) -> str:
    """Four digits, thousands apart."""
    whole = math.isfinite(value) and (abs(value) >= 1000 or value.is_integer())
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def _confidence(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def _clean(text: str) -> str:
    """Text that stays in its line: what a terminal would obey is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes: two for East Asian signs, none for accents."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _shorten(text: str, width: int) -> str:
    """A text without its middle where it takes more columns: both ends of a path tell most."""
    if _columns(text) <= width:
        return text
    # No sign takes less than no column, few of them take none: a long text is cut roughly first.
    half = min(len(text) // 2, 4 * width)
    head, tail = list(text[:half]), list(text[half - len(text) :][-4 * width :])
    while _columns("".join(head + tail)) > width - 1:
        (tail.pop(0) if len(tail) > len(head) else head.pop())
    return "".join([*head, "…", *tail])


def _encodable(text: str, encoding: str) -> str:
    """The same, as far as an encoding has its signs."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        # An accent that stands by itself would become a sign of its own, and the line too long.
        whole = unicodedata.normalize("NFC", text).translate(ASCII)
        signs = "".join(c for c in whole if not unicodedata.combining(c))
        return signs.encode(encoding, "replace").decode(encoding)
    return text

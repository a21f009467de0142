"""The text of `techloop inspect`: what a dataset of loops holds, in plain text of 80 columns."""

import math
import unicodedata
from collections.abc import Mapping, Sequence

import pandas as pd

from techloop.data.columns import SPLITS
from techloop.data.loops_folder import LoopsFolder
from techloop.data.summary import (
    Family,
    Histogram,
    Reason,
    duration,
    families,
    histograms,
    least_sure,
    reasons,
    tempo_sources,
)
from techloop.reporting.numbers import format_number

WIDTH = 80  # columns
FAMILIES_SHOWN = 5
BLOCKS = "▏▎▍▌▋▊▉█"  # one eighth of a column to a whole one
ASCII = str.maketrans(dict(zip(BLOCKS, "...:::##", strict=True)) | {"–": "-", "…": "~"})


def describe(loops: LoopsFolder, encoding: str = "utf-8") -> str:
    """All numbers about a dataset, as plain text of 80 columns.

    Args:
        loops: the dataset.
        encoding: of the terminal; characters that it lacks are written in ASCII.
    """
    names = set(loops.index["name"]) if "name" in loops.index else set()
    parts = [_heading(loops, len(names)), _splits(loops), _licences(loops.index)]
    if loops.rejected is None:
        parts.append("Left out: not known, as rejected.csv is missing.")
    else:
        parts.append(_left_out(reasons(loops.rejected, 1)))
        parts.append(_duplicates(families(loops.rejected, names)))
    parts.append(_tempi(loops.index))
    parts += [_bars(histogram) for histogram in histograms(loops.index)]
    return _encodable("\n\n".join(part for part in parts if part), encoding)


def _heading(loops: LoopsFolder, recordings: int) -> str:
    """Name and size of the dataset, and the share of the source that is in it."""
    grid, n = loops.grid, len(loops.index)
    bars = "1 bar" if grid.bars == 1 else f"{grid.bars} bars"
    source = _clean(str(loops.card.get("source", "an unknown source")))
    size = (
        f"{n:,} loops of {bars} ({duration(n * grid.duration_s / 3600)}) from "
        f"{_shorten(source, 16)}, {grid.beats_per_bar}/4 at {grid.bpm:g} BPM, "
        f"{grid.sample_rate_hz:,} Hz"
    )
    lines = [_shorten(_clean(loops.name), WIDTH), size]
    if recordings and loops.card.get("items"):
        included = f"{recordings:,} of {loops.card['items']:,} recordings are in it"
        authors = loops.card.get("authors")
        lines.append(f"{included}, by {authors:,} authors" if authors else included)
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
    by_licence = index["name"].groupby(index["licence"].fillna("").astype(str), sort=True)
    licences = sorted(by_licence, key=lambda pair: -len(pair[1]))
    rows = [[str(key) or "unknown", f"{len(n):,}", f"{n.nunique():,}"] for key, n in licences]
    return _table(["Licences", "loops", "recordings"], rows)


def _left_out(by_reason: Sequence[Reason]) -> str:
    """The table of reasons for rejection, each with an example."""
    if not by_reason:
        return "Left out: nothing."
    total = sum(reason.rows for reason in by_reason)
    rows = [[r.reason.replace("_", " "), f"{r.rows:,}", f"{r.files:,}"] for r in by_reason]
    rows.append(["all", f"{total:,}", f"{sum(r.files for r in by_reason):,}"])
    lines = _table(["Left out", "rows", "whole files"], rows).split("\n")
    for i, reason in reversed(list(enumerate(by_reason, 1))):
        lines.insert(i + 1, _example(reason.examples[0]))
    return "\n".join(lines)


def _example(row: Mapping[str, str]) -> str:
    """A row of the reject table, on one line where it fits, else on two."""
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


def _duplicates(largest_first: Sequence[Family]) -> str:
    """The largest families of near-duplicates."""
    if not largest_first:
        return ""
    rows = [[f.original, f"{f.rows:,}", f"{f.files:,}"] for f in largest_first[:FAMILIES_SHOWN]]
    if len(largest_first) > FAMILIES_SHOWN:
        others = sum(f.rows for f in largest_first[FAMILIES_SHOWN:])
        rows.append([f"{len(largest_first) - FAMILIES_SHOWN:,} more", f"{others:,}", ""])
    return _table(["Kept, with near-duplicates left out", "rows", "of files"], rows)


def _tempi(index: pd.DataFrame) -> str:
    """How tempi were found, and the recordings of lowest confidence."""
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


def _bars(histogram: Histogram) -> str:
    """A histogram as bars of text, one line per bin."""
    h = histogram
    if not h.counts.size:
        return f"{h.title} ({h.unit}): not known of any"
    about = f"  {h.counts.sum():,} {h.of}: {_number(h.low)} to {_number(h.high)}, median "
    about += _number(h.median) + (f"; not known of {h.without:,}" if h.without else "")
    edges = [_number(edge) for edge in h.edges.tolist()]
    left, right = max(map(len, edges[:-1])), max(map(len, edges[1:]))
    most = int(h.counts.max())
    room = WIDTH - left - right - len(f"{most:,}") - 8
    lines = [f"{h.title} ({h.unit})", about]
    for low, high, count in zip(edges, edges[1:], h.counts.tolist(), strict=False):
        # Even a small count is visible.
        eighths = max(round(8 * room * count / most), 1) if count else 0
        bar = BLOCKS[-1] * (eighths // 8) + (BLOCKS[eighths % 8 - 1] if eighths % 8 else "")
        label = f"  {low:>{left}} – {high:>{right}}  "
        lines.append(f"{label}{bar} {count:,}" if count else label.rstrip())
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with numbers aligned right; names are shortened where it would get too wide."""
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
    """A value or limit of the reject table: a short number, or short words."""
    try:
        value = float(text)
    except ValueError:
        return _shorten(_clean(text), 24)
    return _number(value) if math.isfinite(value) else f"{value}"


def _number(value: float) -> str:
    return format_number(value, minus="-")


def _confidence(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.2f}"


def _clean(text: str) -> str:
    """Text without control characters, which a terminal would obey: they are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _columns(text: str) -> int:
    """Columns of a terminal that a text takes: two for East Asian characters, none for accents."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def _shorten(text: str, width: int) -> str:
    """A text without its middle where it is too wide: the ends of a path matter most."""
    if _columns(text) <= width:
        return text
    # A long text is first cut roughly, as the loop below is slow.
    half = min(len(text) // 2, 4 * width)
    head, tail = list(text[:half]), list(text[half - len(text) :][-4 * width :])
    while _columns("".join(head + tail)) > width - 1:
        (tail.pop(0) if len(tail) > len(head) else head.pop())
    return "".join([*head, "…", *tail])


def _encodable(text: str, encoding: str) -> str:
    """A text with ASCII instead of characters that an encoding lacks."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        # A separate accent would become a character of its own and make the line longer.
        composed = unicodedata.normalize("NFC", text).translate(ASCII)
        plain = "".join(c for c in composed if not unicodedata.combining(c))
        return plain.encode(encoding, "replace").decode(encoding)
    return text

"""Rows of the tables that preparation writes: one per loop, one per rejection."""

import hashlib
from typing import TypedDict

from techloop.audio.recording import Rejection
from techloop.data.source import Item

LINE_ENDS = str.maketrans({"\r": r"\r", "\n": r"\n"})


class LoopRow(TypedDict):
    """A loop in the index, before its split and place in the shards are known.

    `factors` become columns `factor_<name>`. `bpm_*` and `downbeat_s` are those of the recording,
    `bpm` is the loop's own where the tempo drifts. `stretch_ratio` is it over the grid's tempo.
    Loudness is that before the gain.
    """

    loop_id: str
    name: str
    group: str
    source: str
    author: str
    licence: str
    url: str
    bpm_source: str
    bpm_confidence: float
    bpm_evidence: str
    downbeat_s: float
    duration_s: float
    bpm: float
    stretch_ratio: float
    bar_in_source: int
    loudness_lufs: float
    dc_offset: float
    clipped_share: float
    gain_db: float
    factors: dict[str, float]


class RejectRow(TypedDict):
    """A rejection of an item (`bar` is empty), or of what begins at one of its bars.

    The part before the first bar is bar -1.
    """

    file: str
    bar: int | str
    reason: str
    detail: str
    value: float | str
    limit: float | str


def reject_row(item: Item, bar: int | str, rejection: Rejection) -> RejectRow:
    """A row of the reject table, whose text can be written whatever it holds."""
    reason, detail, value, limit = (
        one_line(cell) if isinstance(cell, str) else cell for cell in rejection
    )
    return RejectRow(
        file=one_line(item.name),
        bar=bar,
        reason=str(reason),
        detail=str(detail),
        value=value,
        limit=limit,
    )


def one_line(text: str) -> str:
    """Text as one line of valid Unicode: names on disk may be in no valid encoding."""
    return text.encode("utf-8", "backslashreplace").decode().translate(LINE_ENDS)


def hash_of(name: str) -> bytes:
    """SHA-256 of a name, also of one in no valid encoding."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()

"""Where loops come from. A source is one file here: it lists what it has and reads one of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

NOWHERE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Item:
    """One piece of audio that a source offers: a file, or a loop it can render.

    Attributes:
        name: unique in its source and stable (a relative path, `synth/000012`).
        group: what must not straddle splits: whoever made it, a folder, the file itself. Empty:
            the artist that its file names, else the item itself.
        author: who made it, where known.
        licence: an SPDX identifier or the source's own words, empty where unknown.
        url: where it can be had, empty where unknown.
        bpm: annotated tempo in beats a minute, where the source knows it.
        beats_per_bar: annotated, where the source knows it.
        exact: whether it is annotated as cut at bar lines; None where the source does not know.
        factors: what it was rendered from, by name with unit, where the source knows.
        size_bytes: of the file; 0 where there is none.
        version: changes when the audio does (size and date of a file), so that an interrupted run
            does not continue with what another file gave.
        left_out: reason, detail, value and limit, where the source leaves it out (as by a filter
            of licences): it becomes a row of the reject table without being read.
    """

    name: str
    group: str = ""
    author: str = ""
    licence: str = ""
    url: str = ""
    bpm: float | None = None
    beats_per_bar: int | None = None
    exact: bool | None = None
    factors: dict[str, float] = field(default_factory=dict)
    size_bytes: int = 0
    version: str = ""
    left_out: tuple[str, str, float | str, float | str] | None = None


@dataclass(frozen=True)
class Tags:
    """What a file says of itself, besides its name.

    Attributes:
        bpm: tempi by where they stand: `acid` (a chunk of WAVs), `tag` (ID3, Vorbis, MP4 ...).
        beats: how many the file or its loop has (`acid`, Apple's `basc`), where it says so.
        beats_per_bar: where it says so.
        one_shot: it says that it is a single sound and no loop.
        loop: first sample and one past the last of its first loop (`smpl`).
        author: artist, empty where it says none.
    """

    bpm: Mapping[str, float] = field(default_factory=dict)
    beats: int | None = None
    beats_per_bar: int | None = None
    one_shot: bool = False
    loop: tuple[int, int] | None = None
    author: str = ""


@dataclass(frozen=True)
class Recording:
    """What reading an item gives.

    Attributes:
        samples: the mean of its channels, in [-1, 1] (a lossy format may go a little beyond).
        rate_hz: their rate.
        clipped: numbers of the samples at which a channel is cut off, in ascending order.
        tags: what the file says of itself.
    """

    samples: Float[np.ndarray, "samples"]
    rate_hz: int
    clipped: Int64[np.ndarray, "clipped"] = field(default_factory=lambda: NOWHERE)
    tags: Tags = field(default_factory=Tags)


class Rejected(Exception):
    """A recording or a bar of it is left out; this becomes a row of the reject table.

    Args:
        reason: one word or a few, joined by underscores, that many rows share.
        detail: a sentence's worth on this one.
        value: what was found, where it can be said in a number or a word.
        limit: what it should have been.
    """

    def __init__(
        self, reason: str, detail: str, value: float | str = math.nan, limit: float | str = math.nan
    ) -> None:
        super().__init__(detail)
        self.row = {"reason": reason, "detail": detail, "value": value, "limit": limit}


class Unreadable(Rejected):
    """An item cannot be read; the message is the reason that goes into the reject table."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreadable", detail)


@runtime_checkable
class Source(Protocol):
    """What preparation asks of a source; it must pickle, and small: it goes along with each task.

    What `items` found out about an item belongs into the item.
    """

    name: str

    def items(self) -> Sequence[Item]:
        """All it has, in an order that does not change between calls."""
        ...

    def read(self, item: Item) -> Recording:
        """The audio of an item.

        Raises:
            Unreadable: it cannot be had.
            Rejected: the source itself leaves it out, as by a filter of licences.
        """
        ...

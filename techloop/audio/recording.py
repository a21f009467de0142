"""What reading a file gives: samples, what the file says of itself, or why not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

NOWHERE = np.empty(0, np.int64)


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

    samples: Float[np.ndarray, " samples"]
    rate_hz: int
    clipped: Int64[np.ndarray, " clipped"] = field(default_factory=lambda: NOWHERE)
    tags: Tags = field(default_factory=Tags)


class Rejection(NamedTuple):
    """Why a recording or a loop of it is left out.

    Attributes:
        reason: one word or a few, joined by underscores, that many rejections share.
        detail: a sentence's worth on this one.
        value: what was measured, as a number or a word; NaN where neither says it.
        limit: what it should have been.
    """

    reason: str
    detail: str
    value: float | str = math.nan
    limit: float | str = math.nan


class Rejected(Exception):
    """A recording or a loop of it is left out; this becomes a row of the reject table.

    Args: those of `Rejection`, which is its attribute.
    """

    def __init__(
        self, reason: str, detail: str, value: float | str = math.nan, limit: float | str = math.nan
    ) -> None:
        super().__init__(detail)
        self.rejection = Rejection(reason, detail, value, limit)


class Unreadable(Rejected):
    """An item cannot be read; the message is the reason that goes into the reject table."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreadable", detail)

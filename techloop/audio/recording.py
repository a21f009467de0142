"""The result of reading an item: a recording with its tags, or the reason for its rejection."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

NOWHERE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Tags:
    """The metadata stored in an audio file.

    Attributes:
        bpm: tempi by where they are stored: `acid` (a chunk of WAVs), `tag` (ID3, Vorbis, MP4 ...).
        beats: beats of the file or its loop (`acid`, Apple's `basc`); None where not stored.
        beats_per_bar: None where not stored.
        one_shot: the file is marked as a single sound, not a loop.
        loop: first sample and one past the last of its first loop (`smpl`).
        author: the artist, empty where not stored.
    """

    bpm: Mapping[str, float] = field(default_factory=dict)
    beats: int | None = None
    beats_per_bar: int | None = None
    one_shot: bool = False
    loop: tuple[int, int] | None = None
    author: str = ""


@dataclass(frozen=True)
class Recording:
    """An item that was read.

    Attributes:
        samples: the mean of its channels, in [-1, 1] (a lossy format may go a little beyond).
        rate_hz: their rate.
        clipped: numbers of the samples at which any channel is clipped, ascending.
        tags: the metadata stored in the file.
    """

    samples: Float[np.ndarray, " samples"]
    rate_hz: int
    clipped: Int64[np.ndarray, " clipped"] = field(default_factory=lambda: NOWHERE)
    tags: Tags = field(default_factory=Tags)


class Rejection(NamedTuple):
    """Why a recording or a loop of it is left out of the dataset.

    Attributes:
        reason: a category in snake case, shared by many rows of the reject table.
        detail: an explanation of this case.
        value: the measured number or word; NaN where there is none.
        limit: the bound that the value breaks.
    """

    reason: str
    detail: str
    value: float | str = math.nan
    limit: float | str = math.nan


class Rejected(Exception):
    """A recording or a loop of it is left out; this becomes a row of the reject table.

    Args: those of `Rejection`, which is its attribute `rejection`.
    """

    def __init__(
        self, reason: str, detail: str, value: float | str = math.nan, limit: float | str = math.nan
    ) -> None:
        super().__init__(detail)
        self.rejection = Rejection(reason, detail, value, limit)


class Unreadable(Rejected):
    """An item cannot be read; the message is the detail in the reject table."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreadable", detail)

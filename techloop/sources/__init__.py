"""Where loops come from. A source is one file here: it lists what it has and reads one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Item:
    """One piece of audio that a source offers: a file, or a loop it can render.

    Attributes:
        name: unique in its source and stable (a relative path, `synth/000012`).
        group: what must not straddle splits (the author, else the file itself).
        author: who made it, where known.
        licence: an SPDX identifier or the source's own words, empty where unknown.
        bpm: annotated tempo in beats a minute, where the source knows it.
        factors: what it was rendered from, by name with unit, where the source knows.
    """

    name: str
    group: str
    author: str = ""
    licence: str = ""
    bpm: float | None = None
    factors: dict[str, float] = field(default_factory=dict)


class Unreadable(Exception):
    """An item cannot be read; the message is the reason that goes into the reject table."""


@runtime_checkable
class Source(Protocol):
    """What preparation asks of a source; it must pickle, as workers read from it."""

    name: str

    def items(self) -> Sequence[Item]:
        """All it has, in an order that does not change between calls."""
        ...

    def read(self, item: Item) -> tuple[Float[np.ndarray, "channels samples"], int]:
        """Samples as float32 in [-1, 1] and their rate in Hz.

        Raises:
            Unreadable: the audio cannot be had.
        """
        ...

"""Where loops come from. A source lists what it has and reads one item of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from techloop.audio.recording import Recording, Rejection


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
        rejection: why the source itself rejects it (a filter of licences, for example); it becomes
            a row of the reject table without being read.
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
    rejection: Rejection | None = None


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

"""Where loops come from: a source lists its items and reads one of them at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from techloop.audio.recording import Recording, Rejection


@dataclass(frozen=True)
class Item:
    """One piece of audio that a source offers: a file, or a loop it can render.

    Attributes:
        name: unique in its source and stable (a relative path, `synth/000012`).
        group: items of one group go to the same split: the author, a folder, the file itself.
            Empty: the artist in the file's tags, else the item alone.
        author: its maker; empty where unknown.
        licence: an SPDX identifier or the source's own words; empty where unknown.
        url: its address; empty where unknown.
        bpm: annotated tempo in beats per minute; None where the source has none.
        beats_per_bar: annotated meter; None where the source has none.
        exact: whether it is annotated as cut at bar lines; None where the source does not say.
        factors: the settings it was rendered from, by name with unit; empty for recordings.
        size_bytes: size of the file; 0 where there is none.
        version: changes when the audio does (size and date of a file), so that an interrupted run
            does not resume with the result of another file.
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
    """What preparation needs of a source. It must pickle small, as it is sent with each task.

    What `items` finds out about an item belongs in the item.
    """

    name: str

    def items(self) -> Sequence[Item]:
        """All items, in an order that does not change between calls."""
        ...

    def read(self, item: Item) -> Recording:
        """The audio of an item.

        Raises:
            Unreadable: it cannot be read.
            Rejected: the source itself leaves it out.
        """
        ...

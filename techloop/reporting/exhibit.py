"""One thing that the page shows of a cell: a picture, a sound or a table, with its words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Exhibit:
    """A file, and what is written beside it.

    Attributes:
        kind: figure (a PNG), audio (a WAV) or table (a CSV).
        file: where it is.
        title: a few words.
        caption: what one sees or hears, and how it was made.
        loop: whether a sound repeats when it is played.
    """

    kind: Literal["figure", "audio", "table"]
    file: Path
    title: str
    caption: str
    loop: bool = False

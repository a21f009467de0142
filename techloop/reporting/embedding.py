"""What each evaluation shows: drawn, and put into the page as far as its size allows."""

import base64
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from techloop.artifacts import atomic_folder
from techloop.audio.io import read_audio
from techloop.reporting.cells import Stages, read_rows
from techloop.reporting.exhibit import Exhibit

# Reads the folder of an evaluation, draws its pictures into another, and lists what to show.
Exhibits = Callable[[Path, Path], Sequence[Exhibit]]
Shown = TypeVar("Shown")
ByCell = Mapping[str, Mapping[str, Sequence[Shown]]]  # by stage, then by cell
COLUMNS = 120  # of a drawn waveform
LONG_BYTES = 300_000  # a sound above is a whole piece rather than a loop


@dataclass(frozen=True)
class Item:
    """An exhibit on the page.

    Attributes:
        exhibit: what it is, and its words.
        id: unique on the page.
        link: its file, relative to the page.
        data: its content in base64; None where the page only links to it.
        rows: of a table.
        wave: outline of a sound as an SVG path, `COLUMNS` wide, from -1 to 1.
        seconds: length of a sound.
    """

    exhibit: Exhibit
    id: str
    link: str
    data: str | None
    rows: Sequence[Mapping[str, str]]
    wave: str
    seconds: float


def draw_exhibits(
    stages: Stages, functions: Mapping[str, Exhibits], figures: Path
) -> ByCell[Exhibit]:
    """Have each stage's function draw the pictures of its cells, and list what it shows.

    Args:
        stages: the finished cells.
        functions: by stage.
        figures: folder of the pictures, `<stage>/<cell>/`; it is replaced as a whole.

    Raises:
        ValueError: a file to show is missing.
    """
    shown: dict[str, dict[str, list[Exhibit]]] = {}
    with atomic_folder(figures) as new:
        for stage, exhibits in functions.items():
            shown[stage] = {}
            for cell in stages[stage]:
                pictures = new / stage / cell.name
                pictures.mkdir(parents=True)
                listed = exhibits(cell.folder, pictures)
                _check_files(cell.folder, listed)
                shown[stage][cell.name] = [_moved(exhibit, new, figures) for exhibit in listed]
    return shown


def embed(shown: ByCell[Exhibit], out: Path, room: int) -> ByCell[Item]:
    """Make items of the page, with their content as far as there is room.

    Pictures come first, then short sounds, then long ones. The page links to what does not fit. A
    table is always on the page.

    Args:
        shown: what to show.
        out: folder of the page.
        room: how many characters of content fit.
    """
    every = [exhibit for cells in shown.values() for listed in cells.values() for exhibit in listed]
    content: dict[Path, str] = {}
    for exhibit in sorted(every, key=_priority):
        if exhibit.kind != "table":
            data = base64.b64encode(_content(exhibit)).decode()
            if len(data) <= room:
                content[exhibit.file] = data
                room -= len(data)
    return {
        stage: {
            cell: [_item(e, f"{stage}-{cell}", out, content.get(e.file)) for e in listed]
            for cell, listed in cells.items()
        }
        for stage, cells in shown.items()
    }


def _check_files(folder: Path, exhibits: Sequence[Exhibit]) -> None:
    for exhibit in exhibits:
        if not exhibit.file.is_file():
            raise ValueError(
                f"{folder} lacks {exhibit.file.name}, which the report shows: it was copied only "
                "in part. `dvc checkout dvc.yaml` restores it, `dvc repro` makes it anew."
            )


def _moved(exhibit: Exhibit, old: Path, new: Path) -> Exhibit:
    """The same, after the folder `old`, which may hold its file, was renamed."""
    if not exhibit.file.is_relative_to(old):
        return exhibit
    return replace(exhibit, file=new / exhibit.file.relative_to(old))


def _priority(exhibit: Exhibit) -> tuple[bool, bool]:
    """Pictures are embedded before sounds, small files before large ones."""
    return exhibit.kind == "audio", exhibit.file.stat().st_size > LONG_BYTES


def _content(exhibit: Exhibit) -> bytes:
    return _webp(exhibit.file) if exhibit.kind == "figure" else exhibit.file.read_bytes()


def _item(exhibit: Exhibit, place: str, out: Path, data: str | None) -> Item:
    """An exhibit with what the page needs besides."""
    file = exhibit.file
    wave, seconds = _wave(file) if exhibit.kind == "audio" else ("", 0.0)
    return Item(
        exhibit,
        id=re.sub(r"\W", "-", f"{place}-{file.name}"),
        link=Path(os.path.relpath(file, out)).as_posix(),
        data=data,
        rows=read_rows(file) if exhibit.kind == "table" else [],
        wave=wave,
        seconds=seconds,
    )


def _webp(file: Path) -> bytes:
    """A picture as WebP, a fifth of its size as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").save(buffer, "WEBP", quality=85, method=4)
    return buffer.getvalue()


def _wave(file: Path) -> tuple[str, float]:
    """Outline of a sound as an SVG path (`COLUMNS` wide, from -1 to 1), and its seconds."""
    sound = read_audio(file)
    parts = np.array_split(sound.samples, COLUMNS)
    high = [(i, -float(part.max(initial=0))) for i, part in enumerate(parts)]
    low = [(i, -float(part.min(initial=0))) for i, part in enumerate(parts)]
    outline = "L".join(f"{x} {y:.2f}" for x, y in [*high, *reversed(low)])
    return f"M{outline}Z", sound.samples.size / sound.rate_hz

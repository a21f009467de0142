"""What becomes of a few items, in a file: what a worker makes, and an interrupted run keeps.

Workers import this module: nothing here may import pandas, which takes each of them a second.
"""

import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16
from upath import UPath

from techloop.artifacts import atomic_write
from techloop.audio.recording import Rejection
from techloop.audio.wav import INT16_SCALE
from techloop.data.deduplicate import SPECTROGRAM_SIZE, fingerprint_spectrogram
from techloop.data.loops import PreparedItem, prepare_item
from techloop.data.rows import LoopRow, RejectRow, hash_of, reject_row
from techloop.data.source import Item, Source
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig

CHUNK_ITEMS, CHUNK_BYTES = 16, 4 * 2**20  # work of seconds, so that workers end at the same time


class Chunk(NamedTuple):
    """The items of one task, and the file for what becomes of them.

    The file's name depends on the items and their versions. It is whole or not there.
    """

    items: Sequence[Item]
    part: UPath

    @classmethod
    def of(cls, items: Sequence[Item], folder: UPath) -> "Chunk":
        """A chunk whose part lies in a folder."""
        name = hash_of("\n".join(map(repr, items))).hex()[:24]
        return cls(items, folder / f"{name}.npz")

    def single_items(self) -> list["Chunk"]:
        """One chunk per item."""
        return [Chunk.of([item], self.part.parent) for item in self.items]

    def parts(self) -> list[UPath]:
        """The files that hold it: its part, or one per item if it had to be taken apart."""
        if self.part.exists() or len(self.items) == 1:
            return [self.part]
        return [chunk.part for chunk in self.single_items()]

    def is_done(self) -> bool:
        """Whether all of it is there."""
        return all(part.exists() for part in self.parts())


class PartTables(NamedTuple):
    """A part without its audio.

    Attributes:
        spectrograms: fingerprint of each loop.
        items: rows and rejects of each item, in order.
    """

    spectrograms: Float[np.ndarray, "loops dimensions"]
    items: list[tuple[list[LoopRow], list[RejectRow]]]


def chunks_of(items: Sequence[Item], folder: UPath) -> list[Chunk]:
    """All items in order, in chunks of few and small ones."""
    groups: list[list[Item]] = []
    room = 0
    for item in items:
        size = item.size_bytes or CHUNK_BYTES // CHUNK_ITEMS
        if not groups or len(groups[-1]) == CHUNK_ITEMS or size > room:
            groups.append([])
            room = CHUNK_BYTES
        groups[-1].append(item)
        room -= size
    return [Chunk.of(group, folder) for group in groups]


def make_part(source: Source, chunk: Chunk, grid: Grid, config: PreparationConfig) -> None:
    """Prepare the items of a chunk and write its part; nothing to do if it is there already.

    It is there if a worker wrote it and died before it could say so.
    """
    if not chunk.part.exists():
        prepared = [prepare_item(source, item, grid, config) for item in chunk.items]
        write_part(chunk.part, prepared, grid)


def reject_part(chunk: Chunk, rejection: Rejection, grid: Grid) -> None:
    """Write a part in which every item is rejected."""
    rows = [reject_row(item, "", rejection) for item in chunk.items]
    write_part(chunk.part, [PreparedItem([], [], [row]) for row in rows], grid)


def read_tables(chunks: Iterable[Chunk]) -> Iterator[PartTables]:
    """Everything but the audio of all parts, in the order of the items."""
    for arrays in _open_parts(chunks):
        yield PartTables(arrays["spectrograms"], json.loads(arrays["rows"].tobytes()))


def read_loops(chunks: Iterable[Chunk]) -> Iterator[Int16[np.ndarray, " samples"]]:
    """The audio of every loop, one at a time, in the order of the items."""
    for arrays in _open_parts(chunks):
        yield from arrays["audio"]


def _open_parts(chunks: Iterable[Chunk]) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of each part, of which only those asked for are read."""
    for chunk in chunks:
        for part in chunk.parts():
            with part.open("rb") as stream, np.load(stream) as arrays:
                yield arrays


def write_part(part: UPath, prepared: Sequence[PreparedItem], grid: Grid) -> None:
    """Write loops, their fingerprints, and the rows of each item."""
    loops = list(itertools.chain.from_iterable(item.loops for item in prepared))
    rate, scale = grid.sample_rate_hz, np.float32(INT16_SCALE)
    spectrograms = [fingerprint_spectrogram(loop / scale, rate) for loop in loops]
    rows = [(item.rows, item.rejects) for item in prepared]
    stream = io.BytesIO()
    np.savez(
        stream,
        audio=np.array(loops, np.int16).reshape(len(loops), grid.samples),
        spectrograms=np.array(spectrograms, np.float16).reshape(len(loops), SPECTROGRAM_SIZE),
        rows=np.frombuffer(json.dumps(rows).encode(), np.uint8),
    )
    atomic_write(part, stream.getvalue())

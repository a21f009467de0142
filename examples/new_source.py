"""A source of your own, a table of recordings: `python examples/new_source.py table.csv OUT`."""

import csv
from pathlib import Path

import typer

from techloop.audio.io import read_audio
from techloop.audio.recording import Recording
from techloop.data.build import prepare_loops
from techloop.data.source import Item
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig


class TableSource:
    """Recordings beside a CSV file of file, bpm and author; an author (`group`) is in one split."""

    def __init__(self, table: Path) -> None:
        self.name, self.table = "table", table

    def items(self) -> list[Item]:
        """One item per row."""
        rows = csv.DictReader(self.table.read_text(encoding="utf-8").splitlines())
        return [Item(row["file"], group=row["author"], bpm=float(row["bpm"])) for row in rows]

    def read(self, item: Item) -> Recording:
        """The audio of an item; what cannot be read becomes a row of the reject table."""
        return read_audio(self.table.parent / item.name)


def main(table: Path, out: Path) -> None:  # noqa: D103
    print(prepare_loops(TableSource(table), out, Grid(), PreparationConfig())["splits"])


if __name__ == "__main__":
    typer.run(main)

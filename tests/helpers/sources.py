"""A source whose audio a test gives, loops to give it, and what preparation wrote."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from techloop.artifacts import read_json
from techloop.audio.recording import Recording, Tags
from techloop.data.build import prepare_loops
from techloop.data.card import Card
from techloop.data.loops import PreparedItem, prepare_item
from techloop.data.source import Item, Source
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig
from tests.helpers.params import recipe

GRID = Grid(sample_rate_hz=4000, hop=32)
CONFIG = recipe(loudness_lufs=-18.0)


def prepare(
    source: Source,
    folder: Path | str,
    *,
    grid: Grid = GRID,
    config: PreparationConfig = CONFIG,
    **settings: Any,
) -> Card:
    """A dataset of these sources, in this process, with finished parts beside the folder."""
    defaults = {
        "train_fraction": 0.6,
        "validation_fraction": 0.2,
        "max_similarity": 1.0,
        "shard_mb": 1,
        "seed": 0,
        "checkpoints": Path(folder).parent / "checkpoints",
        "workers": 0,
    }
    return prepare_loops(source, folder, grid, config, **(defaults | settings))


def prepare_one(
    source: Source, item: Item, grid: Grid = GRID, config: PreparationConfig = CONFIG
) -> PreparedItem:
    """What becomes of one item."""
    return prepare_item(source, item, grid, config)


def bar(seed: int = 0, samples: int = GRID.samples) -> np.ndarray:
    """Four beats of decaying noise over a tone with whole cycles."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / samples
    x = 0.3 * rng.standard_normal(samples) * np.exp(-40 * (t % 0.25)) + 0.1 * np.sin(80 * np.pi * t)
    return x.astype(np.float32)


def bars(n: int) -> dict[str, np.ndarray]:
    """So many different bars, by name."""
    return {f"loop/{i:03d}": bar(i) for i in range(n)}


def recording(samples: np.ndarray, clipped: Sequence[int] = (), **tags: Any) -> Recording:
    """Samples with what else a file may state."""
    return Recording(samples, GRID.sample_rate_hz, np.array(clipped, np.int64), Tags(**tags))


@dataclass
class GivenSource:
    """A source whose audio a test gives: samples, a recording, or an error, by name.

    `overrides` are further fields of an item, by its name.
    """

    audio: Mapping[str, np.ndarray | Recording | Exception]
    bpm: float | None = GRID.bpm
    rate: int = GRID.sample_rate_hz
    groups: dict[str, str] = field(default_factory=dict)
    author: str = "me"
    name: str = "made"
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)

    def items(self) -> list[Item]:
        """One per name."""
        return [
            Item(
                **{
                    "name": name,
                    "group": self.groups.get(name, name),
                    "author": self.author,
                    "licence": "CC0-1.0",
                    "url": f"made:{len(name)}",
                    "bpm": self.bpm,
                    "factors": {"size_m": 2.0},
                }
                | self.overrides.get(name, {})
            )
            for name in self.audio
        ]

    def read(self, item: Item) -> Recording:
        """What was given."""
        given = self.audio[item.name]
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, Recording) else Recording(given, self.rate)


def read_dataset(folder: Path) -> tuple[Card, pd.DataFrame, np.ndarray, list[dict[str, str]]]:
    """Card, index, audio in the order of the index, and rejects."""
    card, index = read_json(folder / "card.json"), pd.read_parquet(folder / "index.parquet")
    shards = [np.load(folder / shard["file"], mmap_mode="r") for shard in card["shards"]]
    audio = np.stack([shards[s][r] for s, r in zip(index["shard"], index["row"], strict=True)])
    return card, index, audio, read_rows(folder / "rejected.csv")


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))

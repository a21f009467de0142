"""A source of what a test gives it, and loops to give it."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from techloop.artifacts import read_json
from techloop.audio.recording import Recording, Tags
from techloop.data.source import Item
from techloop.grid import Grid
from tests.helpers.params import recipe

GRID = Grid(sample_rate_hz=4000, hop=32)
RECIPE = recipe(grid=GRID, loudness_lufs=-18.0)


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """What `prepare_loops` is told besides source, folder and recipe."""
    told = {
        "train_fraction": 0.6,
        "validation_fraction": 0.2,
        "max_similarity": 1.0,
        "shard_mb": 1,
        "seed": 0,
        "checkpoints": folder / "checkpoints",
        "workers": 0,
    }
    return told | changes


def bar(seed: int = 0, samples: int = GRID.samples) -> np.ndarray:
    """Four beats of decaying noise over a tone with whole cycles."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / samples
    x = 0.3 * rng.standard_normal(samples) * np.exp(-40 * (t % 0.25)) + 0.1 * np.sin(80 * np.pi * t)
    return x.astype(np.float32)


@dataclass
class Made:
    """A source of what a test gives it: samples, a recording, or an error."""

    audio: dict[str, Any]
    bpm: float | None = GRID.bpm
    rate: int = GRID.sample_rate_hz
    groups: dict[str, str] = field(default_factory=dict)
    author: str = "me"
    name: str = "made"
    about: dict[str, dict[str, Any]] = field(default_factory=dict)

    def items(self) -> list[Item]:
        """One a name."""
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
                | self.about.get(name, {})
            )
            for name in self.audio
        ]

    def read(self, item: Item) -> Recording:
        """What was given."""
        given = self.audio[item.name]
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, Recording) else Recording(given, self.rate)


def bars(n: int) -> dict[str, np.ndarray]:
    """So many different bars, by name."""
    return {f"loop/{i:03d}": bar(i) for i in range(n)}


def recording(samples: np.ndarray, clipped: Any = (), **tags: Any) -> Recording:
    """Samples with what else a file may say."""
    return Recording(samples, GRID.sample_rate_hz, np.array(clipped, np.int64), Tags(**tags))


def prepared(folder: Path) -> tuple[dict, pd.DataFrame, np.ndarray, list[dict[str, str]]]:
    """Card, index, audio in the order of the index, and rejects."""
    card, index = read_json(folder / "card.json"), pd.read_parquet(folder / "index.parquet")
    shards = [np.load(folder / shard["file"], mmap_mode="r") for shard in card["shards"]]
    audio = np.stack([shards[s][r] for s, r in zip(index["shard"], index["row"], strict=True)])
    return card, index, audio, rows_of(folder / "rejected.csv")


def rows_of(file: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))

"""What an evaluation leaves behind: numbers, arrays to draw, tables and sounds, in one folder.

Nothing here draws; `techloop.reporting` makes pictures, titles and captions of these files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from techloop.artifacts import atomic_folder, write_json
from techloop.audio.wav import write_loop
from techloop.evaluation.baselines import check_baselines
from techloop.grid import Grid
from techloop.metric import Measurements, write_metrics


@dataclass(frozen=True)
class Sound:
    """A sound of an evaluation: any number of loops, whole beats of the grid.

    Attributes:
        file: name of its WAV.
        samples: one channel.
        facts: what its caption needs, by name, as JSON takes it.
    """

    file: str
    samples: Float[np.ndarray, " samples"]
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: by name.
        arrays: what pictures are drawn from, by name.
        facts: counts and names that captions need, as JSON takes them.
        tables: by name.
        sounds: in the order they are shown.
    """

    metrics: Measurements
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    sounds: tuple[Sound, ...] = ()

    def __post_init__(self) -> None:
        check_baselines(self.metrics)

    def write(self, folder: str | Path, grid: Grid, **files: object) -> None:
        """Write it whole: metrics.json, arrays.npz, facts.json, sounds.json, `<table>.csv`, WAVs.

        Args:
            folder: is replaced.
            grid: of the sounds.
            files: further JSON files, by name without the ending.
        """
        with atomic_folder(folder) as new:
            write_metrics(new / "metrics.json", self.metrics)
            # numpy's stubs fear that an array is called `allow_pickle`.
            np.savez_compressed(new / "arrays.npz", **self.arrays)  # type: ignore[arg-type]
            write_json(new / "facts.json", self.facts)
            for name, content in files.items():
                write_json(new / f"{name}.json", content)
            for name, table in self.tables.items():
                table.to_csv(
                    new / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n"
                )
            for sound in self.sounds:
                beats = grid.beats * len(sound.samples) // grid.samples
                write_loop(new / sound.file, sound.samples, grid.sample_rate_hz, grid.bpm, beats)
            described = [{"file": sound.file, **sound.facts} for sound in self.sounds]
            write_json(new / "sounds.json", described)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of an evaluation's folder, in memory.

    Raises:
        ValueError: there are none, or the file is damaged.
    """
    path = folder / "arrays.npz"
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is missing or damaged: {error}. `dvc checkout dvc.yaml` restores it, "
            "`dvc repro` makes it anew."
        ) from None

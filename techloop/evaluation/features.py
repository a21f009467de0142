"""What loops are compared by: mel statistics, patterns of sixteenths, descriptors, onsets."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch.nn.functional import adaptive_avg_pool1d

from techloop.audio.descriptors import UNITS, loop_descriptors, onset_strength, onsets
from techloop.audio.spectral import log_mel
from techloop.grid import Grid

FLOOR_DB = -80.0
BATCH = 50  # loops analysed at a time


class LoopFeatures(NamedTuple):
    """Features of `n` loops.

    Attributes:
        statistics: mean and deviation over time of each mel level, in dB.
        patterns: mel levels of each sixteenth, in dB.
        descriptors: those of `loop_descriptors`, in the order of `UNITS`.
        onset_strength: in dB.
        onsets: frames at which something starts.
    """

    statistics: Float[np.ndarray, "n twice_mels"]
    patterns: Float[np.ndarray, "n steps mels"]
    descriptors: Float[np.ndarray, "n descriptors"]
    onset_strength: Float[np.ndarray, "n frames"]
    onsets: Bool[np.ndarray, "n frames"]

    def descriptor(self, name: str) -> Float[np.ndarray, " n"]:
        """One of the descriptors, in its unit."""
        return self.descriptors[:, list(UNITS).index(name)]

    def reordered(self, order: list[int]) -> "LoopFeatures":
        """Those of the same loops in another order."""
        return LoopFeatures(*(values[order] for values in self))


def features(audio: Float[np.ndarray, "n samples"], grid: Grid) -> LoopFeatures:
    """Features of loops on the grid."""
    parts = []
    for i in range(0, len(audio), BATCH):
        batch = torch.from_numpy(audio[i : i + BATCH])
        level = mel_levels(audio[i : i + BATCH], grid)
        strength = onset_strength(batch, grid.sample_rate_hz, grid.hop)
        parts.append(
            LoopFeatures(
                statistics=level_statistics(level),
                patterns=level_patterns(level, grid),
                descriptors=np.stack(
                    [v.numpy() for v in loop_descriptors(batch, grid).values()], 1
                ),
                onset_strength=strength.numpy(),
                onsets=onsets(strength, grid).numpy(),
            )
        )
    return LoopFeatures(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def mel_levels(
    audio: Float[np.ndarray, "n samples"], grid: Grid
) -> Float[np.ndarray, "n mels frames"]:
    """Mel levels of loops in dB, at least -80: the spectrogram that is shown and compared."""
    x = torch.from_numpy(audio)
    return log_mel(x, grid.sample_rate_hz, hop=grid.hop, floor_db=FLOOR_DB).numpy()


def level_statistics(
    levels: Float[np.ndarray, "n mels frames"],
) -> Float[np.ndarray, "n twice_mels"]:
    """Mean and deviation over time of each mel level."""
    return np.concatenate([levels.mean(2), levels.std(2)], 1)


def log_mel_statistics(
    audio: Float[np.ndarray, "n samples"], grid: Grid
) -> Float[np.ndarray, "n twice_mels"]:
    """Mean and deviation over time of each mel level of loops, in dB: `LoopFeatures.statistics`."""
    return np.concatenate(
        [
            level_statistics(mel_levels(audio[i : i + BATCH], grid))
            for i in range(0, len(audio), BATCH)
        ]
    )


def level_patterns(
    levels: Float[np.ndarray, "n mels frames"], grid: Grid
) -> Float[np.ndarray, "n steps mels"]:
    """Mel levels averaged over each sixteenth."""
    return adaptive_avg_pool1d(torch.from_numpy(levels), grid.steps).numpy().transpose(0, 2, 1)


def mel_range_hz(grid: Grid) -> tuple[float, float]:
    """Lowest and highest frequency of the mel bands of `mel_levels`."""
    return 30.0, grid.sample_rate_hz / 2

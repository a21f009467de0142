"""What the evaluations of the audio VAE and of a fine-tuned decoder share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from techloop.data.datasets import LoopDataset
from techloop.evaluation.decoded_loops import (
    Comparison,
    band_errors_db,
    compare,
    decode_loops,
    distance_measurements,
    error_measurements,
    examples_by_error,
    loop_sounds,
    sample_held_out,
    spectrum_noise,
    tonality_measurements,
)
from techloop.evaluation.features import log_mel_statistics, mel_range_hz
from techloop.evaluation.result import Sound
from techloop.evaluation.training_distances import TrainingDistances, log_mel_distances
from techloop.grid import Grid
from techloop.metric import Measurement, Metric
from techloop.models.audio_vae import AudioVAE

LOOPS = Metric("loops", "test loops")
HELD_OUT_LOOPS = Metric("held_out_loops", "test and validation loops")


@dataclass(frozen=True)
class Judged:
    """Held-out loops through some decoders, one of which is judged.

    Attributes:
        grid: of the loops.
        audio: test loops by name: the originals, then those of each decoder.
        names: what each test loop is called.
        comparison: of test loops.
        examples: rows of test loops, by the name of their rank; see `examples_by_error`.
        distances: to all training loops.
        points: all held-out loops, embedded: `real`, then those of each decoder.
        metrics: of the decoder that is judged, beside their baselines.
    """

    grid: Grid
    audio: Mapping[str, Float[Tensor, "n samples"]]
    names: np.ndarray
    comparison: Comparison
    examples: Mapping[str, int]
    distances: TrainingDistances
    points: Mapping[str, Float[np.ndarray, "m d"]]
    metrics: Sequence[Measurement]

    def arrays(self) -> dict[str, np.ndarray]:
        """Errors by band; mel levels of the examples and tonality, of originals and decoders."""
        rows = list(self.examples.values())
        return {
            **band_errors_db(self.comparison.mel),
            **{f"{kind}_db": self.comparison.mel[kind][rows].numpy() for kind in self.audio},
            **{f"tonality_{kind}": self.comparison.tonality[kind] for kind in self.audio},
        }

    def facts(self) -> dict[str, object]:
        """What every caption needs."""
        return {
            "loops": len(self.names),
            "beats": self.grid.beats,
            "mel_range_hz": mel_range_hz(self.grid),
        }

    def sounds(self, shown: Mapping[str, int]) -> tuple[Sound, ...]:
        """`loop_sounds` of rows of test loops, by what they are examples of."""
        return tuple(
            sound
            for example, row in shown.items()
            for sound in loop_sounds(
                example, row, self.names[row], self.audio, self.comparison.errors
            )
        )


def judge(
    vaes: Mapping[str, AudioVAE],
    judged: str,
    train: LoopDataset,
    held_out: LoopDataset,
    *,
    loops_used: int,
    examples: int,
    seed: int,
) -> Judged:
    """Measure one of some audio VAEs that differ by their decoders; the others are baselines.

    Args:
        vaes: by name.
        judged: the name of one of them.
        train: the training split.
        held_out: what to reconstruct: the validation and test splits.
        loops_used: at most this many of the latter, sampled by `seed`.
        examples: how many to show, by the log-mel error of the one that is judged.
        seed: of the sample of loops, of the noise and of the bootstrap.

    Raises:
        ValueError: see `sample_held_out` and `decode_loops`.
    """
    first, rng = next(iter(vaes.values())), np.random.default_rng(seed)
    grid = first.grid
    sample = sample_held_out(first, train, held_out, loops_used, rng)
    decoded = decode_loops(vaes, sample.audio, seed)
    audio = {
        name: loops[sample.tested] for name, loops in {"original": sample.audio, **decoded}.items()
    }
    x = audio["original"]
    comparison = compare(grid, x, {name: audio[name] for name in decoded}, spectrum_noise(x, rng))
    distances = log_mel_distances(train, min(len(sample.audio), len(train)), seed=seed)
    points = {
        name: log_mel_statistics(loops.numpy(), grid)
        for name, loops in {"real": sample.audio, **decoded}.items()
    }
    metrics = [
        LOOPS.measured(float(len(x))),
        HELD_OUT_LOOPS.measured(float(len(sample.audio))),
        *error_measurements(comparison.errors, judged),
        *tonality_measurements(comparison.tonality, judged, seed),
        *distance_measurements(distances, points, judged, seed),
    ]
    chosen = examples_by_error(comparison.errors[judged]["log_mel_l1_db"].numpy(), examples)
    names = sample.names[sample.tested]
    return Judged(grid, audio, names, comparison, chosen, distances, points, metrics)

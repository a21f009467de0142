"""Evaluates generated loops: likeness to real loops, variety, copies, rhythm and seam.

Each metric of a sample stands beside that of real held-out loops (`real`), the best that can be
expected, and that of loops whose points are independent draws from N(0, 1) (`standard_normal`),
without the prior that was learned. `COPIED_SHARE` and the counts have no baselines: the share is
defined by real loops.
"""

from collections.abc import Mapping

import numpy as np
import torch

from techloop.data.datasets import LoopDataset
from techloop.evaluation.comparison import compared
from techloop.evaluation.features import mel_levels, mel_range_hz
from techloop.evaluation.generation_metrics import Embedding, GenerationMetrics
from techloop.evaluation.metrics.copies import COPIED_SHARE, copied_share
from techloop.evaluation.metrics.rhythm import ON_GRID_SHARE, chance_on_grid_share
from techloop.evaluation.metrics.tempo import TEMPO_SHARE, tempo_share
from techloop.evaluation.result import Evaluation, Sound
from techloop.evaluation.samples import (
    LOOPS,
    REAL_LOOPS,
    generated,
    real_loops,
    sample_standard_normal,
    smallest_sample,
)
from techloop.instrument import Instrument
from techloop.metric import Metric

COMPARED_TRAINING_LOOPS = Metric("training_loops", "training loops compared with")

REAL_SHOWN = 4
BASELINE_LOOPS = 200  # of independent points, and among which density and coverage are measured
TEMPO_LOOPS = 40  # of each sample, whose tempo librosa estimates


@torch.inference_mode()
def evaluate_generation(
    instrument: Instrument,
    train: LoopDataset,
    held_out: LoopDataset,
    *,
    loops_used: int,
    examples: int,
    seed: int,
    embeddings: Mapping[str, Embedding] | None = None,
) -> Evaluation:
    """Measure loops from the prior.

    Args:
        instrument: both VAEs.
        train: the training split, which samples are compared with: all loops, at most 5,000.
        held_out: the validation and test splits: all loops, at most 2,000.
        loops_used: how many loops are generated. As many as make the deviations of the distances
            small; there are only 200 of independent points.
        examples: generated loops to hear and see, at most as many as there are: the first ones
            drawn, not chosen.
        seed: of the draws.
        embeddings: further ones for distances, such as a pretrained network's, by name.

    Returns:
        Metrics, and their baselines:

        * those of `GenerationMetrics`, with 95 % intervals: `standard_normal`, `real`; for
          `ON_GRID_SHARE` also `chance`;
        * `TEMPO_SHARE` of the first 40 loops: `standard_normal`, `real`;
        * `COPIED_SHARE`: none;
        * `LOOPS`, `REAL_LOOPS`, `COMPARED_TRAINING_LOOPS`: none.

        Arrays: `levels_db`, mel levels of the examples, of real loops and of their reconstructions;
        `nearest_generated`, `nearest_real`: distance ratios to the nearest training loop;
        `plane_training`, `plane_held_out`, `plane_generated`: first two principal components in dB
        of as many loops each.

    Raises:
        ValueError: fewer than two loops of any kind, or loops of another grid.
    """
    grid = instrument.grid
    if held_out.grid != grid or train.grid != grid:
        raise ValueError(f"the loops are on {held_out.grid}, the instrument on {grid}")
    n = smallest_sample(train, held_out, min(loops_used, BASELINE_LOOPS))
    score = GenerationMetrics(train, n, seed=seed, embeddings=embeddings)
    audio = {
        "generated": generated(instrument, loops_used, seed),
        "standard_normal": sample_standard_normal(instrument, n, seed),
        "real": real_loops(held_out, seed),
    }
    scores = {name: score(loops) for name, loops in audio.items()}
    tempo = {
        name: {TEMPO_SHARE: tempo_share(loops[:TEMPO_LOOPS], grid)} for name, loops in audio.items()
    }
    own = scores["generated"]
    nearest = {name: scores[name].nearest for name in ("generated", "real")}
    counts = {
        LOOPS: float(len(audio["generated"])),
        REAL_LOOPS: float(len(audio["real"])),
        COMPARED_TRAINING_LOOPS: float(len(score.training_patterns)),
    }
    copied = {COPIED_SHARE: copied_share(nearest["generated"], nearest["real"])}
    metrics = compared(
        {**counts, **own.values, **tempo["generated"], **copied},
        {
            "standard_normal": {**scores["standard_normal"].values, **tempo["standard_normal"]},
            "real": {**scores["real"].values, **tempo["real"]},
            "chance": {ON_GRID_SHARE: chance_on_grid_share(grid)},
        },
        own.intervals,
    )

    shown, real = audio["generated"][:examples], audio["real"][:REAL_SHOWN]
    return Evaluation(
        metrics,
        arrays={
            "levels_db": mel_levels(
                np.concatenate([shown, real, instrument.reconstruct(real)]), grid
            ),
            **{f"nearest_{name}": values for name, values in nearest.items()},
            "plane_training": _plane(score.embedding[:n]),
            "plane_held_out": _plane(scores["real"].embedding[:n]),
            "plane_generated": _plane(own.embedding[:n]),
        },
        facts={
            "loops": len(audio["generated"]),
            "real_loops": len(audio["real"]),
            "training_loops": len(score.training_patterns),
            "generated_shown": len(shown),
            "real_shown": len(real),
            "beats": grid.beats,
            "mel_range_hz": mel_range_hz(grid),
        },
        sounds=tuple(
            Sound(f"generated-{i}.wav", loop, {"number": i}) for i, loop in enumerate(shown, 1)
        ),
    )


def _plane(points: np.ndarray) -> np.ndarray:
    """The first two coordinates. With two loops there is only one; the second is set to 0."""
    return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))

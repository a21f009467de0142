"""Evaluates generated loops: likeness to real loops, variety, copies, rhythm and seam.

Each metric of a sample stands beside that of real test loops (`real`), the best that can be
expected, and that of loops whose points are independent draws from N(0, 1) (`standard_normal`),
without the prior that was learned. `COPIED_SHARE` and the counts have no baselines: the share is
defined by real loops.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import stats
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.evaluation.comparison import Values, compared
from techloop.evaluation.features import mel_levels, mel_range_hz
from techloop.evaluation.generation_metrics import Embedding, GenerationMetrics
from techloop.evaluation.metrics.copies import COPIED_SHARE, copied_share
from techloop.evaluation.metrics.rhythm import ON_GRID_SHARE, chance_on_grid_share
from techloop.evaluation.metrics.tempo import TEMPO_SHARE, tempo_share
from techloop.evaluation.result import Evaluation, Sound
from techloop.evaluation.samples import (
    LOOPS,
    generated,
    real_loops,
    sample_size,
    sample_standard_normal,
)
from techloop.instrument import Instrument
from techloop.metric import Metric

COMPARED_TRAINING_LOOPS = Metric("training_loops", "training loops compared with")

REAL_SHOWN = 4
TEMPO_LOOPS = 40  # of each sample, whose tempo librosa estimates
# Distance between the seeds of two samples. The batches of a sample use the seeds between.
SEED_STRIDE = 1_000_003


@torch.inference_mode()
def evaluate_generation(
    instrument: Instrument,
    train: LoopDataset,
    test: LoopDataset,
    *,
    loops_used: int,
    seeds: int,
    examples: int,
    seed: int,
    embeddings: Mapping[str, Embedding] | None = None,
) -> Evaluation:
    """Measure loops from the prior.

    Samples of equal size are compared: training loops (the reference), generated loops, loops of
    independent points, and test loops. Copies are searched among up to 2,000 training loops.

    Args:
        instrument: both VAEs.
        train: the training split.
        test: the test split.
        loops_used: size of the samples, where the splits have as many.
        seeds: how many samples are generated.
        examples: generated loops to hear and see, at most as many as the samples have: the first
            ones drawn, not chosen.
        seed: of the draws.
        embeddings: further ones for a Fréchet distance, such as a pretrained network's, by name.

    Returns:
        Metrics, and their baselines:

        * those of `GenerationMetrics`, means over seeds and, with two seeds or more, the 95 %
          interval of the mean: `standard_normal`, `real`; for `ON_GRID_SHARE` also `chance`;
        * `TEMPO_SHARE` of the first 40 loops: `standard_normal`, `real`;
        * `COPIED_SHARE`: none;
        * `LOOPS`, `COMPARED_TRAINING_LOOPS`: none.

        Arrays: `levels_db`, mel levels of the examples, of real loops and of their reconstructions;
        `nearest_generated`, `nearest_real`: distance ratios to the nearest training loop;
        `plane_training`, `plane_test`, `plane_generated`: first two principal components in dB.

    Raises:
        ValueError: fewer than two loops in a split, or loops of another grid.
    """
    grid = instrument.grid
    if test.grid != grid or train.grid != grid:
        raise ValueError(f"the loops are on {test.grid}, the instrument on {grid}")
    n = sample_size(train, test, loops_used)
    score = GenerationMetrics(train, n, seed=seed, embeddings=embeddings)
    audio = {
        "generated": generated(instrument, n, seed),
        "standard_normal": sample_standard_normal(instrument, n, seed),
        "real": real_loops(test, n, seed),
    }
    scores = {name: score(loops) for name, loops in audio.items()}
    tempo = {
        name: {TEMPO_SHARE: tempo_share(loops[:TEMPO_LOOPS], grid)} for name, loops in audio.items()
    }
    samples = [scores["generated"].values] + [
        score(generated(instrument, n, seed + i * SEED_STRIDE)).values
        for i in tqdm(range(1, seeds), "seeds")
    ]
    means, intervals = over_seeds(samples) if seeds > 1 else (samples[0], {})
    nearest = {name: scores[name].nearest for name in ("generated", "real")}
    counts = {LOOPS: float(n), COMPARED_TRAINING_LOOPS: float(len(score.training_patterns))}
    copied = {COPIED_SHARE: copied_share(nearest["generated"], nearest["real"])}
    metrics = compared(
        {**counts, **means, **tempo["generated"], **copied},
        {
            "standard_normal": {**scores["standard_normal"].values, **tempo["standard_normal"]},
            "real": {**scores["real"].values, **tempo["real"]},
            "chance": {ON_GRID_SHARE: chance_on_grid_share(grid)},
        },
        intervals,
    )

    examples = min(examples, n)
    shown, real = audio["generated"][:examples], audio["real"][:REAL_SHOWN]
    return Evaluation(
        metrics,
        arrays={
            "levels_db": mel_levels(
                np.concatenate([shown, real, instrument.reconstruct(real)]), grid
            ),
            **{f"nearest_{name}": values for name, values in nearest.items()},
            "plane_training": _plane(score.embedding),
            "plane_test": _plane(scores["real"].embedding),
            "plane_generated": _plane(scores["generated"].embedding),
        },
        facts={
            "loops": n,
            "training_loops": len(score.training_patterns),
            "generated_shown": examples,
            "real_shown": len(real),
            "beats": grid.beats,
            "mel_range_hz": mel_range_hz(grid),
        },
        sounds=tuple(
            Sound(f"generated-{i}.wav", loop, {"number": i}) for i, loop in enumerate(shown, 1)
        ),
    )


def over_seeds(
    samples: Sequence[Values],
) -> tuple[dict[Metric, float], dict[Metric, tuple[float, float]]]:
    """Mean over samples of each number, and the ends of its 95 % interval (Student's t).

    nan where a sample has no value.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"an interval over seeds takes two or more, got {len(samples)}")
    means, intervals = {}, {}
    for metric in samples[0]:
        each = np.array([values[metric] for values in samples])
        reach = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each))
        mean = float(each.mean())
        means[metric], intervals[metric] = mean, (mean - reach, mean + reach)
    return means, intervals


def _plane(points: np.ndarray) -> np.ndarray:
    """The first two coordinates. With two loops there is only one; the second is set to 0."""
    return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))

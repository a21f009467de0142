"""Does a loop copy another: its distance to the nearest one, and the share that is too near."""

import math

import numpy as np
import torch
from jaxtyping import Float

from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.metric import Metric

# Best at the value of real test loops: neither copies, nor unlike anything.
NEAREST_TRAINING_DB = Metric(
    "nearest_training_db", "distance to the nearest training loop", "dB", baselines=OTHER_SAMPLES
)
NEAREST_TRAINING_RATIO = Metric(
    "nearest_training_ratio", "nearest training loop / average one", baselines=OTHER_SAMPLES
)
COPIED_SHARE = Metric("copied_share", "share of loops that look copied", better="lower")

COPY_QUANTILE = 0.01
FEWEST_TO_RANK = 20  # real loops that have such a quantile


def nearest_distance(
    x: Float[np.ndarray, "n steps mels"], among: Float[np.ndarray, "m _ _"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """How near each pattern is to the nearest of others, in the best rotation by sixteenths.

    Returns:
        The root mean square difference in dB, 0 for a copy; and that over the mean difference to
        all of the others: 0 for a copy, about 1 where none is nearer than the rest. The second
        finds copies better: a blurred loop is near to everything.

    Raises:
        ValueError: there is nothing to compare with, or patterns differ in shape.
    """
    if not len(among) or x.shape[1:] != among.shape[1:]:
        raise ValueError(f"patterns of shape {x.shape} against {among.shape}")
    # Around a common mean, so that the rounding of squares leaves a copy within 0.05 dB of 0.
    centre = among.mean((0, 1))
    flat = torch.from_numpy(among - centre).flatten(1)
    best = torch.full((len(x), len(among)), -torch.inf)
    for step in range(x.shape[1]):
        turned = torch.from_numpy(np.roll(x - centre, step, 1)).flatten(1)
        best = torch.maximum(best, turned @ flat.T)
    squares = turned.square().sum(1)[:, None] + flat.square().sum(1) - 2 * best
    distance = (squares.clamp_min(0) / flat.shape[1]).sqrt()
    nearest, mean = distance.amin(1), distance.mean(1)
    return nearest.numpy(), torch.where(mean > 0, nearest / mean, 0.0).numpy()


def copied_share(nearest: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"]) -> float:
    """Share of loops that are nearer to a training loop than 99 % of real loops are, 0 to 1.

    Expect 0.01: as many real loops are that near by chance. Fewer than 20 real loops: nan.

    Args:
        nearest: distance ratios of the loops, see `nearest_distance`.
        real: the same of real loops that are not for training.
    """
    if len(real) < FEWEST_TO_RANK:
        return math.nan
    return float((nearest < np.quantile(real, COPY_QUANTILE)).mean())

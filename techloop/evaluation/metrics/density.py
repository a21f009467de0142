"""Density, coverage and diversity: where one sample lies among the points of another."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.metric import Metric

# A collapse onto the densest place raises the density, so neither direction of it is better.
DENSITY = Metric("density", "density", baselines=OTHER_SAMPLES)
COVERAGE = Metric("coverage", "coverage", better="higher", baselines=OTHER_SAMPLES)
# Best at 1, as varied as training loops.
DIVERSITY_RATIO = Metric(
    "diversity_ratio", "diversity / that of training loops", baselines=OTHER_SAMPLES
)


def density_coverage(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], k: int
) -> tuple[float, float]:
    """Fidelity and diversity by balls around real points, each out to its k-th nearest real one.

    Density: the mean number of balls that a fake point lies in, over k; about 1 for fakes like the
    real ones, higher where they crowd the densest place. Coverage: share of balls with a fake point
    in them, 0 to 1 (fakes like the real ones: about 1 - 2^-k). A fake point on the rim is inside,
    so copies count even where real points coincide.

    Raises:
        ValueError: k is not below the number of real points.

    References:
        Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020,
        equations 4 and 5.
    """
    if not 0 < k < len(real):
        raise ValueError(f"{k} neighbours among {len(real)} real points; take fewer, from 1")
    among = _distances(real, real)
    np.fill_diagonal(among, np.inf)
    radius = np.sort(among, 1)[:, k - 1]
    inside = _distances(real, fake) <= radius[:, None]
    return float(inside.sum(0).mean() / k), float(inside.any(1).mean())


def mean_pairwise_distance(x: Float[np.ndarray, "n d"]) -> float:
    """Mean Euclidean distance of two different points: how varied a sample is (copies: 0).

    Raises:
        ValueError: fewer than two points.
    """
    if len(x) < 2:
        raise ValueError(f"variety takes two loops or more, got {len(x)}")
    return float(_distances(x, x).sum() / (len(x) * (len(x) - 1)))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    distances: np.ndarray = cdist(x.astype(np.float64), y.astype(np.float64))
    return distances

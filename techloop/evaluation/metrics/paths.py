"""How smoothly a descriptor, or a whole sound, changes along a path of loops."""

import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from scipy import stats

from techloop.evaluation.baselines import OTHER_PATHS
from techloop.metric import Metric

PATH_LENGTH_RATIO = Metric(
    "path_length_ratio", "path length / displacement", better="lower", baselines=OTHER_PATHS
)
MONOTONICITY = Metric("monotonicity", "monotonicity", better="higher", baselines=OTHER_PATHS)
LARGEST_JUMP = Metric(
    "largest_jump", "largest step / displacement", better="lower", baselines=OTHER_PATHS
)
JERK = Metric("jerk", "jerk", better="lower", baselines=OTHER_PATHS)
EXCESS_PATH_LENGTH = Metric(
    "excess_path_length", "excess path length", better="lower", baselines=OTHER_PATHS
)
PERCEPTUAL_PATH_LENGTH = Metric(
    "perceptual_path_length_db",
    "perceptual path length",
    "dB",
    better="lower",
    baselines=OTHER_PATHS,
)
PERCEPTUAL_PATH_RATIO = Metric(
    "perceptual_path_ratio",
    "perceptual path / distance of the ends",
    better="lower",
    baselines=OTHER_PATHS,
)
PERCEPTUAL_LARGEST_JUMP = Metric(
    "perceptual_largest_jump",
    "largest perceptual step / distance of the ends",
    better="lower",
    baselines=OTHER_PATHS,
)
WALK_LENGTH_RATIO = Metric(
    "walk_length_ratio", "length of a closed walk / twice its range", better="lower"
)


def path_length_ratio(values: Float[np.ndarray, " n"]) -> float:
    """Travelled over straight distance of a descriptor along a path (1: monotone; lower is better).

    A path that ends where it began has no direction to be judged by: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return float(np.abs(np.diff(values)).sum() / displacement) if displacement else math.nan


def monotonicity(values: Float[np.ndarray, " n"]) -> float:
    """How steadily a descriptor goes one way: |Spearman's correlation| with the position, 0 to 1.

    A constant one goes no way: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    _displacement(values, 2)
    if np.ptp(values) == 0:
        return math.nan
    return abs(float(stats.spearmanr(values, np.arange(values.size)).statistic))


def largest_jump(values: Float[np.ndarray, " n"]) -> float:
    """The largest step as a share of the displacement (1 / (n - 1): even steps; lower is better).

    A path that ends where it began: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return float(np.abs(np.diff(values)).max() / displacement) if displacement else math.nan


def jerk(values: Float[np.ndarray, " n"]) -> float:
    """Root mean square third derivative over the displacement, the path taking unit time (0: best).

    0 for a straight line or a parabola. A path that ends where it began: nan.

    Raises:
        ValueError: fewer than four points, or one that is not finite.

    References:
        Hogan & Sternad, Sensitivity of smoothness measures to movement duration, amplitude and
        arrests, 2009 (dimensionless jerk; of means instead of integrals).
    """
    displacement = _displacement(values, 4)
    if displacement == 0:
        return math.nan
    third = np.diff(values, 3) * (values.size - 1) ** 3
    return float(np.sqrt(np.mean(third**2)) / displacement)


def excess_path_length(values: Float[np.ndarray, " n"]) -> float:
    """Travelled less straight distance, in the descriptor's unit (0: monotone; lower is better).

    Also defined where the ends are alike, as those of equally loud loops are.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return max(float(np.abs(np.diff(values)).sum() - displacement), 0.0)


# All measures of one descriptor along a path.
MEASURES: Mapping[Metric, Callable[[Float[np.ndarray, " n"]], float]] = {
    EXCESS_PATH_LENGTH: excess_path_length,
    PATH_LENGTH_RATIO: path_length_ratio,
    MONOTONICITY: monotonicity,
    LARGEST_JUMP: largest_jump,
    JERK: jerk,
}


def perceptual_path(patterns: Float[np.ndarray, "n steps mels"]) -> dict[Metric, float]:
    """How far a path of loops goes, as root mean square difference of mel levels of sixteenths.

    * `PERCEPTUAL_PATH_LENGTH`: sum over steps, in dB.
    * `PERCEPTUAL_PATH_RATIO`: that over the distance of the ends: 1 or more, lower is straighter.
    * `PERCEPTUAL_LARGEST_JUMP`: the largest step over that distance; 1 / (n - 1) or more.

    A path that ends where it began: both ratios are nan.

    Raises:
        ValueError: fewer than two loops, or a level that is not finite.

    References:
        Karras et al., A style-based generator architecture for GANs, 2019, section 4.1, with whole
        paths instead of their derivative, and mel levels instead of a network's features.
    """
    if len(patterns) < 2 or not np.isfinite(patterns).all():
        raise ValueError(f"a path takes two loops of finite levels or more, got {len(patterns)}")
    flat = patterns.reshape(len(patterns), -1).astype(np.float64)
    steps = np.sqrt(np.mean(np.diff(flat, axis=0) ** 2, 1))
    straight = float(np.sqrt(np.mean((flat[-1] - flat[0]) ** 2)))
    return {
        PERCEPTUAL_PATH_LENGTH: float(steps.sum()),
        PERCEPTUAL_PATH_RATIO: float(steps.sum()) / straight if straight else math.nan,
        PERCEPTUAL_LARGEST_JUMP: float(steps.max()) / straight if straight else math.nan,
    }


def closed_length_ratio(values: Float[np.ndarray, " n"]) -> float:
    """Travelled distance around a closed curve over twice its range (1: up once and down once).

    A constant curve: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    _displacement(values, 2)
    extent = np.ptp(values)
    if extent == 0:
        return math.nan
    return float(np.abs(np.diff(values, append=values[0])).sum() / (2 * extent))


def _displacement(values: np.ndarray, points: int) -> float:
    """Straight distance of a path, which is checked to have so many finite points."""
    if values.size < points:
        raise ValueError(f"a path needs {points} points here, got {values.size}")
    if not np.isfinite(values).all():
        raise ValueError("a path through values that are NaN or infinite")
    return float(abs(values[-1] - values[0]))

"""How far a number of a sample of loops would scatter over other samples: the bootstrap over loops.

A statistic takes what was measured of each loop and how often each loop counts, and computes its
number for many such countings at once. Any of them can then be resampled, also for two decoders on
the same loops: each counting counts for both, so what makes a loop hard for both cancels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
NORMAL_95 = 1.959964  # deviations to either side that hold 95 % of a normal distribution

Statistic = Callable[
    [Float[np.ndarray, "n ..."], Int[np.ndarray, "times n"]], Float[np.ndarray, " times"]
]
"""A number of `n` loops, for each of several countings of them: `(values, counts)`."""


class Estimate(NamedTuple):
    """A number, and how far it would scatter over samples of the same size.

    Attributes:
        value: of the sample as it is.
        deviation: the bootstrap's standard deviation of it.
    """

    value: float
    deviation: float

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval: the value, give or take 1.96 deviations.

        Not percentiles of the bootstrap: a distance of two samples grows when loops of one are
        drawn twice, so these percentiles lie too high and may leave the value itself out.
        """
        reach = NORMAL_95 * self.deviation
        return self.value - reach, self.value + reach


def resampled_counts(n: int, *, seed: int, times: int = RESAMPLES) -> Int[np.ndarray, "times n"]:
    """How often each of `n` loops is drawn in each of `times` draws of `n` with replacement."""
    counts: np.ndarray = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=times)
    return counts


def bootstrap(
    values: Float[np.ndarray, "n ..."],
    statistic: Statistic,
    *,
    seed: int = 0,
    times: int = RESAMPLES,
) -> Estimate:
    """A statistic of a sample, and its bootstrap standard deviation over the sample's loops.

    Args:
        values: what was measured of each loop.
        statistic: the number of them.
        seed: of the resampling. The same seed draws the same loops of samples of one size.
        times: resamples.

    Returns:
        The estimate. Resamples without a finite number are left out of the deviation, which is nan
        where fewer than two remain, and for a sample of one loop.

    Raises:
        ValueError: no loops.

    References:
        Efron, Bootstrap methods: another look at the jackknife, 1979.
    """
    return _estimate(lambda counts: statistic(values, counts), len(values), seed, times)


def paired_difference(
    first: Float[np.ndarray, "n ..."],
    second: Float[np.ndarray, "m ..."],
    statistic: Statistic | None = None,
    *,
    seed: int = 0,
    times: int = RESAMPLES,
) -> Estimate:
    """The statistic of `second` less that of `first`, measured on the same loops in one order.

    Each resample draws the same loops of both, so the deviation is that of the difference and not
    of either. The usual case is two decoders on the same latents (and the same noise).

    Args:
        first, second: what was measured of each loop: errors, as `(n,)` for the default; points
            `(n, d)` of an embedding for `FrechetDistance.resampled` or `KernelDistance.resampled`.
        statistic: the number that is compared; by default the mean over loops, see `mean`.
        seed, times: as in `bootstrap`.

    Raises:
        ValueError: they differ in shape, so they are not of the same loops, or are empty.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"a paired comparison takes the same loops twice, got {first.shape} and {second.shape}"
        )
    if (
        statistic is None
    ):  # of the differences, so that a loop without one of its values is left out
        return bootstrap(second - first, mean, seed=seed, times=times)
    return _estimate(
        lambda counts: statistic(second, counts) - statistic(first, counts), len(first), seed, times
    )


def mean(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, "times n"]
) -> Float[np.ndarray, " times"]:
    """The mean over loops, a `Statistic`; loops whose value is nan are left out (nan: all are)."""
    defined = np.isfinite(values)
    weights = counts[:, defined].astype(np.float64)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = weights @ values[defined].astype(np.float64) / weights.sum(1)
    return means


def median(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, "times n"]
) -> Float[np.ndarray, " times"]:
    """The median over loops, a `Statistic`; of those that are finite (nan: none is)."""
    defined = np.isfinite(values)
    if not defined.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(values[defined], kind="stable")
    ordered, below = values[defined][order], counts[:, defined][:, order].cumsum(1)
    size = below[:, -1:]
    lower, upper = ((below >= half).argmax(1) for half in ((size + 1) // 2, size // 2 + 1))
    medians: np.ndarray = (ordered[lower] + ordered[upper]) / 2
    return np.where(size[:, 0] > 0, medians, np.nan)


def _estimate(
    number: Callable[[Int[np.ndarray, "times n"]], Float[np.ndarray, " times"]],
    n: int,
    seed: int,
    times: int,
) -> Estimate:
    if n < 1:
        raise ValueError("a bootstrap takes one loop or more, got none")
    value = float(number(np.ones((1, n), int))[0])
    drawn = number(resampled_counts(n, seed=seed, times=times)) if n > 1 else np.empty(0)
    drawn = drawn[np.isfinite(drawn)]
    return Estimate(value, float(drawn.std(ddof=1)) if drawn.size > 1 else math.nan)

"""Correlation of frame curves over loops: intervals by bootstrap, adjusted p-values.

Frames of one loop are not independent, loops are: the bootstrap resamples loops.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Correlation:
    """Correlations of dimensions (rows) with descriptors (columns), each in [-1, 1].

    Attributes:
        value: the coefficient; nan where one of the two is constant.
        low, high: ends of the 95 % percentile interval of the bootstrap; nan for two loops.
        p: two-sided p-value of no correlation; nan for two loops.
    """

    value: Float[np.ndarray, "d k"]
    low: Float[np.ndarray, "d k"]
    high: Float[np.ndarray, "d k"]
    p: Float[np.ndarray, "d k"]


def ranked(values: Float[np.ndarray, "n c t"]) -> Float[np.ndarray, "n c t"]:
    """Each channel's values replaced by their ranks among all loops' frames; ties share a rank."""
    n, c, t = values.shape
    ranks: np.ndarray = stats.rankdata(values.transpose(1, 0, 2).reshape(c, n * t), axis=1)
    return ranks.reshape(c, n, t).transpose(1, 0, 2)


def loop_correlation(
    x: Float[np.ndarray, "n d t"],
    y: Float[np.ndarray, "m k s"],
    *,
    bootstrap: int,
    rng: np.random.Generator,
) -> Correlation:
    """Pearson's correlation over all frames of all loops; that of ranks is Spearman's.

    Loops are drawn with replacement for the intervals (a cluster bootstrap; ranks stay those of
    the whole sample). The p-value is of Fisher's z over its bootstrap standard error, against
    Student's t with one degree of freedom less than loops. A constant channel gives nan throughout.
    Two loops are too few to resample: they have no interval and no p-value, nan.

    Args:
        x, y: loops, channels, frames.
        bootstrap: resamples of the loops.
        rng: draws the resamples.

    Raises:
        ValueError: fewer than two loops, shapes that do not match, or values that are not finite.

    References:
        Fisher, 1921; Field & Welsh, Bootstrapping clustered data, 2007.
    """
    if len(x) < 2 or x.shape[::2] != y.shape[::2]:
        raise ValueError(
            f"correlation takes two loops or more, the same in both: {x.shape} and {y.shape}"
        )
    x, y = _standardised(x), _standardised(y)
    n = len(x)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=bootstrap)
    weights = np.concatenate([np.ones((1, n)), counts]) / n  # the first row is the sample itself

    def mean(per_loop: np.ndarray) -> np.ndarray:
        return np.tensordot(weights, per_loop, 1)

    mx, my = mean(x.mean(2)), mean(y.mean(2))
    vx = mean((x**2).mean(2)) - mx**2
    vy = mean((y**2).mean(2)) - my**2
    cross = mean(np.einsum("ndt,nkt->ndk", x, y) / x.shape[2])
    covariance = cross - mx[:, :, None] * my[:, None, :]
    scale = np.sqrt(vx.clip(0)[:, :, None] * vy.clip(0)[:, None, :])
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(np.where(scale > 1e-9, covariance / scale, np.nan), -1, 1)
        # A resample in which one of the two happens to be constant says nothing.
        r = np.where(np.isnan(r), r[0], r)
        if n == 2:
            undefined = np.full_like(r[0], np.nan)
            return Correlation(r[0], undefined, undefined, undefined)
        z = np.arctanh(r.clip(-1 + 1e-12, 1 - 1e-12))
        t = z[0] / z[1:].std(0, ddof=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(r[1:], [tail, 1 - tail], axis=0)
    p = 2 * stats.t.sf(np.abs(t), n - 1)
    return Correlation(r[0], low, high, np.where(np.isnan(r[0]), np.nan, p))


def benjamini_hochberg(p: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Adjusted p-values q, in [0, 1]: among all q below a, a share a is false on average.

    All values are one family. nan, where nothing could be tested, stays nan and does not count.

    Raises:
        ValueError: a value outside [0, 1].

    References:
        Benjamini & Hochberg, Controlling the false discovery rate, 1995.
    """
    tested = ~np.isnan(p)
    if np.any((p[tested] < 0) | (p[tested] > 1)):
        raise ValueError("p-values lie between 0 and 1")
    q = np.full(p.shape, np.nan)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested])
    return q


def _standardised(values: Float[np.ndarray, "n c t"]) -> Float[np.ndarray, "n c t"]:
    """Each channel with mean 0 and deviation 1 over loops and frames; a constant one stays 0."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("correlation of values that are NaN or infinite")
    deviation = values - values.mean((0, 2), keepdims=True)
    scale = deviation.std((0, 2), keepdims=True)
    constant = scale <= 1e-9 * (1 + np.abs(values).max((0, 2), keepdims=True))
    return np.where(constant, 0.0, deviation / np.where(constant, 1, scale))

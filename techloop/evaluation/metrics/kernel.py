"""The kernel distance of two samples: no normal distributions are assumed, unlike Fréchet's."""

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import cdist, pdist

from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.metric import Metric

KERNEL = Metric(
    "kernel", "kernel distance x 1,000", better="lower", baselines=(*OTHER_SAMPLES, "before")
)

SCALE = 1000.0


def kernel_distance(reference: Float[np.ndarray, "n d"], sample: Float[np.ndarray, "m e"]) -> float:
    """The kernel distance of a sample to a reference, see `KernelDistance`."""
    return KernelDistance(reference)(sample)


class KernelDistance:
    """Kernel distances of samples to one reference (0: the same distribution).

    The unbiased estimate of the squared maximum mean discrepancy, times 1,000, of a reference
    `x_1 ... x_n` and a sample `y_1 ... y_m`, which may differ in size:

        1000 * ( mean of k(x_i, x_j) over i != j  +  mean of k(y_i, y_j) over i != j
                 - 2 * mean of k(x_i, y_j) over all i, j )

    with the Gaussian kernel `k(x, y) = exp(-|x - y|^2 / (2 s^2))`, whose bandwidth `s` is the
    median distance of two different points of the reference (1 where that is 0). It has no unit,
    and does not change when reference and sample are scaled or rotated together. Two samples of one
    distribution have an expected distance of exactly 0, whatever their sizes, so that values below
    0 occur; it is at most 2,000.

    Args:
        reference: what samples are compared with. Takes `n^2 / 2` numbers of memory meanwhile.

    Raises:
        ValueError: fewer than two points, or points that are not finite.

    References:
        Gretton et al., A kernel two-sample test, 2012, equation 3;
        Chung et al., KAD: No more FAD!, 2025 (the bandwidth; their factor is 100).
    """

    def __init__(self, reference: Float[np.ndarray, "n d"]) -> None:
        _check(reference, "reference")
        self.reference = reference.astype(np.float64)
        distances = pdist(self.reference)
        self.bandwidth = float(np.median(distances)) or 1.0
        self.within = float(self._kernel(distances).mean())

    def __call__(self, sample: Float[np.ndarray, "m e"]) -> float:
        """The distance of a sample.

        Raises:
            ValueError: fewer than two points, points that are not finite, or of another dimension.
        """
        return float(self.resampled(sample, np.ones((1, len(sample)), int))[0])

    def resampled(
        self, sample: Float[np.ndarray, "m e"], counts: Int[np.ndarray, "times m"]
    ) -> Float[np.ndarray, " times"]:
        """The distance of a sample whose points count several times, a `Statistic`.

        Pairs of a point with itself are left out however often it counts: such a pair is not one
        of two independent points, and would raise each resample by about 1,000 / m.
        nan where only one point counts.

        Raises:
            ValueError: see `__call__`.
        """
        _check(sample, "sample")
        if sample.shape[1] != self.reference.shape[1]:
            raise ValueError(
                f"a sample in {sample.shape[1]} dimensions against {self.reference.shape[1]}"
            )
        points, weights = sample.astype(np.float64), counts.astype(np.float64)
        across = np.array([self._kernel(cdist(y[None], self.reference)).mean() for y in points])
        among = self._kernel(cdist(points, points))
        np.fill_diagonal(among, 0)
        size = weights.sum(1)
        pairs = size**2 - (weights**2).sum(1)
        with np.errstate(invalid="ignore"):
            own = ((weights @ among) * weights).sum(1) / pairs
        distance: np.ndarray = SCALE * (self.within + own - 2 * (weights @ across) / size)
        return distance

    def _kernel(self, distances: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.exp(distances**2 / (-2 * self.bandwidth**2))
        return values


def _check(points: np.ndarray, name: str) -> None:
    if len(points) < 2:
        raise ValueError(f"a kernel distance takes two loops or more, the {name} has {len(points)}")
    if not np.isfinite(points).all():
        raise ValueError(f"the {name} has points that are not finite")

"""The Fréchet distance of two samples, and the projections it is taken in."""

import numpy as np
from jaxtyping import Float, Int

from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.metric import Metric

FRECHET = Metric(
    "frechet", "Fréchet distance", better="lower", baselines=(*OTHER_SAMPLES, "before")
)


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """The Fréchet distance of a sample `y` to a reference `x`, see `FrechetDistance`."""
    return FrechetDistance(x)(y)


class FrechetDistance:
    """Squared Fréchet distances of normal distributions: of samples to one reference (0: best).

    |mean x - mean y|^2 + tr(Cx + Cy - 2 (Cx Cy)^1/2), in the squared unit of the values. Two
    samples of one distribution have a distance above 0, which falls with their sizes: compare only
    distances between samples of equal size. Constant samples have a covariance of 0.

    Args:
        reference: what samples are compared with.

    Raises:
        ValueError: a sample no larger than its dimensions, whose covariance is singular.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, equation 6;
        Kilgour et al., Fréchet audio distance, 2019.
    """

    def __init__(self, reference: Float[np.ndarray, "n d"]) -> None:
        _check_size(reference)
        x = reference.astype(np.float64)
        self.mean = x.mean(0)
        covariance = np.atleast_2d(np.cov(x, rowvar=False))
        values, vectors = np.linalg.eigh(covariance)
        self.root = vectors * np.sqrt(values.clip(0)) @ vectors.T
        self.variance = np.trace(covariance)

    def __call__(self, sample: Float[np.ndarray, "m d"]) -> float:
        """The distance of a sample.

        Raises:
            ValueError: it has as many dimensions as loops, or more.
        """
        return float(self.resampled(sample, np.ones((1, len(sample)), int))[0])

    def resampled(
        self, sample: Float[np.ndarray, "m d"], counts: Int[np.ndarray, "times m"]
    ) -> Float[np.ndarray, " times"]:
        """The distance of a sample whose points count several times, a `Statistic` (see bootstrap).

        Raises:
            ValueError: see `__call__`.
        """
        _check_size(sample)
        y, weights, d = (
            sample.astype(np.float64) - self.mean,
            counts.astype(np.float64),
            len(self.mean),
        )
        size = weights.sum(1)
        shift = weights @ y / size[:, None]
        squares = weights @ (y[:, :, None] * y[:, None, :]).reshape(len(y), d * d)
        products = shift[:, :, None] * shift[:, None, :]
        covariance = squares.reshape(-1, d, d) - size[:, None, None] * products
        covariance /= (size - 1)[:, None, None]
        cross = np.sqrt(np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(0)).sum(1)
        variance = np.trace(covariance, axis1=1, axis2=2)
        distance: np.ndarray = (shift**2).sum(1) + self.variance + variance - 2 * cross
        return distance.clip(0)


class PrincipalComponents:
    """Projection onto the leading principal components of a sample.

    Args:
        sample: what they are fitted to.
        components: how many.

    Raises:
        ValueError: more components than the sample can have.

    References:
        Pearson, On lines and planes of closest fit to systems of points in space, 1901.
    """

    def __init__(self, sample: Float[np.ndarray, "n d"], components: int) -> None:
        if not 0 < components <= min(len(sample) - 1, sample.shape[1]):
            raise ValueError(f"{components} principal components of a sample {sample.shape}")
        self.mean = sample.mean(0)
        axes = np.linalg.svd(sample - self.mean, full_matrices=False)[2][:components]
        # An axis may point either way: make its largest entry positive, whatever the library does.
        sign = np.sign(axes[np.arange(components), np.abs(axes).argmax(1)])
        self.axes = axes * sign[:, None]

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Coordinates of points."""
        coordinates: np.ndarray = (x - self.mean) @ self.axes.T
        return coordinates


def standardised(
    reference: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Both in deviations of the reference from its mean; a constant column is not scaled."""
    mean, deviation = reference.mean(0), reference.std(0)
    scale = np.where(deviation > 1e-3 * (1 + np.abs(mean)), deviation, 1.0)
    return (reference - mean) / scale, (other - mean) / scale


def _check_size(sample: np.ndarray) -> None:
    if len(sample) <= sample.shape[1]:
        raise ValueError(
            f"{len(sample)} loops in {sample.shape[1]} dimensions have a singular covariance; take "
            "more loops or fewer dimensions"
        )

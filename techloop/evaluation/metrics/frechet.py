"""The Fréchet distance of two samples, and the projections it is taken in."""

import numpy as np
from jaxtyping import Float

from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.metric import Metric

FRECHET = Metric("frechet", "Fréchet distance", better="lower", baselines=OTHER_SAMPLES)


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Squared Fréchet distance of the normal distributions fitted to two samples (0: best).

    |mean x - mean y|^2 + tr(Cx + Cy - 2 (Cx Cy)^1/2), in the squared unit of the values. Two
    samples of one distribution have a distance above 0, which falls with their size: compare only
    distances between samples of equal size. Constant samples have a covariance of 0.

    Raises:
        ValueError: a sample no larger than its dimensions, whose covariance is singular.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, equation 6;
        Kilgour et al., Fréchet audio distance, 2019.
    """
    if min(len(x), len(y)) <= x.shape[1]:
        raise ValueError(
            f"{min(len(x), len(y))} loops in {x.shape[1]} dimensions have a singular covariance; "
            "take more loops or fewer dimensions"
        )
    x, y = x.astype(np.float64), y.astype(np.float64)
    cx, cy = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    values, vectors = np.linalg.eigh(cx)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cy @ root).clip(0)).sum()
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx) + np.trace(cy) - 2 * cross
    return max(float(distance), 0.0)


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

"""How much the posteriors of the audio VAE say, over any number of loops."""

import math
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from techloop.artifacts import read_json, write_json
from techloop.metric import Measurement, Metric, by_name
from techloop.models.sampling import sample
from techloop.training.losses import (
    ACTIVE_UNITS,
    ACTIVE_VARIANCE,
    BITS_PER_SECOND,
    KL_PER_FRAME,
    MMD,
    gaussian_kl,
    mmd,
)

MMD_FRAMES = 2048

# One value per latent dimension, of which KL_PER_FRAME is the sum.
KL_PER_DIMENSION = Metric("kl_nats_per_dimension", "KL to the prior", "nats/frame")
DIMENSIONS_FILE = "dimensions.json"


class LatentSummary:
    """Statistics of posteriors that need not be in memory together.

    Attributes:
        mean, std: `(latent_dim,)`, of the posterior means over loops and frames.
    """

    def __init__(self) -> None:
        self._frames = 0
        # Sums over loops and frames of means, their squares, and KLs, by dimension.
        self._sums: Tensor = torch.zeros(())
        self._generator = torch.Generator().manual_seed(0)
        self._keys, self._samples = torch.empty(0), torch.empty(0)

    def add(self, mu: Float[Tensor, "n c frames"], sigma: Float[Tensor, "n c frames"]) -> None:
        """Count these posteriors in."""
        mu, sigma = mu.cpu(), sigma.cpu()
        self._frames += mu.shape[0] * mu.shape[2]
        values = (mu, mu.square(), gaussian_kl(mu, sigma))
        self._sums = self._sums + torch.stack([v.sum((0, 2), dtype=torch.double) for v in values])
        # A uniform sample of all frames: those with the lowest of random keys.
        keys = torch.rand(mu.shape[0] * mu.shape[2], generator=self._generator)
        lowest = keys.argsort()[:MMD_FRAMES]
        loop, frame = lowest // mu.shape[2], lowest % mu.shape[2]
        z = sample(mu[loop, :, frame], sigma[loop, :, frame], self._generator)
        keys = torch.cat([self._keys, keys[lowest]])
        samples = torch.cat([self._samples.view(-1, z.shape[1]), z])
        lowest = keys.argsort()[:MMD_FRAMES]
        self._keys, self._samples = keys[lowest], samples[lowest]

    @property
    def mean(self) -> Float[Tensor, " c"]:  # noqa: D102
        return (self._sums[0] / self._frames).float()

    @property
    def std(self) -> Float[Tensor, " c"]:  # noqa: D102
        mean, square = self._sums[:2] / self._frames
        variance: Tensor = square - mean.square()
        return variance.clamp_min(0).sqrt().float()

    @property
    def kl_per_dimension(self) -> list[float]:
        """`KL_PER_DIMENSION` of each latent dimension, in nats per frame."""
        values: list[float] = (self._sums[2] / self._frames).tolist()
        return values

    def metrics(self, frame_rate_hz: float) -> dict[str, Measurement]:
        """`KL_PER_FRAME`, `BITS_PER_SECOND`, `ACTIVE_UNITS`, and `MMD` of frames to the prior."""
        kl = self._sums[2] / self._frames
        active = int((self.std.square() > ACTIVE_VARIANCE).sum())
        if 2 * active < len(kl):
            warnings.warn(
                f"only {active} of {len(kl)} latent dimensions are active: the posterior is "
                "collapsing. Lower the regulariser's weight, or raise warmup_loops or free_nats.",
                stacklevel=2,
            )
        generator = torch.Generator().manual_seed(1)  # independent of the posteriors' noise
        prior = torch.randn(self._samples.shape, generator=generator)
        nats = float(kl.sum())
        return by_name(
            KL_PER_FRAME.measured(nats),
            BITS_PER_SECOND.measured(nats / math.log(2) * frame_rate_hz),
            ACTIVE_UNITS.measured(float(active)),
            MMD.measured(float(mmd(self._samples, prior))),
        )


def latent_summary(
    mu: Float[Tensor, "n c frames"], sigma: Float[Tensor, "n c frames"]
) -> LatentSummary:
    """The summary of posteriors in memory."""
    summary = LatentSummary()
    summary.add(mu, sigma)
    return summary


def dimension_metrics(latent_dim: int) -> list[Metric]:
    """`KL_PER_DIMENSION` as one metric per dimension, by the names in history.csv and MLflow."""
    return [
        Metric(f"kl_nats_dim_{i:02d}", f"{KL_PER_DIMENSION.label}, dimension {i}", "nats/frame")
        for i in range(latent_dim)
    ]


def write_dimensions(folder: Path, values: list[float]) -> None:
    """Write `KL_PER_DIMENSION` of each dimension to a folder's dimensions.json."""
    metric = {k: getattr(KL_PER_DIMENSION, k) for k in ("name", "label", "unit")}
    write_json(folder / DIMENSIONS_FILE, {"metric": metric, "values": values})


def read_dimensions(folder: str | Path) -> dict[str, float]:
    """The values of a folder's dimensions.json, by the names of `dimension_metrics`.

    Raises:
        ValueError: the file is missing or damaged.
    """
    values = read_json(Path(folder) / DIMENSIONS_FILE)["values"]
    metrics = dimension_metrics(len(values))
    return {metric.name: float(value) for metric, value in zip(metrics, values, strict=True)}

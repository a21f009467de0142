"""Training of the latent VAE on the audio VAE's posteriors."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from techloop.data.datasets import LatentDataset
from techloop.metric import Measurement, Metric, by_name, flat_metrics
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint
from techloop.models.latent_vae import LatentVAE
from techloop.models.sampling import sample, sample_shard
from techloop.params import LatentVAECell, TrainLatentVAE
from techloop.training.augmentation import random_rotation
from techloop.training.distributed import all_gather
from techloop.training.loop import Log
from techloop.training.losses import (
    ACTIVE_UNITS,
    BITS_PER_SECOND,
    active_units,
    gaussian_cross_entropy,
    gaussian_kl,
    gaussian_kl_between,
    gaussian_nll,
    mean_spectral_distance,
    penalty_share,
    rate,
)
from techloop.training.sampler import Sampler, shuffled_rows
from techloop.training.task import ModelTask
from techloop.training.train import train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DECODED_LOOPS = 16  # held-out loops whose decoded sound is compared
BATCH = 256  # loops encoded together for the prior

# Do not compare these numbers between objectives.
LOSS = Metric("loss", "loss", "nats/frame")
BOUND = Metric("bound_nats_per_frame", "bound", "nats/frame")
DISTORTION = Metric("distortion_nats_per_frame", "distortion", "nats/frame")
CROSS_ENTROPY = Metric("cross_entropy_nats_per_frame", "cross entropy", "nats/frame")
RATE = Metric("rate_nats_per_loop", "rate", "nats/loop")
EXPLAINED_VARIANCE = Metric("explained_variance", "explained variance")
# `spectral_distance` between loops decoded from the points and from the audio VAE's latents.
DECODED_LOG_DISTANCE = Metric("decoded_log_distance", "decoded log distance", better="lower")
DECODED_LINEAR_DISTANCE = Metric(
    "decoded_linear_distance", "decoded linear distance", better="lower"
)

Posteriors = tuple[Tensor, Tensor]


def train_latent_vae(
    latents_folder: str | Path,
    folder: str | Path,
    fabric: "Fabric",
    *,
    params: TrainLatentVAE,
    cell: LatentVAECell,
    seed: int,
    log: Log,
    checkpoints: Path = Path("checkpoints"),
    sampler: Sampler = shuffled_rows,
) -> dict[str, Measurement]:
    """Train a latent VAE on the training split and write its folder, see `train`.

    The folder also holds the audio VAE, so that it is a whole instrument.

    Args:
        latents_folder: as `extract_latents` wrote it.
        folder: is replaced.
        fabric: launched, see `techloop.training.distributed`.
        params: sizes of the model and of the training.
        cell: objective and length.
        seed: of initial weights, order of loops, rotations and noise.
        log: see `fit`.
        checkpoints: see `fit`.
        sampler: see `fit`.

    Returns:
        Metrics on the validation split: those of `latent_vae_metrics`, and for up to 16 of its
        loops `DECODED_LOG_DISTANCE` and `DECODED_LINEAR_DISTANCE`.

    Raises:
        ValueError: latents that are damaged or of another grid, or a length that does not divide.
    """
    task = LatentVAETask(latents_folder, params, cell, seed, fabric.device)
    return train(
        task,
        fabric,
        folder,
        training=params.training,
        seed=seed,
        log=log,
        checkpoints=checkpoints,
        sampler=sampler,
    )


class LatentVAETask(ModelTask[Posteriors]):
    """A latent VAE, and the audio VAE's posteriors that it is trained on.

    The loss is the negative evidence lower bound in nats per latent frame: the distortion that the
    objective defines, plus the rate of the points. The network reads posteriors whatever the
    objective is; only what it has to predict differs. The prior is fitted last, to the posteriors
    of all training loops. A batch is their means and deviations.
    """

    def __init__(
        self,
        latents_folder: str | Path,
        params: TrainLatentVAE,
        cell: LatentVAECell,
        seed: int,
        device: torch.device,
    ) -> None:
        latents = LatentDataset(latents_folder, "train")
        self.held_out = LatentDataset(latents_folder, "validation")
        self.params, self.cell, self.seed, self.device = params, cell, seed, device
        self.grid, self.mu, self.sigma = latents.grid, latents.mu, latents.sigma
        self.loop_ids = list(latents.index["loop_id"])
        torch.manual_seed(seed)
        self.model: LatentVAE = LatentVAE(
            self.grid,
            audio_latent_dim=self.mu.shape[1],
            length=cell.length,
            **params.model.model_dump(),
        )
        self.module = self.model
        log_sigma = self.sigma.log()
        self.model.mean.copy_(latents.mean[:, None])
        self.model.std.copy_(latents.std[:, None])
        self.model.log_sigma_mean.copy_(log_sigma.mean((0, 2))[:, None])
        self.model.log_sigma_std.copy_(log_sigma.std((0, 2))[:, None].clamp_min(1e-3))
        audio_vae_folder = _audio_vae_folder(latents)
        self.audio_vae = AudioVAE.load(audio_vae_folder, self.grid).to(device)
        every = -(-len(self.held_out) // DECODED_LOOPS)
        self.decoded = tuple(v[::every].to(device) for v in (self.held_out.mu, self.held_out.sigma))
        with torch.no_grad():
            generator = torch.Generator().manual_seed(seed)
            self.noise = self.audio_vae.draw_noise(self.decoded[0], generator)
            self.sound = self.audio_vae.decode(self.decoded[0], self.noise)
        self.folders = {"audio_vae": audio_vae_folder}
        self.settings = params.model_dump(exclude={"cells"})
        self.notes = {
            "data": latents.card["fingerprint"],
            "audio_vae": latents.card["model"],
            # What plays its latents is not part of the training.
            "cell": cell.model_dump(include=set(LatentVAECell.model_fields)),
            "seed": seed,
        }
        self.metrics = (
            LOSS,
            BOUND,
            DISTORTION,
            CROSS_ENTROPY,
            RATE,
            BITS_PER_SECOND,
            EXPLAINED_VARIANCE,
            ACTIVE_UNITS,
            DECODED_LOG_DISTANCE,
            DECODED_LINEAR_DISTANCE,
        )

    def batch(self, rows: Sequence[int]) -> Posteriors:  # noqa: D102
        return self.mu[rows].to(self.device), self.sigma[rows].to(self.device)

    def loss(  # noqa: D102
        self, module: nn.Module, batch: Posteriors, generator: Generator, seen: int
    ) -> dict[str, Tensor]:
        mu, sigma = random_rotation(*batch, self.grid, generator)
        sampled = self.cell.objective == "trajectory-sample"
        target = sample_shard(mu, sigma, generator) if sampled else mu
        rows = (target, sigma, *module(mu, sigma, generator))
        target, sigma, mu_hat, sigma_hat, mean, std = map(all_gather, rows)
        distortion = distortion_nats(
            self.model, self.cell.objective, target, sigma, mu_hat, sigma_hat
        )
        kl = gaussian_kl(mean, std)
        kl_per_frame = rate(kl, self.params.free_nats) * self.cell.length / self.grid.frames
        return {
            "loss": distortion + penalty_share(seen, self.params.warmup_loops) * kl_per_frame,
            DISTORTION.name: distortion,
            RATE.name: rate(kl) * self.cell.length,
        }

    def validate(self) -> dict[str, float]:
        """`latent_vae_metrics` of held-out posteriors, and the distances of their decoded sound."""
        z, _ = self.model.decode(self.model.encode(*self.decoded)[0])
        sound = self.audio_vae.decode(z, self.noise)
        log_term, linear_term = mean_spectral_distance([(self.sound, sound)])
        held_out = (self.held_out.mu, self.held_out.sigma)
        metrics = latent_vae_metrics(self.model, self.cell.objective, *held_out, self.seed)
        return {
            **flat_metrics(metrics),
            DECODED_LOG_DISTANCE.name: log_term,
            DECODED_LINEAR_DISTANCE.name: linear_term,
        }

    def finish(self) -> None:
        """Fit the prior to the points of all training loops."""
        parts = zip(self.mu.split(BATCH), self.sigma.split(BATCH), strict=True)
        points = [self.model.encode(m.to(self.device), s.to(self.device)) for m, s in parts]
        mean, std = (torch.cat(v) for v in zip(*points, strict=True))
        self.model.fit_prior(mean, std)


def distortion_nats(
    vae: LatentVAE, objective: str, target: Tensor, sigma: Tensor, mu_hat: Tensor, sigma_hat: Tensor
) -> Tensor:
    """The cost of a prediction in nats per latent frame, on the whitened scale.

    For `trajectory-*` it is the negative log-likelihood of the trajectory, for `posterior` the KL
    of the audio VAE's posterior from the predicted Gaussian.

    Args:
        vae: knows the scale.
        objective: see `techloop.params.Objective`.
        target, sigma: trajectory (or posterior mean) and posterior deviation, `(b, c, frames)`, in
            the audio VAE's units.
        mu_hat, sigma_hat: the predicted Gaussian, whitened.
    """
    x, s = vae.whiten(target, sigma)
    if objective == "posterior":
        values = gaussian_kl_between(x, s, mu_hat, sigma_hat)
    else:
        values = gaussian_nll(x, mu_hat, sigma_hat)
    return values.sum(1).mean()


def latent_vae_metrics(
    vae: LatentVAE,
    objective: str,
    mu: Float[Tensor, "n c frames"],
    sigma: Float[Tensor, "n c frames"],
    seed: int,
) -> dict[str, Measurement]:
    """Bound, distortion, rate, explained variance and active units on held-out posteriors.

    `CROSS_ENTROPY` is that of the audio VAE's posterior to the prediction, whatever the objective
    was: for `posterior` it is the distortion plus the posterior's entropy, for `trajectory-sample`
    the expected distortion. `EXPLAINED_VARIANCE` is that of the whitened means, decoded from the
    means of the points.

    Args:
        vae: in evaluation mode.
        objective: what it was trained for.
        mu, sigma: the audio VAE's posteriors.
        seed: of the samples.
    """
    device = next(vae.parameters()).device
    mu, sigma = mu.to(device), sigma.to(device)
    mean, std = vae.encode(mu, sigma)
    generator = torch.Generator(device).manual_seed(seed)
    points = sample(mean, std, generator)
    target = sample(mu, sigma, generator) if objective == "trajectory-sample" else mu
    predicted = vae.decode_whitened(points)
    distortion = float(distortion_nats(vae, objective, target, sigma, *predicted))
    nats = float(rate(gaussian_kl(mean, std))) * vae.length
    white, white_sigma = vae.whiten(mu, sigma)
    error = white - vae.decode_whitened(mean)[0]
    active = active_units(mean)
    if 2 * active < vae.latent_dim:
        warnings.warn(
            f"only {active} of {vae.latent_dim} dimensions of the points are active; raise "
            "train_latent_vae.free_nats or warmup_loops if generated loops resemble one another.",
            stacklevel=2,
        )
    cross_entropy = gaussian_cross_entropy(white, white_sigma, *predicted)
    return by_name(
        BOUND.measured(distortion + nats / vae.grid.frames),
        DISTORTION.measured(distortion),
        CROSS_ENTROPY.measured(float(cross_entropy.sum(1).mean())),
        RATE.measured(nats),
        BITS_PER_SECOND.measured(nats / math.log(2) / vae.grid.duration_s),
        EXPLAINED_VARIANCE.measured(1 - float(error.square().mean() / white.var())),
        ACTIVE_UNITS.measured(float(active)),
    )


def _audio_vae_folder(latents: LatentDataset) -> Path:
    """The audio VAE inside a folder of latents.

    Raises:
        ValueError: it is not the one that made the latents.
    """
    folder = latents.folder / "audio_vae"
    if (fingerprint := model_fingerprint(folder)) != latents.card["model"]:
        raise ValueError(
            f"{folder} is audio VAE {fingerprint}, but the latents in {latents.folder} were made "
            f"by {latents.card['model']}: files of two runs are mixed. `dvc checkout dvc.yaml` or "
            "`dvc repro` makes the folder whole."
        )
    return folder

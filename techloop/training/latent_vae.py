"""Training of VAE 2 on the trajectories of VAE 1."""

import math
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from techloop.datasets import LatentDataset
from techloop.losses import active_units, gaussian_kl, gaussian_kl_between, gaussian_nll, rate
from techloop.models.blocks import sample
from techloop.models.latent_vae import LatentVAE
from techloop.params import LatentVAECell, TrainLatentVAE
from techloop.training.loop import Log, train_into, warm_up


def train_latent_vae(
    latents_folder: str | Path,
    folder: str | Path,
    *,
    params: TrainLatentVAE,
    cell: LatentVAECell,
    seed: int,
    log: Log,
    checkpoints: Path = Path("checkpoints"),
) -> dict[str, float]:
    """Train a VAE on the training split's posteriors and write its folder, with VAE 1 inside.

    The loss is the negative evidence lower bound in nats a latent frame: distortion as the
    objective defines it, plus the rate of the points.

    Returns:
        Metrics on the validation split.

    Raises:
        ValueError: latents that are damaged or of another grid, or a length that does not divide.
    """
    latents = LatentDataset(latents_folder, "train")
    held_out = LatentDataset(latents_folder, "validation")
    grid, mu, sigma = latents.grid, latents.mu, latents.sigma
    torch.manual_seed(seed)
    model = LatentVAE(
        grid, audio_latent_dim=mu.shape[1], length=cell.length, **params.model.model_dump()
    )
    log_sigma = sigma.log()
    model.mean.copy_(latents.mean[:, None])
    model.std.copy_(latents.std[:, None])
    model.log_sigma_mean.copy_(log_sigma.mean((0, 2))[:, None])
    model.log_sigma_std.copy_(log_sigma.std((0, 2))[:, None].clamp_min(1e-3))

    def step(
        vae: nn.Module, rows: list[int], draw: torch.Generator, seen: int
    ) -> dict[str, Tensor]:
        m, s = mu[rows].to(draw.device), sigma[rows].to(draw.device)
        target = sample(m, s, draw) if cell.objective == "trajectory-sample" else m
        mu_hat, sigma_hat, mean, std = vae(target, s, draw)
        distortion = distortion_nats(model, cell.objective, target, s, mu_hat, sigma_hat)
        kl = gaussian_kl(mean, std)
        spent = rate(kl, params.free_nats) * cell.length / grid.frames
        return {
            "loss": distortion + warm_up(seen, params.warmup_loops) * spent,
            "distortion_nats_per_frame": distortion,
            "rate_nats_per_loop": rate(kl) * cell.length,
        }

    def validate(vae: nn.Module) -> dict[str, float]:
        assert isinstance(vae, LatentVAE)
        return latent_vae_metrics(vae, cell.objective, held_out.mu, held_out.sigma, seed)

    notes = {
        "data": latents.card["fingerprint"],
        "audio_vae": latents.card["model"],
        "cell": cell.model_dump(),
        "seed": seed,
    }
    return train_into(
        folder,
        model,
        step,
        validate,
        loops=len(latents),
        training=params.training,
        seed=seed,
        notes=notes,
        identity=params.model_dump(exclude={"cells"}),
        log=log,
        checkpoints=checkpoints,
        beside={"audio_vae": latents.folder / "audio_vae"},
    )


def distortion_nats(
    vae: LatentVAE, objective: str, target: Tensor, sigma: Tensor, mu_hat: Tensor, sigma_hat: Tensor
) -> Tensor:
    """What the prediction costs, in nats a latent frame, on the whitened scale.

    `trajectory-*`: the negative log-likelihood of the trajectory. `posterior`: the KL of VAE 1's
    posterior from the predicted Gaussian.

    Args:
        target, sigma: trajectory (or posterior mean) and posterior deviation, VAE 1's units.
        mu_hat, sigma_hat: prediction, whitened.
    """
    x, s = vae.whiten(target, sigma)
    if objective == "posterior":
        values = gaussian_kl_between(x, s, mu_hat, sigma_hat)
    else:
        values = gaussian_nll(x, mu_hat, sigma_hat)
    return values.sum(1).mean()


def latent_vae_metrics(
    vae: LatentVAE, objective: str, mu: Tensor, sigma: Tensor, seed: int
) -> dict[str, float]:
    """On held-out posteriors: bound, distortion and rate, variance explained, active units.

    `explained_variance` is of the whitened means, decoded from the points' posterior means.
    """
    device = next(vae.parameters()).device
    mu, sigma = mu.to(device), sigma.to(device)
    mean, std = vae.encode(mu, sigma)
    draw = torch.Generator(device).manual_seed(seed)
    points = sample(mean, std, draw)
    target = sample(mu, sigma, draw) if objective == "trajectory-sample" else mu
    distortion = float(distortion_nats(vae, objective, target, sigma, *vae.decode_whitened(points)))
    kl = gaussian_kl(mean, std)
    nats = float(rate(kl)) * vae.length
    white, _ = vae.whiten(mu, sigma)
    error = white - vae.decode_whitened(mean)[0]
    active = active_units(mean)
    if 2 * active < vae.latent_dim:
        warnings.warn(
            f"only {active} of {vae.latent_dim} dimensions of the points are active; raise "
            "train_latent_vae.free_nats or warmup_loops if generated loops resemble one another.",
            stacklevel=2,
        )
    return {
        "bound_nats_per_frame": distortion + nats / vae.grid.frames,
        "distortion_nats_per_frame": distortion,
        "rate_nats_per_loop": nats,
        "bits_per_second": nats / math.log(2) / vae.grid.duration_s,
        "explained_variance": 1 - float(error.square().mean() / white.var()),
        "active_units": float(active),
    }

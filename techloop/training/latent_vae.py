"""Training of VAE 2 on the trajectories of VAE 1."""

import math
import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from techloop.data.datasets import LatentDataset
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint, pick_device
from techloop.models.latent_vae import LatentVAE
from techloop.models.sampling import draw_shard, sample, sample_shard
from techloop.params import LatentVAECell, TrainLatentVAE
from techloop.training.distributed import all_gather, fabric_from_environment
from techloop.training.loop import Log, train_into, warm_up
from techloop.training.losses import (
    active_units,
    gaussian_cross_entropy,
    gaussian_kl,
    gaussian_kl_between,
    gaussian_nll,
    mean_spectral_distance,
    rate,
)

HEARD = 16  # held-out loops whose decoded sound is compared
BATCH = 256


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
    objective defines it, plus the rate of the points. Whatever the objective, the network reads
    VAE 1's posteriors: only what it has to predict differs.

    The prior is learned last, from the posteriors of all training loops.

    Returns:
        Metrics on the validation split: those of `latent_vae_metrics`, and, of up to 16 of its
        loops, both terms of the spectral distance to what VAE 1 decodes from its own latents.

    Raises:
        ValueError: latents that are damaged or of another grid, or a length that does not divide.
    """
    fabric_from_environment()  # each process has its own device from here on
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
        m, s = rotated(mu[rows].to(draw.device), sigma[rows].to(draw.device), grid, draw)
        target = sample_shard(m, s, draw) if cell.objective == "trajectory-sample" else m
        found = vae(m, s, draw)
        target, s, mu_hat, sigma_hat, mean, std = map(all_gather, (target, s, *found))
        distortion = distortion_nats(model, cell.objective, target, s, mu_hat, sigma_hat)
        kl = gaussian_kl(mean, std)
        spent = rate(kl, params.free_nats) * cell.length / grid.frames
        return {
            "loss": distortion + warm_up(seen, params.warmup_loops) * spent,
            "distortion_nats_per_frame": distortion,
            "rate_nats_per_loop": rate(kl) * cell.length,
        }

    inner = latents.folder / "audio_vae"
    if (found := model_fingerprint(inner)) != latents.card["model"]:
        raise ValueError(
            f"{inner} is audio VAE {found}, but the latents in {latents.folder} were made by "
            f"{latents.card['model']}: files of two runs are mixed. `dvc checkout dvc.yaml` or "
            "`dvc repro` makes the folder whole."
        )
    audio_vae = AudioVAE.load(inner, grid).to(pick_device())
    heard = [v[:: -(-len(held_out) // HEARD)] for v in (held_out.mu, held_out.sigma)]
    with torch.no_grad():
        sound = audio_vae.decode(heard[0].to(pick_device()))

    def validate(_: nn.Module) -> dict[str, float]:
        z = model.decode(model.encode(*(v.to(pick_device()) for v in heard))[0])[0]
        decoded = mean_spectral_distance([(sound, audio_vae.decode(z))])
        return {
            **latent_vae_metrics(model, cell.objective, held_out.mu, held_out.sigma, seed),
            **{f"decoded_{name}": value for name, value in decoded.items()},
        }

    def finish() -> None:
        parts = zip(mu.split(BATCH), sigma.split(BATCH), strict=True)
        points = [model.encode(m.to(pick_device()), s.to(pick_device())) for m, s in parts]
        mean, std = (torch.cat(v) for v in zip(*points, strict=True))
        model.fit_prior(mean, std)

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
        ids=list(latents.index["loop_id"]),
        training=params.training,
        seed=seed,
        notes=notes,
        identity=params.model_dump(exclude={"cells"}),
        log=log,
        checkpoints=checkpoints,
        beside={"audio_vae": inner},
        finish=finish,
    )


def rotated(
    mu: Float[Tensor, "b c frames"], sigma: Float[Tensor, "b c frames"], grid: Grid, draw: Generator
) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
    """Each loop from one of its beats on, drawn at random.

    Where a beat is a whole number of points, the network treats all of them alike. Elsewhere, and
    so for a single point, it would learn a few hundred loops by heart unless it sees them from
    every beat.
    """
    beat = draw_shard(torch.randint, grid.beats, size=(len(mu), 1), draw=draw)
    first = (beat * grid.frames / grid.beats).round().long()
    at = (first + torch.arange(grid.frames, device=mu.device)) % grid.frames
    at = at[:, None].expand_as(mu)
    return mu.gather(2, at), sigma.gather(2, at)


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

    `cross_entropy_nats_per_frame` is of VAE 1's posterior to the prediction, whatever the objective
    was: with `posterior` it is the distortion plus VAE 1's entropy, with `trajectory-sample` its
    expectation. `explained_variance` is of the whitened means, decoded from the points' means.
    """
    device = next(vae.parameters()).device
    mu, sigma = mu.to(device), sigma.to(device)
    mean, std = vae.encode(mu, sigma)
    draw = torch.Generator(device).manual_seed(seed)
    points = sample(mean, std, draw)
    target = sample(mu, sigma, draw) if objective == "trajectory-sample" else mu
    predicted = vae.decode_whitened(points)
    distortion = float(distortion_nats(vae, objective, target, sigma, *predicted))
    kl = gaussian_kl(mean, std)
    nats = float(rate(kl)) * vae.length
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
    return {
        "bound_nats_per_frame": distortion + nats / vae.grid.frames,
        "distortion_nats_per_frame": distortion,
        "cross_entropy_nats_per_frame": float(cross_entropy.sum(1).mean()),
        "rate_nats_per_loop": nats,
        "bits_per_second": nats / math.log(2) / vae.grid.duration_s,
        "explained_variance": 1 - float(error.square().mean() / white.var()),
        "active_units": float(active),
    }

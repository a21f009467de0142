"""Training of VAE 1 on loops."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from techloop.datasets import LoopDataset
from techloop.latents import latent_metrics
from techloop.losses import gaussian_kl, mmd, rate, spectral_distance
from techloop.models.audio_vae import AudioVAE
from techloop.params import AudioVAECell, TrainAudioVAE
from techloop.training.loop import Log, train_into, warm_up

VALIDATION_LOOPS = 64


def train_audio_vae(
    loops_folder: str | Path,
    folder: str | Path,
    *,
    params: TrainAudioVAE,
    cell: AudioVAECell,
    seed: int,
    log: Log,
    checkpoints: Path = Path("checkpoints"),
) -> dict[str, float]:
    """Train a VAE on the training split and write its folder; returns its validation metrics.

    A step sees crops of random rotations of loops, each crop taken as a circle of its own.

    Raises:
        ValueError: no usable loops, or sizes that do not fit the grid.
    """
    loops = LoopDataset(loops_folder, "train")
    grid, validation = loops.grid, LoopDataset(loops_folder, "validation")
    held_out = torch.from_numpy(validation.audio(_spread(len(validation), VALIDATION_LOOPS)))
    crop = max(1, round(params.crop_fraction * grid.frames)) * grid.hop
    torch.manual_seed(seed)
    model = AudioVAE(grid, **params.model.model_dump())

    def step(
        vae: nn.Module, rows: list[int], draw: torch.Generator, seen: int
    ) -> dict[str, Tensor]:
        x = torch.from_numpy(loops.audio(rows)).to(draw.device, non_blocking=True)
        x = random_crops(x, crop, draw)
        y, mu, sigma = vae(x, draw)
        log_term, linear_term = spectral_distance(x, y)
        kl = gaussian_kl(mu, sigma)
        if cell.regulariser == "kl":
            penalty = rate(kl, cell.free_nats)
        else:
            z = mu + sigma * torch.randn(mu.shape, generator=draw, device=mu.device)
            frames = z.mT.flatten(0, 1)
            penalty = mmd(frames, torch.randn(frames.shape, generator=draw, device=z.device))
        weight = cell.weight * warm_up(seen, cell.warmup_loops)
        return {
            "loss": log_term + linear_term + weight * penalty,
            "log_distance": log_term,
            "linear_distance": linear_term,
            "kl_nats_per_frame": rate(kl),
            "penalty": penalty,
        }

    def validate(vae: nn.Module) -> dict[str, float]:
        assert isinstance(vae, AudioVAE)
        return {**posterior_metrics(vae, held_out), **reconstruction_metrics(vae, held_out)}

    notes = {
        "data": loops.card["fingerprint"],
        "preparation": loops.card["preparation"],
        "cell": cell.model_dump(),
        "seed": seed,
    }
    return train_into(
        folder,
        model,
        step,
        validate,
        loops=len(loops),
        training=params.training,
        seed=seed,
        notes=notes,
        identity=params.model_dump(exclude={"cells"}),
        log=log,
        checkpoints=checkpoints,
    )


def random_crops(x: Tensor, crop: int, draw: torch.Generator) -> Tensor:
    """`crop` samples of each loop `(b, samples)` from a random place of the circle."""
    starts = torch.randint(x.shape[1], (len(x), 1), generator=draw, device=x.device)
    return x.gather(1, (starts + torch.arange(crop, device=x.device)) % x.shape[1])


def reconstruction_metrics(vae: AudioVAE, x: Tensor, batch: int = 16) -> dict[str, float]:
    """Both terms of the spectral distance of loops decoded from their posterior means."""
    terms = []
    for part in x.split(batch):
        part = part.to(next(vae.parameters()).device)
        y = vae.decode(vae.encode(part)[0])
        terms.append(torch.stack(spectral_distance(part, y)) * len(part))
    log_term, linear_term = (torch.stack(terms).sum(0) / len(x)).tolist()
    return {"log_distance": log_term, "linear_distance": linear_term}


def posterior_metrics(vae: AudioVAE, x: Tensor, batch: int = 16) -> dict[str, float]:
    """How much the latents of loops say: rate, active units, MMD to the prior."""
    device = next(vae.parameters()).device
    posteriors = [vae.encode(part.to(device)) for part in x.split(batch)]
    mu = torch.cat([p[0] for p in posteriors])
    sigma = torch.cat([p[1] for p in posteriors])
    return latent_metrics(mu, sigma, vae.grid.frame_rate_hz)


def _spread(size: int, most: int) -> np.ndarray:
    """At most `most` rows, evenly over all of them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))

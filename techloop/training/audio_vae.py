"""Training of VAE 1 on loops."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from techloop.audio.vocoder import log_amplitudes
from techloop.data.datasets import LoopDataset
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import pick_device
from techloop.models.discriminators import LatentDiscriminator
from techloop.models.sampling import draw_shard, sample
from techloop.params import AudioVAECell, TrainAudioVAE
from techloop.training.distributed import all_gather, fabric_from_environment
from techloop.training.latents import latent_metrics
from techloop.training.loop import Log, train_into, warm_up
from techloop.training.losses import (
    gaussian_kl,
    mean_spectral_distance,
    mmd,
    rate,
    spectrogram_distance,
)

VALIDATION_LOOPS = 64
START_LOOPS = 512
BATCH = 16  # loops encoded at once
# Of the terms beside the log one (benchmarks/README.md).
LINEAR_WEIGHT, FINE_WEIGHT = 2.5, 8.0
MOST_SPEED = 1.25
SILENT_SHARE = 1 / 64  # of the loops a step sees


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

    A step sees parts of loops (see `random_spectra`), each taken as a circle of its own.

    Raises:
        ValueError: no usable loops, or sizes that do not fit the grid.
    """
    fabric_from_environment()  # each process has its own device from here on
    loops = LoopDataset(loops_folder, "train")
    grid, validation = loops.grid, LoopDataset(loops_folder, "validation")
    held_out = torch.from_numpy(validation.audio(_spread(len(validation), VALIDATION_LOOPS)))
    frames = max(1, round(params.crop_fraction * grid.frames))
    torch.manual_seed(seed)
    model = AudioVAE(grid, **params.model.model_dump())
    model.init_from_pca(_known_spectra(loops))
    trained = LatentDiscriminator(model) if cell.regulariser == "wae-gan" else model
    take = loops.reader(pick_device())

    def step(
        vae: nn.Module, rows: list[int], draw: torch.Generator, seen: int
    ) -> dict[str, Tensor]:
        return objective(vae, random_spectra(take(rows), grid, frames, draw), cell, draw, seen)

    def validate(_: nn.Module) -> dict[str, float]:
        parts = (part.to(pick_device()) for part in held_out.split(BATCH))
        heard = ((part, model.decode(model.encode(part)[0])) for part in parts)
        return {**posterior_metrics(model, held_out), **mean_spectral_distance(heard)}

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
        ids=list(loops.index["loop_id"]),
        training=params.training,
        seed=seed,
        notes=notes,
        identity=params.model_dump(exclude={"cells"}),
        log=log,
        checkpoints=checkpoints,
        trained=trained,
    )


def objective(
    vae: nn.Module,
    spectrum: Float[Tensor, "b v frames"],
    cell: AudioVAECell,
    draw: torch.Generator,
    seen: int,
) -> dict[str, Tensor]:
    """The `loss` and its parts: `spectrogram_distance` of the prediction, and the penalty.

    Args:
        vae: an `AudioVAE`, or a `LatentDiscriminator` around one.
        spectrum: log amplitudes of this process's share of the batch.
        draw: of the posterior's and the prior's samples.
        seen: loops so far, for the rise of the penalty's weight.
    """
    found = vae(spectrum, draw)
    # Per row where it is none, so that all of the batch's can be all_gather.
    rows = [x if x.ndim else x.expand(len(spectrum)) for x in (spectrum, *found)]
    spectrum, predicted, mu, sigma, *contest = map(all_gather, rows)
    log_term, linear_term, fine_term = spectrogram_distance(spectrum, predicted)
    kl = gaussian_kl(mu, sigma)
    if cell.regulariser == "kl":
        penalty = rate(kl, cell.free_nats)
    elif cell.regulariser == "wae":
        z = sample(mu, sigma, draw).mT.flatten(0, 1)
        penalty = mmd(z, torch.randn(z.shape, generator=draw, device=z.device))
    else:
        penalty = contest[0].mean()
    weight = cell.weight * warm_up(seen, cell.warmup_loops)
    distance = log_term + LINEAR_WEIGHT * linear_term + FINE_WEIGHT * fine_term
    return {
        "loss": distance + weight * penalty,
        "log_distance": log_term,
        "linear_distance": linear_term,
        "fine_distance": fine_term,
        "kl_nats_per_frame": rate(kl),
        "penalty": penalty,
    }


def random_spectra(
    x: Float[Tensor, "b samples"], grid: Grid, frames: int, draw: torch.Generator
) -> Float[Tensor, "b v frames"]:
    """Log amplitudes of a part of each loop: from anywhere on the circle, at another speed.

    All of a step have one speed, 0.8 to 1.25 times their own: tempo and pitch, as of a turntable.
    A few are silenced, so that silence is known.

    Args:
        x: whole loops.
        frames: of each part.
        draw: seeded anew each step, as its seed tells the speed.
    """
    near = range(round(grid.frames / MOST_SPEED), round(grid.frames * MOST_SPEED) + 1)
    speeds = [n for n in near if n == grid.frames or 30**20 % n == 0]  # whose FFT is fast
    samples = speeds[draw.initial_seed() % len(speeds)] * grid.hop  # no wait for the device
    loud = draw_shard(torch.rand, size=(len(x), 1), draw=draw) >= SILENT_SHARE
    first = draw_shard(torch.randint, samples // grid.hop, size=(len(x),), draw=draw)
    return log_amplitudes(change_speed(x * loud, samples), grid.hop, first, frames)


def change_speed(x: Float[Tensor, "b samples"], samples: int) -> Float[Tensor, "b other"]:
    """Loops resampled to `samples`: exact, as circles have partials that stay or fall away."""
    if samples == x.shape[1]:
        return x
    # Neither has a partial at exactly half the rate afterwards, whose phase would be lost.
    partials = torch.fft.rfft(x)[:, : (min(samples, x.shape[1]) + 1) // 2]
    return torch.fft.irfft(partials, n=samples) * (samples / x.shape[1])


def _known_spectra(loops: LoopDataset) -> Float[Tensor, "n v frames"]:
    """Each fourth frame of loops spread over a data set: what the model starts from."""
    rows = _spread(len(loops), max(1, START_LOOPS // loops.grid.bars))
    parts = (
        torch.from_numpy(loops.audio(part)) for part in np.array_split(rows, -(-len(rows) // 16))
    )
    return torch.cat([log_amplitudes(x, loops.grid.hop)[..., ::4].contiguous() for x in parts])


def posterior_metrics(vae: AudioVAE, x: Tensor) -> dict[str, float]:
    """How much the latents of loops say: rate, active units, MMD to the prior."""
    device = next(vae.parameters()).device
    posteriors = [vae.encode(part.to(device)) for part in x.split(BATCH)]
    mu = torch.cat([p[0] for p in posteriors])
    sigma = torch.cat([p[1] for p in posteriors])
    return latent_metrics(mu, sigma, vae.grid.frame_rate_hz)


def _spread(size: int, most: int) -> np.ndarray:
    """At most `most` rows, evenly over all of them."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))

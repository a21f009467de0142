"""Audio VAEs trained for equal CPU time: how well, at what rate and how fast each reproduces.

    techloop prepare FOLDER loops
    python benchmarks/audio_vae.py loops --seconds 300

Every model is trained for the same CPU time (of all cores together, divided by their number), on
the same training split, and measured on the test split, whose groups no model has seen. On top of
each, a latent VAE of 16 points per loop is trained for a minute on its whitened means; the share of
their variance that it explains on the test split is reported.

`--rave PYTHON SCRIPT` adds a public model that lives in an environment of its own: SCRIPT is called
with the training and test loops (.npy, float32), CPU seconds, its capacity, and the .npy to write
its reconstructions to.
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from waveform_vae import WaveformVAE

from techloop.allocator import keep_freed_memory
from techloop.audio.frames import frame_values
from techloop.audio.spectral import log_mel
from techloop.data.datasets import LoopDataset
from techloop.evaluation.metrics.fidelity import reconstruction_metrics
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import parameter_count
from techloop.models.latent_vae import LatentVAE
from techloop.models.sampling import sample
from techloop.params import AudioVAECell, TrainAudioVAE, load_params
from techloop.reporting.plots import spectrogram_grid
from techloop.training.audio_vae import audio_vae_loss
from techloop.training.augmentation import random_crops
from techloop.training.decoder_losses import FINE_WEIGHT
from techloop.training.distributed import precision_from_environment
from techloop.training.latent_summary import latent_summary
from techloop.training.latent_vae import distortion_nats, latent_vae_metrics
from techloop.training.losses import gaussian_kl, rate, spectral_distance
from techloop.training.optimizer import (
    MAX_GRADIENT_NORM,
    ParameterGroup,
    learning_rate_share,
    make_optimizer,
)

ROOT = Path(__file__).parent.parent
BFLOAT16 = precision_from_environment() == "bf16-mixed"
Step = Callable[[torch.Generator, int], Tensor]
Trained = tuple[nn.Module, int]  # the model and its number of steps


@dataclass
class Conditions:
    """The data, time and settings that every contestant gets."""

    loops: Tensor
    grid: Grid
    seconds: float
    params: TrainAudioVAE
    cell: AudioVAECell
    batch: int = 4

    @property
    def crop(self) -> int:
        """Latent frames that a step sees of a loop."""
        return round(self.params.crop_fraction * self.grid.frames)

    def draw_batch(self, generator: torch.Generator) -> Tensor:
        """A batch of whole loops."""
        return self.loops[torch.randint(len(self.loops), (self.batch,), generator=generator)]


def cpu_seconds() -> float:
    """CPU time of this process per core."""
    return time.process_time() / torch.get_num_threads()


def train(model: nn.Module, step: Step, seconds: float, learning_rate: float = 1.5e-3) -> int:
    """Train by the library's schedule for some CPU time; returns the number of steps."""
    optimizer = make_optimizer([ParameterGroup(model.parameters(), learning_rate)])
    generator, start, steps = torch.Generator(), cpu_seconds(), 0
    with tqdm(total=round(seconds), unit=" s", leave=False) as bar:
        while (spent := cpu_seconds() - start) < seconds:
            generator.manual_seed(steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * learning_rate_share(spent / seconds)
            step(generator, steps).backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            bar.update(int(spent) - bar.n)
    model.eval()
    return steps


def phaseless(conditions: Conditions, pca: bool = True, fine_term: bool = True) -> Trained:
    """The library's model and loss.

    Args:
        conditions: of the contest.
        pca: whether it starts from principal components; else from random weights and the mean.
        fine_term: whether the loss has its term for fine structure.
    """
    torch.manual_seed(0)
    vae = AudioVAE(conditions.grid, **conditions.params.model.model_dump())
    start = cpu_seconds()
    random = [layer.weight.detach().clone() for layer in (vae.encoder.linear, vae.predictor.linear)]
    vae.init_from_pca(
        torch.cat(
            [frame_values(x, conditions.grid.hop)[..., ::4] for x in conditions.loops.split(16)]
        )
    )
    if not pca:
        vae.encoder.linear.weight.data, vae.predictor.linear.weight.data = random
    left = conditions.seconds - (cpu_seconds() - start)

    def step(generator: torch.Generator, steps: int) -> Tensor:
        x = conditions.draw_batch(generator)
        crops = random_crops(x, conditions.grid, conditions.crop, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            seen = steps * conditions.batch
            terms = audio_vae_loss(vae, crops, conditions.cell, generator, seen)
            without = 0 if fine_term else FINE_WEIGHT
            return terms["loss"] - without * terms["fine_distance"]

    return vae, train(vae, step, left)


def start_alone(conditions: Conditions) -> Trained:
    """The principal components that the library's model starts from, without training."""
    conditions.seconds = 0
    return phaseless(conditions)


def waveform(conditions: Conditions, bands: int) -> Trained:
    """The waveform VAE, by spectral distance at five windows and a KL of the weight it had."""
    torch.manual_seed(0)
    vae = WaveformVAE(16, bands)
    crop = conditions.crop * conditions.grid.hop

    def step(generator: torch.Generator, steps: int) -> Tensor:
        first = torch.randint(conditions.grid.samples, (conditions.batch, 1), generator=generator)
        samples = (first + torch.arange(crop)) % conditions.grid.samples
        x = conditions.draw_batch(generator).gather(1, samples)
        mu, sigma = vae.encode(x)
        y = vae.decode(sample(mu, sigma, generator), generator)
        weight = 1e-3 * min(1.0, steps * conditions.batch / 4_000)
        return sum(spectral_distance(x, y)) + weight * rate(gaussian_kl(mu, sigma))

    return vae, train(vae, step, conditions.seconds)


CONTESTANTS: dict[str, Callable[[Conditions], Trained]] = {
    "plain": lambda conditions: waveform(conditions, 1),
    "multiband": lambda conditions: waveform(conditions, 16),
    "no-start": lambda conditions: phaseless(conditions, pca=False),
    "no-fine-term": lambda conditions: phaseless(conditions, fine_term=False),
    "start-alone": start_alone,
    "techloop": phaseless,
}


@torch.inference_mode()
def encode(vae: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Posteriors of loops."""
    mu, sigma = zip(*(vae.encode(part) for part in x.split(16)), strict=True)
    return torch.cat(mu).clone(), torch.cat(sigma).clone()


def explained_variance(
    vae: nn.Module, conditions: Conditions, test: Tensor, seconds: float
) -> float:
    """Explained variance of the test loops' whitened means, by a briefly trained latent VAE."""
    (mu, sigma), (test_mu, test_sigma) = encode(vae, conditions.loops), encode(vae, test)
    torch.manual_seed(0)
    latent_vae = LatentVAE(
        conditions.grid,
        audio_latent_dim=mu.shape[1],
        length=16,
        latent_dim=32,
        channels=256,
        blocks=1,
    )
    log_sigma = sigma.log()
    latent_vae.mean.copy_(mu.mean((0, 2))[:, None])
    latent_vae.std.copy_(mu.std((0, 2)).clamp_min(1e-6)[:, None])
    latent_vae.log_sigma_mean.copy_(log_sigma.mean((0, 2))[:, None])
    latent_vae.log_sigma_std.copy_(log_sigma.std((0, 2)).clamp_min(1e-3)[:, None])

    def step(generator: torch.Generator, steps: int) -> Tensor:
        rows = torch.randint(len(mu), (16,), generator=generator)
        mu_hat, sigma_hat, mean, std = latent_vae(mu[rows], sigma[rows], generator)
        nats = distortion_nats(
            latent_vae, "trajectory-mean", mu[rows], sigma[rows], mu_hat, sigma_hat
        )
        weight = min(1.0, steps / 500)
        return nats + weight * rate(gaussian_kl(mean, std), 0.05) * 16 / conditions.grid.frames

    train(latent_vae, step, seconds, 1e-3)
    with torch.inference_mode():
        metrics = latent_vae_metrics(latent_vae, "trajectory-mean", test_mu, test_sigma, 0)
    return metrics["explained_variance"].value


@torch.inference_mode()
def quality(x: Tensor, y: Tensor, grid: Grid) -> dict[str, float]:
    """Distances of reconstructions from their originals."""
    metrics = reconstruction_metrics(x, y, grid)
    return {
        "log": metrics["multi_log"],
        "lin": metrics["multi_lin"],
        "log + lin": metrics["multi_log"] + metrics["multi_lin"],
        "fine structure": metrics["fine_structure"],
        "window 2048": metrics["spectral_distance"],
    }


def public_model(
    conditions: Conditions, test: Tensor, python: str, script: str, capacity: int
) -> Tensor:
    """Reconstructions of a model that lives in another environment."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{name}.npy") for name in ("train", "test", "out")]
        np.save(files[0], conditions.loops.numpy())
        np.save(files[1], test.numpy())
        arguments = [*files[:2], str(conditions.seconds), str(capacity), files[2]]
        subprocess.run([python, script, *arguments], check=True)
        return torch.from_numpy(np.load(files[2])).float()


def decode(vae: nn.Module, z: Tensor, generator: torch.Generator) -> Tensor:
    """Loops of latents, by either kind of model."""
    if isinstance(vae, AudioVAE):
        return vae.decode(z, vae.draw_noise(z, generator))
    return vae.decode(z, generator)


def speed(conditions: Conditions) -> None:
    """Print the cost of the library's model, and its speed as a share of that of products."""
    vae = AudioVAE(conditions.grid, **conditions.params.model.model_dump())
    with torch.inference_mode():
        parts = conditions.loops[:32].split(16)
        spectra = torch.cat([frame_values(x, conditions.grid.hop) for x in parts])
    vae.init_from_pca(spectra.clone())
    batch = conditions.loops[:16]

    @torch.inference_mode()
    def seconds(work: Callable[[], object], times: int) -> float:
        work()
        start = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - start) / times

    dtype = torch.bfloat16 if BFLOAT16 else torch.float32
    square = torch.randn(2048, 2048, dtype=dtype)
    peak = 2 * 2048**3 / seconds(lambda: square @ square, 10)
    z = vae.encode(batch[:1])[0].detach()
    noise = torch.randn(1, conditions.grid.samples)
    one = conditions.grid.duration_s
    print(f"encoding: {16 * one / seconds(lambda: vae.encode(batch), 10):.0f} times real time")
    print(f"decoding a loop alone: {1e3 * seconds(lambda: vae.decode(z, noise), 20):.1f} ms")
    optimizer = make_optimizer([ParameterGroup(vae.parameters(), 1e-4)])
    spent = dict.fromkeys(("data", "forward", "backward", "update"), 0.0)

    def step(i: int) -> None:
        marks = [time.perf_counter()]
        generator = torch.Generator().manual_seed(i)
        x = conditions.draw_batch(generator)
        crops = random_crops(x, conditions.grid, conditions.crop, generator)
        marks.append(time.perf_counter())
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            loss = audio_vae_loss(vae, crops, conditions.cell, generator, i)["loss"]
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        nn.utils.clip_grad_norm_(vae.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        for name, (a, b) in zip(spent, pairwise(marks), strict=True):
            spent[name] += b - a

    with FlopCounterMode(display=False) as counter:
        step(0)
    spent.update(dict.fromkeys(spent, 0.0))
    for i in range(100):
        step(i)
    step_s = sum(spent.values()) / 100
    trained_s = conditions.batch * conditions.crop / conditions.grid.frame_rate_hz
    rate_of_products = counter.get_total_flops() / step_s
    print(
        f"training: {trained_s / step_s:.0f} times real time, {1e3 * step_s:.1f} ms per step: ",
        end="",
    )
    print(", ".join(f"{name} {10 * s:.1f}" for name, s in spent.items()))
    print(
        f"products: {rate_of_products / 1e9:.0f} GFLOP/s, {rate_of_products / peak:.0%} of the "
        f"{peak / 1e9:.0f} that a large {dtype} product reaches here"
    )


def main() -> None:
    """Run the contest: print a row per model, and draw their reconstructions of some loops."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loops", help="a prepared data set, as of `techloop prepare`")
    parser.add_argument("--seconds", type=float, default=300, help="CPU time per model and core")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rave", nargs=2, metavar=("PYTHON", "SCRIPT"))
    parser.add_argument("--capacity", type=int, default=32, help="of the public model")
    parser.add_argument("--latent-seconds", type=float, default=60, help="of the latent VAE")
    parser.add_argument("--speed", action="store_true", help="only time the library's model")
    parser.add_argument("--picture", help="PNG: some loops, and the reconstructions of each model")
    arguments = parser.parse_args()
    dataset = LoopDataset(arguments.loops, "train")
    params = load_params(ROOT / "params.yaml").train_audio_vae
    loops = torch.from_numpy(dataset.audio())
    test = torch.from_numpy(LoopDataset(arguments.loops, "test").audio())
    if arguments.speed:
        return speed(Conditions(loops, dataset.grid, arguments.seconds, params, params.cell("kl")))
    shown, rows, names = [test[:: -(-len(test) // 4)]], [], ["original"]
    print(f"{len(loops)} loops to train on, {len(test)} of other groups to measure", flush=True)

    def add(name: str, y: Tensor, row: dict[str, float]) -> None:
        rows.append({"model": name, **quality(test, y, dataset.grid), **row})
        shown.append(y[:: -(-len(test) // 4)])
        names.append(name)
        print(pd.DataFrame(rows).round(3).to_string(index=False), "\n", flush=True)

    for name in arguments.only:
        conditions = Conditions(loops, dataset.grid, arguments.seconds, params, params.cell("kl"))
        vae, steps = CONTESTANTS[name](conditions)
        mu, sigma = encode(vae, test)
        with torch.inference_mode():
            noise = torch.Generator().manual_seed(0)
            y = torch.cat([decode(vae, part, noise) for part in mu.split(16)])
        trained_s = steps * conditions.batch * conditions.crop / dataset.grid.frame_rate_hz
        measured = {
            "nats/frame": sum(latent_summary(mu, sigma).kl_per_dimension),
            "latent VAE explains": explained_variance(
                vae, conditions, test, arguments.latent_seconds
            ),
            "x real time": trained_s / conditions.seconds if conditions.seconds else float("nan"),
            "parameters": parameter_count(vae) / 1e6,
        }
        add(name, y, measured)
    if arguments.rave:
        conditions = Conditions(loops, dataset.grid, arguments.seconds, params, params.cell("kl"))
        add("rave", public_model(conditions, test, *arguments.rave, arguments.capacity), {})
    if arguments.picture:
        audio = torch.cat(shown)
        spectrogram_grid(
            arguments.picture,
            log_mel(audio, dataset.grid.sample_rate_hz, window=2048, mels=128).numpy(),
            [""] * len(audio),
            columns=len(shown[0]),
            span=(dataset.grid.beats, "beat"),
            mel_range_hz=(30.0, dataset.grid.sample_rate_hz / 2),
            rows=names,
        )


if __name__ == "__main__":
    main()

"""Audio VAEs at equal CPU time on one split: what each reproduces, at what rate, how fast.

    techloop prepare FOLDER loops
    python benchmarks/audio_vae.py loops --seconds 300

Every model is trained for the same CPU time (of all cores together, divided by their number), on
the same training split, and measured on the test split: groups that no model has seen. On top of
each a latent VAE of 16 points a loop is trained for a minute on its whitened means, and asked how
much of their variance it explains on the test split.

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
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from waveform_vae import WaveformVAE

from techloop.audio.spectral import log_mel
from techloop.audio.vocoder import log_amplitudes
from techloop.data.datasets import LoopDataset
from techloop.evaluation.metrics.fidelity import reconstruction_metrics
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import parameter_count
from techloop.models.latent_vae import LatentVAE
from techloop.models.sampling import sample
from techloop.params import AudioVAECell, TrainAudioVAE, load_params
from techloop.reporting.plots import spectrogram_grid
from techloop.training import audio_vae as training
from techloop.training.latent_vae import distortion_nats, latent_vae_metrics
from techloop.training.latents import latent_metrics
from techloop.training.loop import GRADIENT_NORM, optimizer_of, precision_from_environment, schedule
from techloop.training.losses import gaussian_kl, rate, spectral_distance

ROOT = Path(__file__).parent.parent
BFLOAT16 = precision_from_environment() == "bf16-mixed"
Step = Callable[[torch.Generator, int], Tensor]
Trained = tuple[nn.Module, int]  # and its steps


@dataclass
class Given:
    """What each contestant gets."""

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

    def drawn(self, draw: torch.Generator) -> Tensor:
        """A batch of whole loops."""
        return self.loops[torch.randint(len(self.loops), (self.batch,), generator=draw)]


def cpu_seconds() -> float:
    """Of this process, a core."""
    return time.process_time() / torch.get_num_threads()


def train(model: nn.Module, step: Step, seconds: float, learning_rate: float = 1.5e-3) -> int:
    """The library's schedule, stretched over a CPU time instead of a number of loops; steps."""
    optimizer = optimizer_of(model, learning_rate)
    draw, start, steps = torch.Generator(), cpu_seconds(), 0
    with tqdm(total=round(seconds), unit=" s", leave=False) as bar:
        while (spent := cpu_seconds() - start) < seconds:
            draw.manual_seed(steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * schedule(spent / seconds)
            step(draw, steps).backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            bar.update(int(spent) - bar.n)
    model.eval()
    return steps


def phaseless(given: Given, components: bool = True) -> Trained:
    """The library's model and objective; or from random weights, knowing only the mean."""
    torch.manual_seed(0)
    vae = AudioVAE(given.grid, **given.params.model.model_dump())
    start = cpu_seconds()
    random = [layer.weight.detach().clone() for layer in (vae.encoder.linear, vae.decoder.linear)]
    vae.init_from_pca(
        torch.cat([log_amplitudes(x, given.grid.hop)[..., ::4] for x in given.loops.split(16)])
    )
    if not components:
        vae.encoder.linear.weight.data, vae.decoder.linear.weight.data = random
    left = given.seconds - (cpu_seconds() - start)

    def step(draw: torch.Generator, steps: int) -> Tensor:
        x = given.drawn(draw)
        spectrum = training.random_spectra(x, given.grid, given.crop, draw)
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            return training.objective(vae, spectrum, given.cell, draw, steps * given.batch)["loss"]

    return vae, train(vae, step, left)


def without_fine_term(given: Given) -> Trained:
    """The same without the term that looks at fine structure."""
    with mock.patch.object(training, "FINE_WEIGHT", 0.0):
        return phaseless(given)


def start_alone(given: Given) -> Trained:
    """Its principal components, without any training."""
    given.seconds = 0
    return phaseless(given)


def waveform(given: Given, bands: int) -> Trained:
    """The waveform VAE with a KL of the weight it had, by spectral distance at five windows."""
    torch.manual_seed(0)
    vae = WaveformVAE(16, bands)
    crop = given.crop * given.grid.hop

    def step(draw: torch.Generator, steps: int) -> Tensor:
        at = torch.randint(given.grid.samples, (given.batch, 1), generator=draw)
        x = given.drawn(draw).gather(1, (at + torch.arange(crop)) % given.grid.samples)
        mu, sigma = vae.encode(x)
        y = vae.decode(sample(mu, sigma, draw), draw)
        weight = 1e-3 * min(1.0, steps * given.batch / 4_000)
        return sum(spectral_distance(x, y)) + weight * rate(gaussian_kl(mu, sigma))

    return vae, train(vae, step, given.seconds)


CONTESTANTS: dict[str, Callable[[Given], Trained]] = {
    "plain": lambda given: waveform(given, 1),
    "multiband": lambda given: waveform(given, 16),
    "no-start": lambda given: phaseless(given, components=False),
    "no-fine-term": without_fine_term,
    "start-alone": start_alone,
    "techloop": phaseless,
}


@torch.inference_mode()
def encoded(vae: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Posteriors of loops."""
    mu, sigma = zip(*(vae.encode(part) for part in x.split(16)), strict=True)
    return torch.cat(mu).clone(), torch.cat(sigma).clone()


def explained_variance(vae: nn.Module, given: Given, test: Tensor, seconds: float) -> float:
    """Of the whitened means of test loops, by a latent VAE of 16 points trained for `seconds`."""
    (mu, sigma), (test_mu, test_sigma) = encoded(vae, given.loops), encoded(vae, test)
    torch.manual_seed(0)
    top = LatentVAE(
        given.grid, audio_latent_dim=mu.shape[1], length=16, latent_dim=32, channels=256, blocks=1
    )
    log_sigma = sigma.log()
    top.mean.copy_(mu.mean((0, 2))[:, None])
    top.std.copy_(mu.std((0, 2)).clamp_min(1e-6)[:, None])
    top.log_sigma_mean.copy_(log_sigma.mean((0, 2))[:, None])
    top.log_sigma_std.copy_(log_sigma.std((0, 2)).clamp_min(1e-3)[:, None])

    def step(draw: torch.Generator, steps: int) -> Tensor:
        rows = torch.randint(len(mu), (16,), generator=draw)
        mu_hat, sigma_hat, mean, std = top(mu[rows], sigma[rows], draw)
        nats = distortion_nats(top, "trajectory-mean", mu[rows], sigma[rows], mu_hat, sigma_hat)
        warm = min(1.0, steps / 500)
        return nats + warm * rate(gaussian_kl(mean, std), 0.05) * 16 / given.grid.frames

    train(top, step, seconds, 1e-3)
    with torch.inference_mode():
        return latent_vae_metrics(top, "trajectory-mean", test_mu, test_sigma, 0)[
            "explained_variance"
        ]


@torch.inference_mode()
def quality(x: Tensor, y: Tensor, grid: Grid) -> dict[str, float]:
    """How far reconstructions are from their originals."""
    found = reconstruction_metrics(x, y, grid)
    return {
        "log": found["multi_log"],
        "lin": found["multi_lin"],
        "log + lin": found["multi_log"] + found["multi_lin"],
        "fine structure": found["fine_structure"],
        "window 2048": found["spectral_distance"],
    }


def public_model(given: Given, test: Tensor, python: str, script: str, capacity: int) -> Tensor:
    """Reconstructions of a model that lives in another environment."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{name}.npy") for name in ("train", "test", "out")]
        np.save(files[0], given.loops.numpy())
        np.save(files[1], test.numpy())
        arguments = [*files[:2], str(given.seconds), str(capacity), files[2]]
        subprocess.run([python, script, *arguments], check=True)
        return torch.from_numpy(np.load(files[2])).float()


def speed(given: Given) -> None:
    """Print what the library's model costs, and how near it comes to its matrix products."""
    vae = AudioVAE(given.grid, **given.params.model.model_dump())
    with torch.inference_mode():
        known = torch.cat([log_amplitudes(x, given.grid.hop) for x in given.loops[:32].split(16)])
    vae.init_from_pca(known.clone())
    batch = given.loops[:16]

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
    one = given.grid.duration_s
    print(f"encoding: {16 * one / seconds(lambda: vae.encode(batch), 10):.0f} times real time")
    print(f"decoding a loop alone: {1e3 * seconds(lambda: vae.decode(z), 20):.1f} ms")
    optimizer = optimizer_of(vae, 1e-4)
    spent = dict.fromkeys(("data", "forward", "backward", "update"), 0.0)

    def step(i: int) -> None:
        marks = [time.perf_counter()]
        draw = torch.Generator().manual_seed(i)
        spectrum = training.random_spectra(given.drawn(draw), given.grid, given.crop, draw)
        marks.append(time.perf_counter())
        with torch.autocast("cpu", torch.bfloat16, enabled=BFLOAT16):
            loss = training.objective(vae, spectrum, given.cell, draw, i)["loss"]
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        nn.utils.clip_grad_norm_(vae.parameters(), GRADIENT_NORM)
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
    took = sum(spent.values()) / 100
    heard = given.batch * given.crop / given.grid.frame_rate_hz
    rate_of_products = counter.get_total_flops() / took
    print(f"training: {heard / took:.0f} times real time, {1e3 * took:.1f} ms a step: ", end="")
    print(", ".join(f"{name} {10 * s:.1f}" for name, s in spent.items()))
    print(
        f"products: {rate_of_products / 1e9:.0f} GFLOP/s, {rate_of_products / peak:.0%} of the "
        f"{peak / 1e9:.0f} that a large {dtype} product reaches here"
    )


def main() -> None:
    """Run the contest, print a row a model, draw what they make of the same loops."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loops", help="a prepared data set, as of `techloop prepare`")
    parser.add_argument("--seconds", type=float, default=300, help="CPU time a model (a core)")
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rave", nargs=2, metavar=("PYTHON", "SCRIPT"))
    parser.add_argument("--capacity", type=int, default=32, help="of the public model")
    parser.add_argument("--latent-seconds", type=float, default=60, help="of the latent VAE")
    parser.add_argument("--speed", action="store_true", help="only time the library's model")
    parser.add_argument("--picture", help="PNG: originals, and what each model makes of them")
    told = parser.parse_args()
    dataset = LoopDataset(told.loops, "train")
    params = load_params(ROOT / "params.yaml").train_audio_vae
    loops = torch.from_numpy(dataset.audio())
    test = torch.from_numpy(LoopDataset(told.loops, "test").audio())
    if told.speed:
        return speed(Given(loops, dataset.grid, told.seconds, params, params.cell("kl")))
    shown, rows, names = [test[:: -(-len(test) // 4)]], [], ["original"]
    print(f"{len(loops)} loops to train on, {len(test)} of other groups to measure", flush=True)

    def add(name: str, y: Tensor, row: dict[str, float]) -> None:
        rows.append({"model": name, **quality(test, y, dataset.grid), **row})
        shown.append(y[:: -(-len(test) // 4)])
        names.append(name)
        print(pd.DataFrame(rows).round(3).to_string(index=False), "\n", flush=True)

    for name in told.only:
        given = Given(loops, dataset.grid, told.seconds, params, params.cell("kl"))
        vae, steps = CONTESTANTS[name](given)
        mu, sigma = encoded(vae, test)
        with torch.inference_mode():
            y = torch.cat([vae.decode(part) for part in mu.split(16)])
        heard = steps * given.batch * given.crop / dataset.grid.frame_rate_hz
        measured = {
            "nats/frame": latent_metrics(mu, sigma, dataset.grid.frame_rate_hz)[
                "kl_nats_per_frame"
            ],
            "VAE 2 explains": explained_variance(vae, given, test, told.latent_seconds),
            "x real time": heard / given.seconds if given.seconds else float("nan"),
            "parameters": parameter_count(vae) / 1e6,
        }
        add(name, y, measured)
    if told.rave:
        given = Given(loops, dataset.grid, told.seconds, params, params.cell("kl"))
        add("rave", public_model(given, test, *told.rave, told.capacity), {})
    if told.picture:
        audio = torch.cat(shown)
        spectrogram_grid(
            told.picture,
            log_mel(audio, dataset.grid.sample_rate_hz, window=2048, mels=128).numpy(),
            [""] * len(audio),
            columns=len(shown[0]),
            span=(dataset.grid.beats, "beat"),
            mel_range_hz=(30.0, dataset.grid.sample_rate_hz / 2),
            rows=names,
        )


if __name__ == "__main__":
    main()

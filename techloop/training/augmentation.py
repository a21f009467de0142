"""Random changes to the loops of a batch; each keeps a loop a circle on the grid."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from techloop.audio.vocoder import log_amplitudes
from techloop.grid import Grid
from techloop.models.sampling import draw_shard

MAX_SPEED = 1.25
SILENT_SHARE = 1 / 64  # of the loops in a batch


def random_spectra(
    x: Float[Tensor, "b samples"], grid: Grid, frames: int, generator: Generator
) -> Float[Tensor, "b v frames"]:
    """Log amplitudes of a part of each loop, from a random place, at a random speed.

    All loops of a batch have one speed, 0.8 to 1.25 times their own, which changes tempo and pitch
    together like a turntable. A few loops are silenced, so that the model learns silence.

    Args:
        x: whole loops.
        frames: length of each part in latent frames.
        generator: newly seeded for each step; the speed follows from its seed.
    """
    x, first = _random_places(x, grid, generator)
    return log_amplitudes(x, grid.hop, first, frames)


def random_crops(
    x: Float[Tensor, "b samples"], grid: Grid, frames: int, generator: Generator
) -> Float[Tensor, "b part"]:
    """The waveforms of parts drawn as in `random_spectra`, each bent to a circle of its own.

    Where such a circle closes there is a splice, which no loop has. A model has to be given the
    spliced circle, so that what it decodes has the splice too.
    """
    x, first = _random_places(x, grid, generator)
    samples = torch.arange(frames * grid.hop, device=x.device)
    return x.gather(1, (first[:, None] * grid.hop + samples) % x.shape[1])


def _random_places(x: Tensor, grid: Grid, generator: Generator) -> tuple[Tensor, Tensor]:
    """Loops at one random speed, a few of them silent, and a random frame of each."""
    lengths = range(round(grid.frames / MAX_SPEED), round(grid.frames * MAX_SPEED) + 1)
    fast = [n for n in lengths if n == grid.frames or 30**20 % n == 0]  # primes 2, 3, 5: fast FFT
    # The speed is drawn on the CPU, so that no step waits for the device.
    samples = fast[generator.initial_seed() % len(fast)] * grid.hop
    audible = draw_shard(torch.rand, size=(len(x), 1), generator=generator) >= SILENT_SHARE
    first = draw_shard(torch.randint, samples // grid.hop, size=(len(x),), generator=generator)
    return change_speed(x * audible, samples), first


def change_speed(x: Float[Tensor, "b samples"], samples: int) -> Float[Tensor, "b other"]:
    """Loops resampled to `samples`; exact, since a circle's partials either stay or are dropped."""
    if samples == x.shape[1]:
        return x
    # A partial at exactly half the rate has no defined phase, so neither length keeps one.
    partials = torch.fft.rfft(x)[:, : (min(samples, x.shape[1]) + 1) // 2]
    resampled: Tensor = torch.fft.irfft(partials, n=samples) * (samples / x.shape[1])
    return resampled


def random_rotation(
    mu: Float[Tensor, "b c frames"],
    sigma: Float[Tensor, "b c frames"],
    grid: Grid,
    generator: Generator,
) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
    """Each loop's posterior, rotated to begin at one of its beats, drawn at random.

    Where a beat is a whole number of points, the latent VAE treats all beats alike anyway.
    Elsewhere, as for a single point, it would memorise a few hundred loops unless it sees them from
    every beat.
    """
    beat = draw_shard(torch.randint, grid.beats, size=(len(mu), 1), generator=generator)
    first = (beat * grid.frames / grid.beats).round().long()
    frames = (first + torch.arange(grid.frames, device=mu.device)) % grid.frames
    frames = frames[:, None].expand_as(mu)
    return mu.gather(2, frames), sigma.gather(2, frames)

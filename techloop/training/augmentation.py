"""Random changes to the loops of a batch; each keeps a loop a circle on the grid."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from techloop.grid import Grid
from techloop.models.sampling import draw_shard

MAX_SPEED = 1.25
SILENT_SHARE = 1 / 64  # of the loops in a batch


def random_crops(
    x: Float[Tensor, "b samples"], grid: Grid, frames: int, generator: Generator
) -> Float[Tensor, "b part"]:
    """A part of each loop, from a random place, at a random speed, as a circle of its own.

    All loops of a batch have one speed, 0.8 to 1.25 times their own, which changes tempo and pitch
    together like a turntable. A few loops are silenced, so that the model learns silence. Where a
    part closes to a circle, its first hop is cross-faded with what follows its end: a click there
    would be in every frame whose window reaches over it.

    Args:
        x: whole loops.
        frames: length of each part in latent frames, at most the whole loop.
        generator: newly seeded for each step; the speed follows from its seed.
    """
    lengths = range(round(grid.frames / MAX_SPEED), round(grid.frames * MAX_SPEED) + 1)
    fast = [n for n in lengths if n == grid.frames or 30**20 % n == 0]  # primes 2, 3, 5: fast FFT
    # The speed is drawn on the CPU, so that no step waits for the device.
    samples = fast[generator.initial_seed() % len(fast)] * grid.hop
    audible = draw_shard(torch.rand, size=(len(x), 1), generator=generator) >= SILENT_SHARE
    first = draw_shard(torch.randint, samples // grid.hop, size=(len(x),), generator=generator)
    x = change_speed(x * audible, samples)
    part = min(frames * grid.hop, samples)
    after = torch.arange(part + grid.hop, device=x.device)
    parts = x.gather(1, (first[:, None] * grid.hop + after) % samples)
    share = torch.linspace(0, 1, grid.hop, device=x.device)
    closed = parts[:, : grid.hop] * share + parts[:, part:] * (1 - share)
    return torch.cat([closed, parts[:, grid.hop : part]], 1)


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

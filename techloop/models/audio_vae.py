"""VAE 1: loops to Gaussian latents at the hop rate, and back.

    loop -> filter bank -> encoder -> (mu, sigma), 16 numbers each 128 samples
    z -> decoder -> waveform x loudness + shaped noise, by sub-band -> filter bank -> loop

Everything is circular and convolutional: `decode(roll(z, k)) == roll(decode(z), 128 k)`, given
that the noise, the one thing tied to a position, is rolled too.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.filterbank import FilterBank
from techloop.grid import Grid
from techloop.models.blocks import ChannelNorm, CircularConv, ResidualBlock, fold, trunk, unfold
from techloop.models.model import Model

SIGMA_FLOOR = 0.05  # an encoder that is not asked to be uncertain (wae) still is, a little
DILATIONS = (1, 3, 9)


class AudioVAE(Model):
    """The audio VAE of a grid.

    Args:
        grid: sample rate, hop and length of the loops it will know.
        latent_dim: numbers a latent frame.
        bands: sub-bands; the hop must be a power of two times them.
        channels: width at the latent rate; half of it at each doubling of the rate.
        blocks: rounds of three residual blocks (dilations 1, 3, 9) at the latent rate.

    Raises:
        ValueError: the hop is no power of two times `bands`.
    """

    def __init__(
        self, grid: Grid, *, latent_dim: int, bands: int, channels: int, blocks: int
    ) -> None:
        super().__init__(grid, latent_dim=latent_dim, bands=bands, channels=channels, blocks=blocks)
        levels = range(grid.doublings(bands) + 1)
        widths = [max(channels >> level, bands) for level in levels][::-1]
        self.latent_dim = latent_dim
        self.filter_bank = FilterBank(bands)
        self.encoder = Encoder(bands, widths, blocks, latent_dim)
        self.decoder = Decoder(bands, widths, blocks, latent_dim)

    def encode(
        self, x: Float[Tensor, "b samples"]
    ) -> tuple[Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]]:
        """Posterior mean and standard deviation of any circle of whole hops, in [-1, 1]."""
        return self.encoder(self.filter_bank.analyse(x))

    def decode(
        self, z: Float[Tensor, "b c frames"], noise: Float[Tensor, "b bands steps"] | None = None
    ) -> Float[Tensor, "b samples"]:
        """Audio of latents.

        Args:
            z: any number of frames.
            noise: standard normal, `noise_shape(z)`; a fixed draw by default.
        """
        if noise is None:
            draw = torch.Generator().manual_seed(0)
            noise = torch.randn(self.noise_shape(z), generator=draw).to(z)
        return self.filter_bank.synthesise(self.decoder(z, noise))

    def noise_shape(self, z: Tensor) -> tuple[int, int, int]:
        """Shape of the noise that `decode` shapes."""
        bands = self.filter_bank.bands
        return len(z), bands, z.shape[-1] * self.grid.hop // bands

    def forward(
        self, x: Float[Tensor, "b samples"], draw: torch.Generator
    ) -> tuple[
        Float[Tensor, "b samples"], Float[Tensor, "b c frames"], Float[Tensor, "b c frames"]
    ]:
        """Reconstruction from a sample of the posterior, and the posterior: mean, deviation."""
        mu, sigma = self.encode(x)
        z = mu + sigma * torch.randn(mu.shape, generator=draw, device=mu.device)
        noise = torch.randn(self.noise_shape(z), generator=draw, device=z.device)
        return self.decode(z, noise), mu, sigma


class Encoder(nn.Module):
    """Sub-bands to a posterior: residual blocks, halving the rate as often as it takes."""

    def __init__(self, bands: int, widths: list[int], blocks: int, latent_dim: int) -> None:
        super().__init__()
        self.stem = CircularConv(bands, widths[0], 7)
        self.levels = nn.Sequential(*(Halve(a, b) for a, b in pairwise(widths)))
        self.trunk = trunk(widths[-1], blocks, DILATIONS)
        self.head = nn.Conv1d(widths[-1], 2 * latent_dim, 1)

    def forward(self, bands: Float[Tensor, "b bands t"]) -> tuple[Tensor, Tensor]:  # noqa: D102
        h = self.trunk(self.levels(self.stem(compress(bands))))
        mu, raw = self.head(h).float().chunk(2, 1)
        return mu, SIGMA_FLOOR + F.softplus(raw)


class Decoder(nn.Module):
    """Latents to sub-bands: waveform x loudness, plus noise with a loudness of its own."""

    def __init__(self, bands: int, widths: list[int], blocks: int, latent_dim: int) -> None:
        super().__init__()
        widths = widths[::-1]
        self.stem = CircularConv(latent_dim, widths[0], 3)
        self.trunk = trunk(widths[0], blocks, DILATIONS)
        self.levels = nn.Sequential(*(Double(a, b) for a, b in pairwise(widths)))
        self.norm = ChannelNorm(widths[-1])
        self.head = CircularConv(widths[-1], 3 * bands, 7)

    def forward(self, z: Tensor, noise: Tensor) -> Float[Tensor, "b bands t"]:  # noqa: D102
        h = self.levels(self.trunk(self.stem(z)))
        wave, loudness, noise_loudness = self.head(self.norm(h)).float().chunk(3, 1)
        return wave.tanh() * loud(loudness) + noise * loud(noise_loudness - 2)


class Halve(nn.Module):
    """Half the rate, from `inputs` to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs)
        self.narrow = nn.Conv1d(2 * inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d u"]:  # noqa: D102
        return self.narrow(fold(self.block(x), 2))


class Double(nn.Module):
    """Twice the rate, from `inputs` to `outputs` channels, by sub-pixel up-sampling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = nn.Conv1d(inputs, 2 * outputs, 1)
        self.blocks = nn.Sequential(ResidualBlock(outputs), ResidualBlock(outputs, 3))

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d u"]:  # noqa: D102
        return self.blocks(unfold(self.widen(x), 2))


def compress(bands: Tensor) -> Tensor:
    """Sub-bands with their quiet parts lifted, odd and smooth: asinh, linear below -50 dB."""
    return torch.asinh(bands * 300) / 3


def loud(x: Tensor) -> Tensor:
    """A positive amplitude from a free number: exponential where small, linear where large."""
    return 0.5 * F.softplus(2 * x - 2)

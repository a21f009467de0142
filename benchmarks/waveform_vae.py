"""The former audio VAE: a VAE of waveforms, by sub-bands or, with one band, of plain samples.

The plain one is that of Demerlé & Caillon, A hierarchical approach to techno loop generation.

loop -> filter bank -> strided convolutions -> (mu, sigma)
z -> sub-pixel up-sampling -> waveform x loudness + shaped noise, by sub-band -> loop
"""

from itertools import pairwise

import torch
from filterbank import FilterBank
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.models.layers import (
    CircularConv,
    ResidualBlock,
    RMSNorm,
    patchify,
    residual_stack,
    unpatchify,
)

SIGMA_FLOOR = 0.05
DILATIONS = (1, 3, 9)


class WaveformVAE(nn.Module):
    """Circular, at a hop of 128 samples; `bands` is 1 or a power of two below it."""

    def __init__(self, latent_dim: int, bands: int, channels: int = 256) -> None:
        super().__init__()
        levels = range((128 // bands).bit_length())
        widths = [max(channels >> level, 16) for level in levels][::-1]
        self.filter_bank = FilterBank(bands)
        self.encoder = Encoder(bands, widths, 1, latent_dim)
        self.decoder = Decoder(bands, widths, 1, latent_dim)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of loops `(b, samples)`: mean and deviation, `(b, c, frames)`."""
        return self.encoder(self.filter_bank.analyse(x))

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Loops of latents."""
        bands = self.filter_bank.bands
        generator = generator or torch.Generator().manual_seed(0)
        noise = torch.randn(len(z), bands, z.shape[-1] * 128 // bands, generator=generator)
        return self.filter_bank.synthesise(self.decoder(z, noise))


class Encoder(nn.Module):
    """Sub-bands to a posterior: residual blocks, each level at half the rate."""

    def __init__(self, bands: int, widths: list[int], blocks: int, latent_dim: int) -> None:
        super().__init__()
        self.stem = CircularConv(bands, widths[0], 7)
        self.levels = nn.Sequential(*(Halve(a, b) for a, b in pairwise(widths)))
        self.stack = residual_stack(widths[-1], blocks, DILATIONS)
        self.head = nn.Conv1d(widths[-1], 2 * latent_dim, 1)

    def forward(self, bands: Float[Tensor, "b bands t"]) -> tuple[Tensor, Tensor]:  # noqa: D102
        h = self.stack(self.levels(self.stem(compress(bands))))
        mu, raw = self.head(h).float().chunk(2, 1)
        return mu, SIGMA_FLOOR + F.softplus(raw)


class Decoder(nn.Module):
    """Latents to sub-bands: waveform times loudness, plus noise times its own loudness."""

    def __init__(self, bands: int, widths: list[int], blocks: int, latent_dim: int) -> None:
        super().__init__()
        widths = widths[::-1]
        self.stem = CircularConv(latent_dim, widths[0], 3)
        self.stack = residual_stack(widths[0], blocks, DILATIONS)
        self.levels = nn.Sequential(*(Double(a, b) for a, b in pairwise(widths)))
        self.norm = RMSNorm(widths[-1])
        self.head = CircularConv(widths[-1], 3 * bands, 7)

    def forward(self, z: Tensor, noise: Tensor) -> Float[Tensor, "b bands t"]:  # noqa: D102
        h = self.levels(self.stack(self.stem(z)))
        wave, loudness, noise_loudness = self.head(self.norm(h)).float().chunk(3, 1)
        return wave.tanh() * loud(loudness) + noise * loud(noise_loudness - 2)


class Halve(nn.Module):
    """Half the rate, from `inputs` to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = ResidualBlock(inputs)
        self.narrow = nn.Conv1d(2 * inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d u"]:  # noqa: D102
        return self.narrow(patchify(self.block(x), 2))


class Double(nn.Module):
    """Twice the rate, from `inputs` to `outputs` channels, by sub-pixel up-sampling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = nn.Conv1d(inputs, 2 * outputs, 1)
        self.blocks = nn.Sequential(ResidualBlock(outputs), ResidualBlock(outputs, 3))

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d u"]:  # noqa: D102
        return self.blocks(unpatchify(self.widen(x), 2))


def compress(bands: Tensor) -> Tensor:
    """Sub-bands with their quiet parts lifted, odd and smooth: asinh, linear below -50 dB."""
    return torch.asinh(bands * 300) / 3


def loud(x: Tensor) -> Tensor:
    """A positive amplitude from a free number: exponential where small, linear where large."""
    return 0.5 * F.softplus(2 * x - 2)

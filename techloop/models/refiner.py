"""From predicted frames to a waveform: tones and noise, at amplitudes that a network refines."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.audio.frames import BANDS, LOG_FLOOR, SHORT, fine_structure, split_values
from techloop.audio.spectral import circular_istft, circular_stft
from techloop.audio.vocoder import polar, tones
from techloop.grid import Grid
from techloop.models.layers import residual_stack

DILATIONS = (1, 3, 9)
# Gains of fine structure: a prediction is a mean, so its contrast is too low. Valleys between
# partials can be deepened more than peaks can be raised, since the peaks carry the level.
VALLEYS, PEAKS = 4.0, 2.0
NOISE_FROM_HZ, NOISE_ABOVE_HZ = 500.0, 1_000.0  # noise has no share below, any share above
NOISE_TONALITY, TONE_TONALITY = 0.05, 0.35  # of bands that start as noise alone, as tones alone
MOST_GAIN = 3.0  # nepers by which the network changes an amplitude, at most


class Spectrum(NamedTuple):
    """What a decoded loop consists of, in the transform of the short window.

    Attributes:
        steady: what does not depend on the noise.
        noise_gain: of white noise of unit variance in each bin.
    """

    steady: Complex[Tensor, "b bins frames"]
    noise_gain: Float[Tensor, "b bins frames"]


class Refiner(nn.Module):
    """Tones of the long window at the amplitudes of the short one, and noise where it is not tonal.

    Residual blocks change gain and phase of the tones and the gain of the noise in each bin, and
    add what neither has. They start as no change.

    Args:
        grid: of the loops.
        channels: width of the residual blocks, and of the predictor's features.
        blocks: rounds of three residual blocks.
    """

    may_be_noise: Tensor
    spread: Tensor  # of bands over bins

    def __init__(self, grid: Grid, channels: int, blocks: int) -> None:
        super().__init__()
        self.window, self.hop = SHORT * grid.hop, grid.hop
        self.bins = self.window // 2 + 1
        hz = torch.arange(self.bins) * (grid.sample_rate_hz / self.window)
        may_be_noise = (hz - NOISE_FROM_HZ) / (NOISE_ABOVE_HZ - NOISE_FROM_HZ)
        self.register_buffer("may_be_noise", may_be_noise.clamp(0, 1)[:, None], persistent=False)
        spread = F.interpolate(torch.eye(BANDS)[None], size=self.bins, mode="linear")[0].T
        self.register_buffer("spread", spread.contiguous(), persistent=False)
        self.stem = nn.Conv1d(3 * self.bins + channels, channels, 1)
        self.stack = residual_stack(channels, blocks, DILATIONS)
        self.head = nn.Conv1d(channels, 5 * self.bins, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        values: Float[Tensor, "b v frames"],
        level: Float[Tensor, "b 1 frames"],
        features: Float[Tensor, "b channels frames"],
    ) -> Spectrum:
        """The spectrum of predicted frames.

        Args:
            values: see `frame_values`.
            level: of each frame, in nepers.
            features: of the predictor.
        """
        long, short, tonality = split_values(values)
        tonal = circular_stft(tones(sharpen(long)), self.window, self.hop)
        size = torch.view_as_real(tonal).square().sum(-1).add(1e-8).sqrt()
        direction = tonal / size
        relative = size.clamp_min(LOG_FLOOR).log() - level
        network_input = torch.cat([relative, direction.real, direction.imag, features], 1)
        changes = self.head(self.stack(self.stem(network_input))).float()
        gain, turn, real, imaginary, noise_gain = changes.unflatten(1, (5, -1)).unbind(1)

        amplitude = (short.exp() - LOG_FLOOR).clamp(LOG_FLOOR / 100, 16 * self.window)
        noisy = self.may_be_noise * (1 - self._tone_share(tonality))
        steady = direction * polar(amplitude * (1.0001 - noisy).sqrt() * _factor(gain), turn)
        return Spectrum(
            steady + amplitude * torch.complex(real, imaginary),
            amplitude * (noisy + 0.0001).sqrt() * _factor(noise_gain) * (self.may_be_noise > 0),
        )

    def sound(
        self, spectrum: Spectrum, noise: Float[Tensor, "n samples"]
    ) -> Float[Tensor, "b samples"]:
        """The waveform of a spectrum, given white noise (one for each loop, or one for all).

        Its level is not yet set.
        """
        white = circular_stft(noise, self.window, self.hop) / math.sqrt(self.window * 3 / 8)
        return circular_istft(spectrum.steady + spectrum.noise_gain * white, self.window, self.hop)

    def _tone_share(
        self, tonality: Float[Tensor, "b bands frames"]
    ) -> Float[Tensor, "b bins frames"]:
        """Share of the power of each bin that starts as tones."""
        share = (tonality - NOISE_TONALITY) / (TONE_TONALITY - NOISE_TONALITY)
        return self.spread @ share.clamp(0, 1)


def sharpen(spectrum: Float[Tensor, "b bins frames"]) -> Float[Tensor, "b bins frames"]:
    """Log amplitudes with the contrast of their fine structure restored."""
    fine = fine_structure(spectrum)
    return spectrum + (VALLEYS - 1) * fine.clamp_max(0) + (PEAKS - 1) * fine.clamp_min(0)


def _factor(raw: Tensor) -> Tensor:
    """A gain between exp(-3) and exp(3); 1 for 0."""
    return (MOST_GAIN * torch.tanh(raw / MOST_GAIN)).exp()

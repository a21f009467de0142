"""A circular cosine-modulated filter bank (pseudo-QMF): loops to sub-bands and back."""

import math

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.signal import firwin
from torch import Tensor, nn
from torch.nn import functional as F

from techloop.audio.spectral import wrap


class FilterBank(nn.Module):
    """Splits loops into `bands` critically sampled sub-bands of equal width, and joins them.

    Near-perfect reconstruction (an error of -60 dB); rotation by `bands` samples rotates the
    sub-bands by one.

    References:
        Nguyen, Near-perfect-reconstruction pseudo-QMF banks, 1994; the one-parameter prototype
        design follows Lin & Vaidyanathan, A Kaiser window approach for the design of prototype
        filters of cosine modulated filterbanks, 1998.
    """

    analysis_filters: Tensor
    synthesis_filters: Tensor

    def __init__(self, bands: int, taps_per_band: int = 12) -> None:
        super().__init__()
        self.bands = bands
        self.reach = taps_per_band // 2  # length of half a filter, in samples of a band
        order = taps_per_band * bands
        prototype = _prototype(bands, order)
        n = np.arange(order + 1) - order / 2
        k = np.arange(bands)[:, None]
        phase, carrier = (-1.0) ** k * math.pi / 4, (2 * k + 1) * math.pi / (2 * bands) * n
        scale = 2 * math.sqrt(bands) * prototype  # orthonormal: sub-bands keep the loop's energy
        analysis, synthesis = scale * np.cos(carrier + phase), scale * np.cos(carrier - phase)
        self.register_buffer("analysis_filters", _polyphase(analysis[:, ::-1], bands), False)
        # Output phase p of step t takes band step t - j with tap j * bands + p.
        flipped = _polyphase(synthesis, bands).flip(-1)
        self.register_buffer("synthesis_filters", flipped.transpose(0, 1).contiguous(), False)

    def analyse(self, x: Float[Tensor, "b samples"]) -> Float[Tensor, "b bands steps"]:
        """Sub-bands of loops whose samples are a multiple of `bands`."""
        phases = x.unflatten(-1, (-1, self.bands)).transpose(1, 2)
        return self._filter(phases, self.analysis_filters)

    def synthesise(self, bands: Float[Tensor, "b bands steps"]) -> Float[Tensor, "b samples"]:
        """The loops that have these sub-bands."""
        return self._filter(bands, self.synthesis_filters).transpose(1, 2).flatten(1)

    def _filter(self, x: Tensor, filters: Tensor) -> Tensor:
        # Never bfloat16, even under autocast: it would add noise at -50 dB.
        with torch.autocast(x.device.type, enabled=False):
            return F.conv1d(wrap(x.float(), self.reach, self.reach), filters)


def _polyphase(filters: np.ndarray, bands: int) -> Tensor:
    """`(k, taps)` to `(k, bands, steps)`, zero-padded to whole steps."""
    taps = filters.shape[1]
    padded = np.pad(filters, ((0, 0), (0, -taps % bands)))
    steps = padded.reshape(len(filters), -1, bands).transpose(0, 2, 1)
    return torch.from_numpy(np.ascontiguousarray(steps)).float()


def _prototype(bands: int, order: int) -> np.ndarray:
    """Low-pass whose squared response and its mirror at the band edge add up to one."""

    def design(cutoff: float) -> np.ndarray:
        return firwin(order + 1, cutoff, window=("kaiser", 9.0), fs=2.0)

    def overlap(cutoff: float) -> float:
        h = design(cutoff)
        # Power complementarity: the autocorrelation vanishes at multiples of 2 * bands.
        correlation = np.correlate(h, h, "full")[order :: 2 * bands]
        return float(np.abs(correlation[1:]).max() / correlation[0])

    best = minimize_scalar(
        overlap, bounds=(0.4 / bands, 1.0 / bands), method="bounded", options={"xatol": 1e-10}
    )
    return design(best.x)

"""Vocoder: the tones of log amplitudes without phases.

    log amplitudes of the long window -> frequency of each bin -> phases -> loop

Each bin takes part in the partial that its neighbourhood is dominated by, so partials are steady
and noise becomes a comb: what is noise has to be said, and played, elsewhere. A latent without
phases can be predicted by a second model, and commutes with rotation. Everything here is circular:
rotating the frames by one rotates the loop by a hop. No phase depends on a position in the loop.
"""

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from techloop.audio.frames import LOG_FLOOR, LONG
from techloop.audio.spectral import circular_istft

TURN = 2**32
LOBE = 2  # bins that the main lobe of the Hann window reaches to each side
PARABOLA = 1 / (2 * math.pi * 0.25645)  # offset of a peak in bins, per slope of log amplitude: Hann


def tones(spectrum: Float[Tensor, "b bins frames"]) -> Float[Tensor, "b samples"]:
    """Loops of partials with approximately these log amplitudes of the long window.

    Gradients pass through the amplitudes. Phases are taken as they are: that of a frame is a sum
    over all frames before it, whose gradient says nothing about its amplitude.
    """
    window = (spectrum.shape[1] - 1) * 2
    hop = window // LONG
    amplitude = (spectrum.float().exp() - LOG_FLOOR).clamp(LOG_FLOOR / 100, 16 * window)
    phase = phases(amplitude.detach(), window, hop)
    return circular_istft(polar(amplitude, phase), window, hop)


def phases(
    amplitude: Float[Tensor, "b bins frames"], window: int, hop: int
) -> Float[Tensor, "b bins frames"]:
    """Phases that make partials steady, in radians, window-centred.

    Phases accumulate at the frequencies of `locate_partials` along the circle; a small correction
    of the frequency closes it. The phase of a partial is zero where it is loudest, so no phase
    depends on a position in the loop: rotating the frames rotates the phases.

    References:
        Laroche & Dolson, Improved phase vocoder time-scale modification of audio, 1999, for phases
        locked to peaks.
    """
    frequency, level = locate_partials(amplitude)
    turns = frequency * (hop / window)  # per hop

    # Integers, of which TURN are a turn: sums over long loops are exact, in any order.
    step = ((turns + turns.roll(-1, -1)).double() * (TURN / 2)).round().long()
    phase = step.cumsum(-1)
    missing = (phase[..., -1:] + TURN // 2) % TURN - TURN // 2
    phase = phase.roll(1, -1)
    phase[..., 0] = 0
    phase = phase - missing * torch.arange(phase.shape[-1], device=phase.device) // phase.shape[-1]
    phase = (phase - phase.gather(-1, level.argmax(-1, keepdim=True))) % TURN
    # Zero at the centre of the window: neighbouring bins alternate when counted from its start.
    alternate = torch.arange(amplitude.shape[1], device=amplitude.device)[:, None] / 2
    return (2 * math.pi * (phase / TURN + alternate)).float()


def locate_partials(
    amplitude: Float[Tensor, "b bins frames"],
) -> tuple[Float[Tensor, "b bins frames"], Float[Tensor, "b bins frames"]]:
    """The frequency, in bins, and the log amplitude of the partial that each bin is part of.

    They are those of the strongest bin within a main lobe, the frequency refined by the slope of
    the log amplitude as for a Gaussian window. All bins of a partial have exactly the same numbers,
    so they do not drift apart.

    References:
        Průša et al., A noniterative method for reconstruction of phase from STFT magnitude, 2017,
        equation 10.
    """
    level = amplitude.log()
    slope = torch.zeros_like(level)
    slope[:, 1:-1] = (level[:, 2:] - level[:, :-2]) / 2
    bins = torch.arange(level.shape[1], device=level.device)[:, None]
    own = bins + (PARABOLA * slope).clamp(-LOBE, LOBE)
    strongest, frequency = level.clone(), own.clone()
    for i in range(1, LOBE + 1):
        for here, there in ((slice(None, -i), slice(i, None)), (slice(i, None), slice(None, -i))):
            louder = level[:, there] > strongest[:, here]
            frequency[:, here] = torch.where(louder, own[:, there], frequency[:, here])
            strongest[:, here] = torch.maximum(strongest[:, here], level[:, there])
    return frequency, strongest


def polar(amplitude: Tensor, phase: Tensor) -> Complex[Tensor, "..."]:
    """`torch.polar`, three times as fast on a CPU."""
    return torch.complex(amplitude * phase.cos(), amplitude * phase.sin())

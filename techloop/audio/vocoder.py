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

LOBE = 2  # bins that the main lobe of the Hann window reaches to each side


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

    Phases accumulate at `bin_frequencies` along the circle; a small correction of the frequency
    closes it. A bin's phase is zero where the bin is loudest, so no phase depends on a position in
    the loop: rotating the frames rotates the phases.

    References:
        Laroche & Dolson, Improved phase vocoder time-scale modification of audio, 1999, for phases
        locked to peaks.
    """
    turns = bin_frequencies(amplitude) * (hop / window)  # per hop
    turns = turns - turns.round()  # whole turns do not count, and sums stay exact without them
    step = (turns + turns.roll(-1, -1)) / 2
    missing = step.sum(-1, keepdim=True)
    step = step - (missing - missing.round()) / step.shape[-1]
    phase = step.cumsum(-1).roll(1, -1)
    phase[..., 0] = 0
    phase = phase - phase.gather(-1, amplitude.argmax(-1, keepdim=True))
    # Zero at the centre of the window: neighbouring bins alternate when counted from its start.
    alternate = torch.arange(amplitude.shape[1], device=amplitude.device)[:, None] / 2
    return 2 * math.pi * (phase - phase.round() + alternate)


def bin_frequencies(amplitude: Float[Tensor, "b bins frames"]) -> Float[Tensor, "b bins frames"]:
    """The frequency of each bin, in bins: the centre of gravity of the power around it.

    It is taken over the width of a main lobe, so for a partial it is the partial's frequency in
    every bin that the partial dominates.
    """
    power = amplitude.square().clamp_min(1e-20)
    moment = power * torch.arange(power.shape[1], device=power.device)[:, None]
    total, weighted = power.clone(), moment.clone()
    for i in range(1, LOBE + 1):
        for values, sums in ((power, total), (moment, weighted)):
            sums[:, :-i] += values[:, i:]
            sums[:, i:] += values[:, :-i]
    return weighted / total


def polar(amplitude: Tensor, phase: Tensor) -> Complex[Tensor, "..."]:
    """`torch.polar`, three times as fast on a CPU."""
    return torch.complex(amplitude * phase.cos(), amplitude * phase.sin())

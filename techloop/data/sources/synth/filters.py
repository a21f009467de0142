"""Envelopes, gains and the frequency responses of filters."""

import numpy as np
from jaxtyping import Complex, Float

Signal = Float[np.ndarray, " samples"]
Spectrum = Complex[np.ndarray, " bins"]


def decay(elapsed_s: Signal, time_s: float) -> Signal:
    """Exponential decay; bounded below, as denormal numbers are slow."""
    return np.exp(-np.minimum(elapsed_s / np.float32(time_s), 40)).astype(np.float32)


def gain(level_db: float) -> np.float32:
    """Decibels as a factor."""
    return np.float32(10 ** (level_db / 20))


def unit_rms(x: Signal) -> Signal:
    """A signal scaled to a power of 1; silence stays silent."""
    return x / np.float32(max(np.sqrt(np.mean(np.square(x))), 1e-9))


def low_pass(frequency_hz: Signal, cutoff_hz: float) -> Spectrum:
    """Response of a low-pass with two poles, without resonance."""
    response: Spectrum = np.square(1 / (1 + np.complex64(1j / cutoff_hz) * frequency_hz))
    return response


def high_pass(frequency_hz: Signal, cutoff_hz: float) -> Spectrum:
    """Response of a high-pass with four poles, without resonance."""
    ratio = np.complex64(1j / cutoff_hz) * frequency_hz
    pole = np.square(ratio / (1 + ratio))
    response: Spectrum = np.square(pole)
    return response


def ladder(ratio: Float[np.ndarray, "*shape"], resonance: float) -> Complex[np.ndarray, "*shape"]:
    """Response of the four-pole transistor ladder at frequency / cut-off.

    Args:
        ratio: frequency / cut-off.
        resonance: from 0 to below 1, where the filter would oscillate.

    References:
        Stilson & Smith, Analyzing the Moog VCF, ICMC 1996.
    """
    feedback = np.float32(4 * resonance)
    # Resonance costs bass; half of that loss (in dB) is compensated.
    makeup = np.float32((1 + feedback) ** 0.5)
    pole = 1 + np.complex64(1j) * ratio.astype(np.float32)
    square = pole * pole
    return makeup / (square * square + feedback)

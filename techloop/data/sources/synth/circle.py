"""A loop as a circle: time since the last onset, spectra, noise and reverb.

Envelopes count from the last onset around the loop. Filters and reverbs are circular convolutions
(products of spectra of the loop's own length). Free-running oscillators make whole cycles per loop;
all others start and end in silence. So the first sample follows the last like any other."""

import math
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
from jaxtyping import Float, Int

from techloop.data.sources.synth.filters import Signal, Spectrum, decay
from techloop.grid import Grid


class Since(NamedTuple):
    """For each sample: number of the last onset, samples since it and until the next one."""

    hit: Int[np.ndarray, " samples"]
    elapsed: Float[np.ndarray, " samples"]
    left: Float[np.ndarray, " samples"]


def since(onsets: Int[np.ndarray, " hits"], samples: int) -> Since:
    """Count from the last onset around a circle of `samples`; onsets ascend, at least one."""
    gaps = np.diff(onsets, append=onsets[0] + samples)
    hit = np.repeat(np.arange(onsets.size), gaps)
    elapsed = np.arange(samples) - np.repeat(onsets - onsets[0], gaps)
    left = np.repeat(gaps, gaps) - elapsed
    shift = onsets[0]
    return Since(
        np.roll(hit, shift),
        np.roll(elapsed.astype(np.float32), shift),
        np.roll(left.astype(np.float32), shift),
    )


def onset_samples(
    steps: Int[np.ndarray, " hits"], grid: Grid, swing: float
) -> Int[np.ndarray, " hits"]:
    """Samples at which sixteenths fall; every second one is late by `swing` sixteenths."""
    return np.rint((steps + swing * (steps % 2)) * (grid.samples / grid.steps)).astype(np.int64)


class Circle:
    """The samples, bins, swung clock and random generator that all instruments of a loop share."""

    def __init__(self, grid: Grid, swing: float, rng: np.random.Generator):
        self.grid = grid
        self.swing = swing
        self.rng = rng
        self.samples = grid.samples
        self.rate = np.float32(grid.sample_rate_hz)
        self.frequency_hz = scipy.fft.rfftfreq(self.samples, 1 / grid.sample_rate_hz).astype(
            np.float32
        )

    def noise(self) -> Signal:
        """White noise of unit power for the whole loop."""
        return self.rng.standard_normal(self.samples, dtype=np.float32)

    def spectrum(self, x: Signal) -> Spectrum:
        """The spectrum of a loop."""
        spectrum: Spectrum = scipy.fft.rfft(x)
        return spectrum

    def signal(self, spectrum: Spectrum) -> Signal:
        """The loop of a spectrum."""
        x: Signal = scipy.fft.irfft(spectrum, self.samples)
        return x

    def silence(self) -> Signal:
        """A silent loop."""
        return np.zeros(self.samples, np.float32)

    def smooth(self, x: Signal, width_s: float) -> Signal:
        """Moving average around the circle, which rounds steps off."""
        width = max(1, round(width_s * float(self.rate)))
        smoothed: Signal = scipy.ndimage.uniform_filter1d(x, width, mode="wrap")
        return smoothed

    def reverb(self, decay_s: float, delay_s: float) -> Spectrum:
        """Spectrum of noise of unit energy that falls by 60 dB in `decay_s`, after a delay."""
        t = np.arange(self.samples, dtype=np.float32) / self.rate
        tail = self.noise() * decay(t, decay_s / math.log(1000))
        tail /= np.sqrt(np.square(tail).sum())
        return self.spectrum(np.roll(tail, round(delay_s * float(self.rate))))

    def since(self, steps: Int[np.ndarray, " hits"], oversampling: int = 1) -> Since:
        """`since` for sixteenths of the swung grid."""
        onsets = onset_samples(steps, self.grid, self.swing)
        return since(onsets * oversampling, self.samples * oversampling)

"""Other sample rates and tempi, of recordings and of loops, which are circles."""

import numpy as np
import scipy.fft
import soxr
from jaxtyping import Float

from techloop.audio.seam import SEAM_FADE_S, close_seam

STRETCH_LEAD_S = 0.25  # twice the window of the time stretcher
ROLL_OFF = 0.04  # of the band below Nyquist: fading it out keeps resampled attacks from ringing


def resample(
    x: Float[np.ndarray, " samples"], from_hz: int, to_hz: int, quality: str = "HQ"
) -> Float[np.ndarray, " resampled"]:
    """Another sample rate, by soxr; the same array where the rates are equal."""
    return x if from_hz == to_hz else soxr.resample(x, from_hz, to_hz, quality=quality)


def resample_circle(
    x: Float[np.ndarray, " samples"], samples: int
) -> Float[np.ndarray, " resampled"]:
    """A loop with exactly `samples` samples; the same array where it has them already.

    By its Fourier series, so it commutes with rotation and knows no edge. The top of the band
    fades out (raised cosine). Pitch and tempo change by `len(x) / samples` at a fixed rate.
    """
    if len(x) == samples:
        return x
    spectrum = scipy.fft.rfft(x)
    kept = min(len(x), samples) // 2 + 1
    faded = max(int(ROLL_OFF * kept), 1)
    spectrum[kept - faded : kept] *= np.cos(np.linspace(0, np.pi / 2, faded, dtype=x.dtype)) ** 2
    return scipy.fft.irfft(spectrum[:kept] * (samples / len(x)), n=samples)


def stretch_circle(
    x: Float[np.ndarray, " samples"], from_hz: int, samples: int, to_hz: int
) -> Float[np.ndarray, " stretched"]:
    """A loop with exactly `samples` samples at another rate, its pitch as it was.

    By Signalsmith Stretch (python-stretch), which knows no circles: it gets the loop with what is
    next to it on either side, and the ends are joined where that is cut off again.
    """
    x = resample_circle(x, round(len(x) * to_hz / from_hz))
    if len(x) == samples:
        return x
    from python_stretch import Signalsmith  # here, as most loops are resampled

    lead = min(round(STRETCH_LEAD_S * to_hz), len(x))
    stretch = Signalsmith.Stretch(0)  # a seed
    stretch.preset(1, to_hz)
    stretch.timeFactor = len(x) / samples
    padded = np.pad(x, lead, mode="wrap").astype(np.float32, copy=False)
    out = np.asarray(stretch.process(padded[None]))[0]
    start = round(lead * samples / len(x))
    return close_seam(out, start, start + samples, round(SEAM_FADE_S * to_hz), circular=False)

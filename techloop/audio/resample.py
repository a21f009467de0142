"""Change of sample rate and tempo, for recordings and for loops, which are circles."""

import numpy as np
import scipy.fft
import soxr
from jaxtyping import Float

from techloop.audio.seam import SEAM_FADE_S, close_seam

STRETCH_LEAD_S = 0.25  # twice the window of the time stretcher
ROLL_OFF = 0.04  # share of the band that fades out below Nyquist, so that attacks do not ring


def resample(
    x: Float[np.ndarray, " samples"], from_hz: int, to_hz: int, quality: str = "HQ"
) -> Float[np.ndarray, " resampled"]:
    """A recording at another sample rate, by soxr; the same array where the rates are equal."""
    if from_hz == to_hz:
        return x
    resampled: np.ndarray = soxr.resample(x, from_hz, to_hz, quality=quality)
    return resampled


def resample_circle(
    x: Float[np.ndarray, " samples"], samples: int
) -> Float[np.ndarray, " resampled"]:
    """A loop resampled to exactly `samples` samples; the same array where it has them already.

    The Fourier series is cut or padded, so this commutes with rotation and has no edge effects. The
    top of the band fades out (raised cosine). At a fixed rate, pitch and tempo change by
    `len(x) / samples`.
    """
    if len(x) == samples:
        return x
    spectrum = scipy.fft.rfft(x)
    bins = min(len(x), samples) // 2 + 1
    faded = max(int(ROLL_OFF * bins), 1)
    spectrum[bins - faded : bins] *= np.cos(np.linspace(0, np.pi / 2, faded, dtype=x.dtype)) ** 2
    resampled: np.ndarray = scipy.fft.irfft(spectrum[:bins] * (samples / len(x)), n=samples)
    return resampled


def stretch_circle(
    x: Float[np.ndarray, " samples"], from_hz: int, samples: int, to_hz: int
) -> Float[np.ndarray, " stretched"]:
    """A loop of exactly `samples` samples at the rate `to_hz`, its pitch unchanged.

    Signalsmith Stretch (python-stretch) does not wrap around, so it gets the loop with a part of
    itself repeated before and after. That lead is cut off again and the ends are joined.
    """
    x = resample_circle(x, round(len(x) * to_hz / from_hz))
    if len(x) == samples:
        return x
    from python_stretch import Signalsmith  # a late import, as few loops are stretched

    lead = min(round(STRETCH_LEAD_S * to_hz), len(x))
    stretch = Signalsmith.Stretch(0)  # the seed
    stretch.preset(1, to_hz)
    stretch.timeFactor = len(x) / samples
    padded = np.pad(x, lead, mode="wrap").astype(np.float32, copy=False)
    out = np.asarray(stretch.process(padded[None]))[0]
    start = round(lead * samples / len(x))
    return close_seam(out, start, start + samples, round(SEAM_FADE_S * to_hz), circular=False)

"""The onset envelope of a recording, and how strongly it pulses at a tempo."""

from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float

from techloop.audio.resample import resample

ANALYSIS_HZ = 16_000
ENVELOPE_HZ = 160  # roughly: a whole number of frames goes into the recording
WINDOW = 1024  # samples
BANDS = 24
LOW_BANDS = 8  # the bands below about 170 Hz, where the kick is
ENVELOPE_LEAD_S = 0.017  # a window reaches an attack before its centre does (measured)
OVERSAMPLING = 16  # of the envelope's spectrum, to see between whole numbers of beats
PULSES = (1, 2, 4)  # per beat: beats, eighths, sixteenths
PULSING = 0.3  # strength from which on pulses are not an accident (noise reaches 0.14)


class Envelope(NamedTuple):
    """Loudness and onsets of a recording, `ENVELOPE_HZ` times per second.

    Attributes:
        level: compressed level of each band.
        flux: growth of each band's level.
        onsets: sum of `flux` over the bands.
        time_s: time of each frame, in seconds.
    """

    level: Float[np.ndarray, "frames bands"]
    flux: Float[np.ndarray, "frames bands"]
    onsets: Float[np.ndarray, " frames"]
    time_s: Float[np.ndarray, " frames"]


def onset_envelope(x: Float[np.ndarray, " samples"], sample_rate_hz: int) -> Envelope:
    """Level and growth of each band of the spectrum.

    Half-wave rectified flux of compressed amplitudes. The recording is taken as a circle, so that
    an onset on the first sample counts, and a whole number of frames goes into it.

    This is not `audio.descriptors.onset_strength`, which describes finished loops on the grid: it
    has bands, and frames for recordings of any rate and length.

    References:
        Böck & Widmer, Maximum Filter Vibrato Suppression for Onset Detection, 2013 (log flux).
    """
    duration_s = len(x) / sample_rate_hz
    x = resample(x, sample_rate_hz, ANALYSIS_HZ, quality="LQ")
    frames = max(round(len(x) * ENVELOPE_HZ / ANALYSIS_HZ), 1)
    starts = np.round(np.arange(frames) * (len(x) / frames)).astype(int)
    edges = np.unique(np.geomspace(2, WINDOW // 2, BANDS + 1).round().astype(int))
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    padded = np.pad(x.astype(np.float32, copy=False), WINDOW // 2, mode="wrap")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    bands = np.empty((frames, len(edges) - 1), np.float32)
    for block in np.array_split(np.arange(frames), -(-frames // 256)):  # a block fits in a cache
        amplitudes = np.abs(scipy.fft.rfft(windows[starts[block]] * window, axis=1))
        bands[block] = np.add.reduceat(amplitudes[:, :-1], edges[:-1], axis=1)
    level = np.log1p(10 * bands / (np.sqrt(np.square(bands).mean()) + 1e-9))
    flux = np.maximum(level - np.roll(level, 2, axis=0), 0)
    time_s = np.arange(frames) * duration_s / frames + ENVELOPE_LEAD_S
    return Envelope(level, flux, flux.sum(axis=1), time_s)


def pulse_strength(
    onsets: Float[np.ndarray, " frames"], beats: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """How regular onsets are at each number of beats in the recording: 0 not at all.

    The sum over `PULSES` of the onsets' Fourier amplitude, relative to their norm. It is as precise
    as the recording is long, and a tempo of 3/4 or 4/3 shares at most one of the pulses.

    Args:
        onsets: one per frame.
        beats: numbers of beats in the whole recording, not necessarily whole.
    """
    centred = onsets - onsets.mean()
    norm = np.sqrt(np.square(centred).sum() * len(centred)) + 1e-9
    spectrum = np.abs(scipy.fft.rfft(centred, n=OVERSAMPLING * len(centred))) / norm
    bins = np.rint(np.outer(PULSES, beats) * OVERSAMPLING).astype(int)
    amplitudes = spectrum[np.minimum(bins, len(spectrum) - 1)]
    strength: np.ndarray = np.where(bins < len(spectrum), amplitudes, 0).sum(axis=0)
    return strength


def pulse_strength_along(envelope: Envelope, passed: Float[np.ndarray, " frames"]) -> float:
    """`pulse_strength` along any tempo, given the beats that have passed at each frame."""
    flux = envelope.onsets - envelope.onsets.mean()
    norm = np.sqrt(np.square(flux).sum() * len(flux)) + 1e-9
    return float(sum(abs(np.exp(-2j * np.pi * p * passed) @ flux) for p in PULSES) / norm)

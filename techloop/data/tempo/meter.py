"""Whether a recording repeats every bar of the grid, or after another number of beats."""

import numpy as np
import scipy.fft
from jaxtyping import Float

from techloop.audio.recording import Rejected
from techloop.data.tempo.beats import Beats
from techloop.data.tempo.envelope import PULSING, Envelope, pulse_strength_along

METERS = (3, 4, 5, 7)  # beats per bar
MIN_LAGS = 10  # fewer beats to compare do not show a meter
MARGIN = 0.15  # by which another meter must fit better
CHANCE_ENERGY = 0.005  # share of the onsets' energy by which beats may differ by chance
CELLS_PER_BEAT = 8


def refuse_other_meter(envelope: Envelope, beats: Beats, beats_per_bar: int) -> None:
    """Refuse a recording that repeats after another number of beats than a bar's.

    Raises:
        Rejected: `other_meter`.
    """
    similarity = beat_self_similarity(envelope, beats)
    pulses = pulse_strength_along(envelope, np.interp(envelope.time_s, *beats))
    if len(similarity) < MIN_LAGS or pulses < PULSING:
        return
    expected = _periodicity(similarity, beats_per_bar)
    others = [m for m in METERS if m % beats_per_bar and beats_per_bar % m]
    periodicity = {meter: _periodicity(similarity, meter) for meter in others}
    meter = max(periodicity, key=periodicity.__getitem__, default=beats_per_bar)
    if periodicity.get(meter, -1.0) > expected + MARGIN:
        raise Rejected(
            "other_meter", "beats after which it repeats", float(meter), float(beats_per_bar)
        )


def beat_self_similarity(envelope: Envelope, beats: Beats) -> Float[np.ndarray, " lags"]:
    """How similar beats are that lie 0, 1, 2 ... beats apart, in [-1, 1].

    The correlation of their onsets, in bands and eighths of a beat, without what all beats share.
    """
    passed = np.interp(envelope.time_s, *beats)
    first = np.floor(passed[0])
    n = int(passed[-1] - first)
    # Onsets are summed to fractions of a frame. With whole frames those beats would be similar
    # whose borders are rounded alike: at 125 BPM every fifth one (384 frames).
    lines = first + np.arange(n * CELLS_PER_BEAT + 1) / CELLS_PER_BEAT
    frame, part = np.divmod(np.interp(lines, passed, np.arange(len(passed))), 1)
    frame = frame.astype(int)
    total = np.pad(np.cumsum(envelope.flux, axis=0, dtype=np.float64), ((1, 0), (0, 0)))
    total_at_lines = total[frame] + part[:, None] * envelope.flux[frame]
    onsets = np.diff(total_at_lines, axis=0).reshape(n, -1)
    floor = CHANCE_ENERGY * np.square(onsets).sum()  # monotone music differs by frames at most
    onsets -= onsets.mean(axis=0)
    spectrum = scipy.fft.rfft(onsets, n=2 * n, axis=0)
    products: np.ndarray = scipy.fft.irfft(np.square(np.abs(spectrum)).sum(axis=1))[: n // 2]
    pairs = n - np.arange(n // 2)
    similarity: np.ndarray = products / pairs / ((np.square(onsets).sum() + floor) / n + 1e-9)
    return similarity


def _periodicity(similarity: Float[np.ndarray, " lags"], beats: int) -> float:
    """How much more similar beats are a multiple of `beats` apart than at the lags beside it."""
    lags = np.arange(beats, min(len(similarity) - 1, 4 * beats + 1), beats)
    return float((similarity[lags] - (similarity[lags - 1] + similarity[lags + 1]) / 2).mean())

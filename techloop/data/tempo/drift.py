"""A tempo that drifts, tracked from window to window."""

import numpy as np
import scipy.fft
from jaxtyping import Complex, Float, Int

from techloop.data.tempo.beats import BINS_PER_BEAT, Beats
from techloop.data.tempo.envelope import PULSES, PULSING, Envelope, pulse_strength_along

WINDOW_BEATS, HOP_BEATS = 16, 2  # the tempo is taken to be constant within a window
MAX_DRIFT, DRIFT_STEP = 0.1, 0.0025  # range and steps around the mean tempo, as shares of it
STEP_COST = 0.02  # of a change by one step from window to window
MIN_GAIN = 1.3  # how many times stronger pulses must be along a drifting tempo


def track_drift(envelope: Envelope, steady: Beats) -> tuple[Beats, float]:
    """The beats of a tempo that drifts, and how many times stronger the pulses are along it.

    Windows of `WINDOW_BEATS` each have a strength at each tempo around the mean; the path through
    them that is strong and smooth (Viterbi) says roughly how many beats have passed when. The
    phase of the pulses against these beats is then followed from window to window, which is finer
    than a frame.

    Args:
        envelope: of the recording.
        steady: its beats at a constant tempo.

    Returns:
        Beats that drift and their gain above `MIN_GAIN`; or `steady` and 1, where a constant tempo
        explains about as much.
    """
    duration_s, n_beats = float(steady.time_s[-1]), float(steady.passed[-1])
    flux = envelope.onsets - envelope.onsets.mean()
    frames, beat_frames = len(flux), len(flux) / n_beats
    size, hop = round(WINDOW_BEATS * beat_frames), round(HOP_BEATS * beat_frames)
    if frames < 3 * size:
        return steady, 1.0
    starts = np.arange(0, frames - size + 1, hop)
    window = np.hanning(size).astype(flux.dtype)

    # Roughly: the tempo of each window, and from it the beats that have passed at each frame.
    windows = np.lib.stride_tricks.sliding_window_view(flux, size)
    ratios = 1 + np.arange(-MAX_DRIFT, MAX_DRIFT + 1e-9, DRIFT_STEP)
    bins = np.rint(np.outer(PULSES, ratios) * 8 * WINDOW_BEATS).astype(int)
    blocks = np.array_split(starts, -(-len(starts) // 256))  # so that two hours fit in memory
    strength = np.concatenate(
        [
            np.abs(scipy.fft.rfft(windows[block] * window, n=8 * size, axis=1))[:, bins].sum(axis=1)
            for block in blocks
        ]
    )  # (windows, ratios)
    path = ratios[_smooth_path(strength / (strength.max() + 1e-9))]
    middle = starts + size / 2
    speed = np.interp(np.arange(frames), middle, path) / beat_frames
    rough = np.cumsum(speed) - speed[0]

    # Finely: how late the pulses of each window are against these beats.
    turned = [np.exp(-2j * np.pi * p * rough).astype(np.complex64) * flux for p in PULSES]
    pulses = np.stack(
        [np.lib.stride_tricks.sliding_window_view(t, size)[starts] @ window for t in turned], axis=1
    )
    passed = rough - np.interp(np.arange(frames), middle, phase_lag(pulses))
    passed = np.maximum.accumulate(passed)

    along = pulse_strength_along(envelope, passed)
    gain = along / (pulse_strength_along(envelope, np.arange(frames) / beat_frames) + 1e-9)
    if gain < MIN_GAIN or along < PULSING:  # even in noise some path is better than a straight one
        return steady, 1.0
    return _to_the_ends(envelope, passed, duration_s), gain


def phase_lag(pulses: Complex[np.ndarray, "windows pulses"]) -> Float[np.ndarray, " windows"]:
    """How many beats too late the pulses of each window are, against those of the strongest window.

    Args:
        pulses: amplitude and phase of each of `PULSES` in each window.
    """
    candidates = np.arange(-0.25, 0.25, 1 / BINS_PER_BEAT)
    turns = np.exp(2j * np.pi * np.outer(PULSES, candidates))
    lag = np.zeros(len(pulses))
    start = int(np.abs(pulses).sum(axis=1).argmax())
    for order in (range(start + 1, len(pulses)), range(start - 1, -1, -1)):
        at, reference = 0.0, pulses[start]
        for i in order:
            here = pulses[i] * np.exp(2j * np.pi * np.array(PULSES) * at)
            fit = (np.conj(reference)[:, None] * here[:, None] * turns).real.sum(axis=0)
            at += float(candidates[fit.argmax()])
            lag[i] = at
            # A moving average, so that one odd window does not mislead the next ones.
            corrected = 0.2 * pulses[i] * np.exp(2j * np.pi * np.array(PULSES) * at)
            reference = 0.8 * reference + corrected
    return lag


def _smooth_path(strength: Float[np.ndarray, "windows ratios"]) -> Int[np.ndarray, " windows"]:
    """The strongest path, whose steps cost their square (Viterbi)."""
    n = strength.shape[1]
    step = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    cost = STEP_COST * step.astype(float) ** 2
    total, best_before = strength[0].copy(), []
    for row in strength[1:]:
        reached = total[:, None] - cost
        best_before.append(reached.argmax(axis=0))
        total = reached.max(axis=0) + row
    path = [int(total.argmax())]
    for before in reversed(best_before):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])


def _to_the_ends(
    envelope: Envelope, passed: Float[np.ndarray, " frames"], duration_s: float
) -> Beats:
    """Beats from the first sample to the last, which the frames do not reach, counted from 0."""
    slope = np.array([passed[1] - passed[0], passed[-1] - passed[-2]]) * len(passed) / duration_s
    ends = passed[[0, -1]] + slope * (np.array([0, duration_s]) - envelope.time_s[[0, -1]])
    inside = envelope.time_s < duration_s
    time_s = np.concatenate([[0.0], envelope.time_s[inside], [duration_s]])
    passed = np.concatenate([ends[:1], passed[inside], ends[1:]])
    return Beats(time_s, np.maximum.accumulate(passed) - np.floor(passed[0]))

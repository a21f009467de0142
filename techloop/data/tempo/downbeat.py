"""Where the first bar of a recording begins, given its beats."""

import numpy as np
from jaxtyping import Float

from techloop.data.tempo.beats import BINS_PER_BEAT, Beats
from techloop.data.tempo.envelope import LOW_BANDS, Envelope

ROUNDING_BEATS = 0.1  # how far before the start of a recording its first bar may seem to begin
LOW_WEIGHT = 2.0  # of kicks, beside all onsets, in finding the beat
# Novelty at bar lines (measured on tracks cut anywhere, and on synthetic ones with a lead-in):
PHRASE_BEATS = 3  # compared on either side of a beat
NOVELTY_POWER = 3  # few large changes then count more than many small ones
NOVELTY_FLOOR = 1e-3  # novelty of a beat at which nothing changes
NOVELTY_WEIGHT = 2.0  # beside kicks and onsets
SOUNDING = 0.5  # share of the mean level; quieter ends of a recording are not music


def first_bar(
    envelope: Envelope,
    beats: Beats,
    beats_per_bar: int,
    downbeats_s: Float[np.ndarray, " n"] | None,
) -> float:
    """The number of beats that have passed where the first whole bar begins.

    Args:
        envelope: of the recording.
        beats: its beats.
        beats_per_bar: beats in a bar.
        downbeats_s: downbeats by a beat tracker, in seconds; None where there are none.
    """
    if downbeats_s is None:
        first = find_downbeat(envelope, beats, beats_per_bar)
    else:
        turn = np.exp(2j * np.pi * np.interp(downbeats_s, *beats) / beats_per_bar).mean()
        first = float(np.angle(turn) / (2 * np.pi) * beats_per_bar % beats_per_bar)
    return float(first + beats_per_bar * (first < beats.passed[0] - ROUNDING_BEATS))


def find_downbeat(envelope: Envelope, beats: Beats, beats_per_bar: int) -> float:
    """After how many beats a bar begins, in [0, `beats_per_bar`).

    A beat is where onsets are strong, or half-way to the next, as hats off the beat may be
    stronger. A bar begins on the beat with kicks, and where the sound changes for longer.
    """
    passed = np.interp(envelope.time_s, *beats)
    bins = beats_per_bar * BINS_PER_BEAT
    place = np.floor(passed * BINS_PER_BEAT).astype(int) % bins
    count = np.maximum(np.bincount(place, minlength=bins), 1)
    folded = [
        np.bincount(place, weights=flux, minlength=bins) / count
        for flux in (envelope.onsets, envelope.flux[:, :LOW_BANDS].sum(axis=1))
    ]
    every, low = (np.convolve(np.r_[f[-1], f, f[0]], [0.5, 1, 0.5], mode="valid") for f in folded)
    strong = (every + LOW_WEIGHT * low).reshape(beats_per_bar, BINS_PER_BEAT).sum(axis=0)
    first = int(strong.argmax())
    offsets = [first, (first + BINS_PER_BEAT // 2) % BINS_PER_BEAT]
    kicks = np.stack([low.reshape(beats_per_bar, BINS_PER_BEAT)[:, o] for o in offsets])
    change = np.stack(
        [novelty(envelope.level, passed, o / BINS_PER_BEAT, beats_per_bar) for o in offsets]
    )
    score = NOVELTY_WEIGHT * change / (change.mean() + 1e-9) + kicks / (kicks.mean() + 1e-9)
    score += (strong[offsets] / (strong.max() + 1e-9))[:, None]
    which, beat = divmod(int(score.argmax()), beats_per_bar)
    return beat + offsets[which] / BINS_PER_BEAT


def novelty(
    level: Float[np.ndarray, "frames bands"],
    passed: Float[np.ndarray, " frames"],
    offset: float,
    beats_per_bar: int,
) -> Float[np.ndarray, " beats_per_bar"]:
    """How much the sound changes at each beat of a bar, on average over the recording.

    The difference of the mean levels of `PHRASE_BEATS` before and after, relative to the mean level
    of the recording, to the power of `NOVELTY_POWER`. Without the power, a change would count
    nearly as much on the beats beside it: the difference falls off as a triangle, whose sum is the
    same for each beat of a bar.

    Args:
        level: of each band.
        passed: beats passed at each frame.
        offset: where beats are, in beats.
        beats_per_bar: beats in a bar.
    """
    loudness = level.sum(axis=1)
    sounding = np.flatnonzero(loudness > SOUNDING * loudness.mean())
    first, last = (sounding[0], sounding[-1] + 1) if len(sounding) else (0, 0)
    total = np.vstack([np.zeros(level.shape[1]), np.cumsum(level, axis=0, dtype=np.float64)])
    numbers = np.arange(np.ceil(passed[0] - offset), np.floor(passed[-1] - offset) + 1)
    at = np.searchsorted(passed, numbers + offset)
    span = round(PHRASE_BEATS * len(passed) / (passed[-1] - passed[0]))
    inside = (at >= first + span) & (at + span <= last)
    at, beat = at[inside], numbers[inside].astype(int) % beats_per_bar
    change = np.abs(total[at + span] - 2 * total[at] + total[at - span]).sum(axis=1)
    change = NOVELTY_FLOOR + (change / (loudness.mean() * span + 1e-9)) ** NOVELTY_POWER
    n = np.bincount(beat, minlength=beats_per_bar)
    return np.bincount(beat, weights=change, minlength=beats_per_bar) / np.maximum(n, 1)

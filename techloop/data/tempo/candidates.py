"""Every tempo that a recording may have, each with a score."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from techloop.data.tempo.envelope import Envelope, pulse_strength
from techloop.data.tempo.stated import STATED, STATED_WITHIN_BPM

# How likely a length is before any pulse is measured. Files are cut to 1, 2, 4, 8... bars, tracks
# to phrases of 4; a length that is not a whole number of bars mostly was not chosen.
WHOLE_BARS = {"power of two": 1.0, 4: 0.9, 2: 0.8, 1: 0.6}
NO_WHOLE_BARS = 0.15
ANY_LENGTH = 0.4  # of a tempo that ignores the length of a file ...
ANY_LENGTH_TRACK = 0.8  # ... and of one so long that some whole number of bars always fits
CUT_AT_BARS = 0.05  # factor for both where a listener says that it is cut at bar lines
TRACK_S = 30.0  # a longer recording is a track rather than a loop
NO_TEMPO = 0.05  # score of there being none
PULSELESS = 0.05  # strength of a tempo without pulses: a drone has a tempo nevertheless
DISTINCT = 0.04  # tempi that differ by a smaller share sound the same
HABITUAL_BPM, HABIT_OCTAVES = 125.0, 1.5  # decides only where the range of tempi has octaves in it


class TempoEvidence(NamedTuple):
    """What supports a tempo besides pulses and length.

    Attributes:
        by: a key of `stated.STATED` or `trackers.TRACKERS`.
        bpm: beats per minute, folded into the range.
        weight: how many times likelier it makes the tempi nearby.
        within_bpm: how near they must be.
    """

    by: str
    bpm: float
    weight: float
    within_bpm: float


class Candidate(NamedTuple):
    """A tempo that a recording may have.

    Attributes:
        beats: how many the recording would have.
        score: the higher, the better supported.
        source: the evidence that decided, as in `beats.Tempo`.
    """

    beats: float
    score: float
    source: str


def fold_octave(bpm: float, min_bpm: float, max_bpm: float) -> float:
    """The octave (double, half) of a tempo that lies in a range; unchanged where none does."""
    low, high = min_bpm - 1e-6, max_bpm + 1e-6
    return next((bpm * 2.0**k for k in (0, 1, -1, 2, -2) if low <= bpm * 2.0**k <= high), bpm)


def score_candidates(
    envelope: Envelope,
    duration_s: float,
    evidence: Sequence[TempoEvidence],
    limits_bpm: tuple[float, float],
    beats_per_bar: int,
    exact: bool | None,
) -> list[Candidate]:
    """Candidates from the best to the worst.

    Each whole number of beats is one, and so are the tempo at which pulses are strongest whatever
    the length, and the strongest near each stated tempo. The score is the strength of the pulses
    times how likely the length is, times the weight of the evidence that agrees.

    Args:
        envelope: of the recording.
        duration_s: its length.
        evidence: stated tempi, and those of beat trackers.
        limits_bpm: lowest and highest tempo.
        beats_per_bar: beats in a bar.
        exact: whether it is cut at bar lines; None where nobody says.
    """
    (min_bpm, max_bpm), minutes = limits_bpm, duration_s / 60
    # Tolerance: 60.0 s at 90 BPM must not fall out of the range for a sample too few.
    whole = np.arange(max(np.ceil(min_bpm * minutes - 0.01), 1), max_bpm * minutes + 0.01)
    between = np.linspace(min_bpm, max_bpm, round((max_bpm - min_bpm) * minutes * 16) + 3) * minutes
    strengths = pulse_strength(envelope.onsets, np.concatenate([between, whole]))
    pulses, pulses_whole = np.split(strengths, [len(between)])
    peaks = {int(pulses.argmax())} | {
        int(np.where(np.abs(between / minutes - bpm) <= STATED_WITHIN_BPM, pulses, -1).argmax())
        for by, bpm, _, _ in evidence
        if by in STATED
    }
    if exact is False:  # no length contradicts the strongest, so it needs a rival
        elsewhere = np.abs(between / between[pulses.argmax()] - 1) > DISTINCT
        peaks.add(int(np.where(elsewhere, pulses, -1).argmax()))
    any_length = ANY_LENGTH_TRACK if duration_s > TRACK_S else ANY_LENGTH
    no_whole_bars = NO_WHOLE_BARS
    if exact:
        any_length, no_whole_bars = any_length * CUT_AT_BARS, no_whole_bars * CUT_AT_BARS
    table = [
        (beats, strength, _length_prior(int(beats), beats_per_bar, no_whole_bars), "length")
        for beats, strength in zip(whole, pulses_whole, strict=True)
        if exact is not False
    ] + [(_peak(between, pulses, at), pulses[at], any_length, "onsets") for at in peaks]

    candidates = []
    for beats, strength, prior, source in table:
        bpm = beats / minutes
        habit = np.exp(-0.5 * (np.log2(bpm / HABITUAL_BPM) / HABIT_OCTAVES) ** 2)
        score, source_weight = (strength + PULSELESS) * prior * habit, 1.0
        for by, evidence_bpm, weight, within_bpm in evidence:
            if abs(bpm - evidence_bpm) <= within_bpm:
                score *= weight
                if by in STATED and weight > source_weight:
                    source, source_weight = by, weight
        candidates.append(Candidate(float(beats), float(score), source))
    return sorted(candidates, key=lambda candidate: -candidate.score)


def confidence(candidates: Sequence[Candidate], same: float = 0.01) -> float:
    """How far the score of the first is above the best of another tempo, in [0, 1].

    Args:
        candidates: the best first.
        same: tempi that differ by a smaller share count as one.
    """
    best = candidates[0]
    rivals = [c.score for c in candidates if abs(c.beats / best.beats - 1) > same]
    return max(1 - max([NO_TEMPO, *rivals]) / best.score, 0.0)


def describe_evidence(
    evidence: Sequence[TempoEvidence],
    candidates: Sequence[Candidate],
    duration_s: float,
    beats_per_bar: int,
) -> str:
    """Which evidence supports which tempo, as `name 126; length 126 (4 bars); onsets 126.02`."""
    parts = [f"{by} {bpm:.5g}" for by, bpm, _, _ in evidence]
    for source in ("length", "onsets"):
        by_source = [c for c in candidates if (c.beats % 1 == 0) == (source == "length")]
        if by_source:
            best = by_source[0]
            bars = f" ({best.beats / beats_per_bar:g} bars)" if source == "length" else ""
            bars = " (1 bar)" if best.beats == beats_per_bar and bars else bars
            parts.append(f"{source} {60 * best.beats / duration_s:.5g}{bars}")
    return "; ".join(parts)


def _length_prior(beats: int, beats_per_bar: int, no_whole_bars: float) -> float:
    """How likely a file is cut to so many beats."""
    bars, rest = divmod(beats, beats_per_bar)
    if rest or not bars:
        return no_whole_bars
    return WHOLE_BARS["power of two" if bars & (bars - 1) == 0 else min(bars & -bars, 4)]


def _peak(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], at: int) -> float:
    """Where the parabola through a maximum on an even grid and its neighbours is highest."""
    if not 0 < at < len(y) - 1:
        return float(x[at])
    left, top, right = y[at - 1 : at + 2]
    bend = left - 2 * top + right
    shift = 0.0 if bend >= 0 else float(np.clip((left - right) / (2 * bend), -0.5, 0.5))
    return float(x[at] + shift * (x[1] - x[0]))

"""The tempo of a recording and where its bars begin, from all evidence there is."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from techloop.audio.recording import Rejected
from techloop.data.tempo.beats import Beats, Tempo
from techloop.data.tempo.candidates import (
    TRACK_S,
    TempoEvidence,
    confidence,
    describe_evidence,
    fold_octave,
    score_candidates,
)
from techloop.data.tempo.downbeat import first_bar
from techloop.data.tempo.drift import MAX_DRIFT, track_drift
from techloop.data.tempo.envelope import onset_envelope
from techloop.data.tempo.meter import refuse_other_meter
from techloop.data.tempo.single_hit import refuse_single_hit
from techloop.data.tempo.stated import STATED, STATED_WITHIN_BPM, Stated
from techloop.data.tempo.trackers import TRACKER_WEIGHT, TRACKER_WITHIN, TRACKERS
from techloop.preparation_config import TrackerName

DOUBT = 0.5  # a confidence below it has a beat tracker asked as well


def find_tempo(
    x: Float[np.ndarray, " samples"],
    sample_rate_hz: int,
    *,
    stated: Sequence[Stated] = (),
    exact: bool | None = None,
    min_bpm: float = 90.0,
    max_bpm: float = 180.0,
    min_confidence: float = 0.0,
    beats_per_bar: int = 4,
    tracker: TrackerName = "librosa",
) -> Tempo:
    """The tempo and bars of a recording, from all evidence there is.

    Each whole number of beats that the recording can have is a candidate, as is the tempo at which
    its pulses are strongest whatever its length. A candidate's score is how strong its pulses are
    in the onset envelope (beats, eighths and sixteenths, over the whole recording, which makes it
    precise), times how plausible its length is, and whether what is stated and a beat tracker
    agree. Where the pulses of a long recording are much stronger along a tempo that drifts, its
    bars are tracked one by one.

    An annotated tempo that makes the recording a whole number of bars, to the sample, is taken as
    it is, whatever its octave.

    Args:
        x: one channel.
        sample_rate_hz: its rate.
        stated: tempi that are written down somewhere.
        exact: whether it is cut at bar lines; None where nobody says.
        min_bpm: lowest tempo; others are folded to an octave in the range.
        max_bpm: highest.
        min_confidence: below it, the evidence disagrees too much.
        beats_per_bar: beats in a bar.
        tracker: which beat tracker adds its evidence: `librosa` in doubt, `beat_this` always.

    Raises:
        Rejected: `tempo_uncertain`, also where the recording is shorter than two beats of the
            highest tempo; `single_hit`; `other_meter`.
        ValueError: the tracker is not installed.
    """
    duration_s, limits = len(x) / sample_rate_hz, (min_bpm, max_bpm)
    if exact is not False and (tempo := _annotated(stated, x, sample_rate_hz, beats_per_bar)):
        return tempo
    if duration_s * max_bpm / 60 < 2:
        raise Rejected("tempo_uncertain", "s are too short to have a tempo", duration_s)
    envelope = onset_envelope(x, sample_rate_hz)
    refuse_single_hit(envelope)

    # The best candidate.
    evidence = [
        TempoEvidence(by, fold_octave(bpm, *limits), STATED[by], STATED_WITHIN_BPM)
        for by, bpm in stated
    ]
    candidates = score_candidates(envelope, duration_s, evidence, limits, beats_per_bar, exact)
    downbeats_s = None
    if confidence(candidates) < DOUBT or tracker == "beat_this":  # which finds downbeats too
        tracked_bpm, downbeats_s = TRACKERS[tracker](x, sample_rate_hz, envelope)
        bpm = fold_octave(tracked_bpm, *limits)
        evidence.append(TempoEvidence(tracker, bpm, TRACKER_WEIGHT[tracker], TRACKER_WITHIN * bpm))
        candidates = score_candidates(envelope, duration_s, evidence, limits, beats_per_bar, exact)
    best = candidates[0]
    bpm, certainty = 60 * best.beats / duration_s, confidence(candidates)
    words = describe_evidence(evidence, candidates, duration_s, beats_per_bar)

    # Steady or drifting, sure enough, in the meter.
    beats, gain = Beats(np.array([0.0, duration_s]), np.array([0.0, best.beats])), 1.0
    if duration_s > TRACK_S and not exact:
        beats, gain = track_drift(envelope, beats)
    if drifts := gain > 1:
        bpm = 60 * float(beats.passed[-1] - beats.passed[0]) / duration_s
        best = best._replace(score=best.score * gain)
        certainty = confidence([best, *candidates[1:]], MAX_DRIFT)
    if not certainty >= min_confidence:  # so that NaN is refused too
        raise Rejected("tempo_uncertain", words, round(certainty, 3), min_confidence)
    refuse_other_meter(envelope, beats, beats_per_bar)

    # Where bars begin. A loop starts on its downbeat, as that is what it was cut for. A track can
    # be a whole number of bars long by chance, so its first beat or off-beat (which may be the
    # stronger one) must lie at its start as well.
    start, circular = 0.0, not drifts and best.beats % beats_per_bar == 0
    if duration_s > TRACK_S or best.beats % 1 or exact is False:
        start = first_bar(envelope, beats, beats_per_bar, downbeats_s)
        eighths = 2 * start
        circular = circular and (exact is True or abs(eighths - round(eighths)) < 0.2)
    if circular:
        start = 0.0
    return Tempo(
        bpm=bpm,
        confidence=certainty,
        downbeat_s=float(np.interp(start, beats.passed, beats.time_s)),
        source=best.source,
        circular=circular,
        evidence=words,
        beats=Beats(beats.time_s, beats.passed - start) if drifts else None,
    )


def _annotated(
    stated: Sequence[Stated],
    x: Float[np.ndarray, " samples"],
    sample_rate_hz: int,
    beats_per_bar: int,
) -> Tempo | None:
    """The annotated tempo, where it makes the recording a whole number of bars to the sample."""
    bpm = next((tempo.bpm for tempo in stated if tempo.by == "annotation"), None)
    if bpm is None:
        return None
    bars = len(x) / sample_rate_hz * bpm / 60 / beats_per_bar
    bars_per_sample = bpm / 60 / beats_per_bar / sample_rate_hz
    if round(bars) >= 1 and abs(bars - round(bars)) <= bars_per_sample:
        evidence = f"annotation {bpm:g}; length {bpm:g} ({round(bars)} bars)"
        return Tempo(bpm, 1.0, 0.0, "annotation", circular=True, evidence=evidence)
    return None

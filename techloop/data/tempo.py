"""How fast a recording is and where its bars begin: evidence, and the verdict."""

import functools
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.fft
from filelock import FileLock
from jaxtyping import Float

from techloop.audio.recording import Rejected, Tags
from techloop.audio.resample import resample
from techloop.audio.tags import valid_tempo
from techloop.data.source import Item

ANALYSIS_HZ = 16_000
ENVELOPE_HZ = 160  # about; exactly, a whole number of frames goes into the recording
WINDOW = 1024
BANDS = 24
LOW_BANDS = 8  # those below about 170 Hz, where the kick is
ENVELOPE_LEAD_S = 0.017  # a window that reaches an attack sees it before its centre does (measured)
OVERSAMPLING = 16  # of the envelope's spectrum, to look between whole numbers of beats
PULSES = (1, 2, 4)  # beats, eighths, sixteenths

# How likely a tempo is before its pulses are heard. Files are cut to 1, 2, 4, 8... bars, tracks to
# phrases of 4; a length that is no whole number of bars is mostly no cut at all.
WHOLE_BARS = {"power of two": 1.0, 4: 0.9, 2: 0.8, 1: 0.6}
NO_WHOLE_BARS = 0.15
ANY_LENGTH = 0.4  # a tempo that ignores the length of a file ...
ANY_LENGTH_TRACK = 0.8  # ... and of one so long that some whole number of bars always fits
CUT_AT_BARS = 0.05  # of both, where somebody who listened to it says that it is cut at bar lines
TRACK_S = 30.0
# How much likelier a tempo is that is stated there. A number in a name may count something else.
STATED = {"annotation": 8.0, "name": 6.0, "acid": 5.0, "beats": 5.0, "tag": 5.0, "number": 3.0}
STATED_WITHIN_BPM = 1.0  # tempi are stated in whole beats a minute as a rule, cut off or rounded
TRACKED = {"librosa": 1.5, "beat_this": 3.0}  # a beat tracker finds about so much
TRACKED_WITHIN = 0.02
DOUBT = 0.5  # less confident than this without one, a beat tracker is asked
NO_TEMPO = 0.05  # score of there being none
PULSELESS = 0.05  # score of a tempo that cannot be heard: a drone has one nevertheless
DISTINCT = 0.04  # tempi that differ by less are heard as one
HABITUAL_BPM, HABIT_OCTAVES = 125.0, 1.5  # only decides where a range of tempi has octaves in it

SINGLE_HIT_ONSET = 0.15  # of the strongest: a second onset
SINGLE_HIT_DECAY_DB = 20.0  # so far a hit has fallen by its last third
BINS_PER_BEAT = 96
# What changes at bar lines (measured on tracks cut anywhere, and on made ones with a lead-in):
PHRASE_BEATS = 3  # either side of a bar line that are compared
CHANGE_POWER = 3  # lets few great changes speak, and only on their own beat
CHANGE_FLOOR = 1e-3  # of a change, in that power, that is none
CHANGE_WEIGHT = 2.0  # beside kicks and onsets
SOUNDING = 0.5  # of the mean level: before and after, there is no music yet or any more
LOW_WEIGHT = 2.0  # of kicks, beside all onsets, in finding the beat
METERS = (3, 4, 5, 7)
METER_LAGS = 10  # fewer beats to compare do not show a meter
METER_MARGIN = 0.15
METER_FLOOR = 0.005  # of the onsets' energy: as much a beat may differ by chance
METER_CELLS = 8  # a beat

WINDOW_BEATS, HOP_BEATS = 16, 2  # in which a tempo is taken to be constant, while it is followed
ROUNDING_BEATS = 0.1  # so much before its start a recording's first bar may seem to begin
DRIFT, DRIFT_STEP = 0.1, 0.0025  # how far from its mean a tempo is looked for, and how finely
PULSING = 0.3  # strength of pulses that are heard, and no accident (noise has 0.14 at most)
DRIFT_GAIN = 1.3  # stronger by so much the pulses must be along a drifting tempo than a steady one


class Stated(NamedTuple):
    """A tempo that somebody wrote down, and where (a key of `STATED`)."""

    by: str
    bpm: float


@dataclass(frozen=True)
class Tempo:
    """The verdict.

    Attributes:
        bpm: tempo in beats a minute; the mean of one that drifts.
        confidence: how far the best candidate's score is above that of the best of another
            tempo: 0 for a draw, 1 where nothing else fits.
        downbeat_s: where the first whole bar begins.
        source: the evidence that decided: what states it (`annotation`, `name`, `acid`, `beats`,
            `tag` or `number`; each only together with what is heard or with the length), `length`
            (a whole number of bars), or `onsets` alone.
        circular: the recording is a whole number of bars from its first sample to its last.
        evidence: what speaks for which tempo, in words.
        beats: of a tempo that drifts, how many beats from the first bar on have passed at each of
            some times; else None.
    """

    bpm: float
    confidence: float
    downbeat_s: float
    source: str
    circular: bool
    evidence: str = ""
    beats: "Beats | None" = None

    @property
    def steady(self) -> bool:
        """Whether one tempo holds throughout."""
        return self.beats is None

    def bar_lines_s(self, duration_s: float, beats_per_bar: int) -> Float[np.ndarray, " lines"]:
        """Where bars begin, and where the last whole one ends."""
        if self.beats is None:
            bar_s = beats_per_bar * 60 / self.bpm
            bars = int((duration_s - self.downbeat_s) / bar_s + 1e-6)
            return self.downbeat_s + np.arange(bars + 1) * bar_s
        lines = np.arange(0, self.beats.passed[-1] + 1e-6, beats_per_bar)
        return np.interp(lines, self.beats.passed, self.beats.time_s)


class Beats(NamedTuple):
    """How many beats have passed at which time; both rise."""

    time_s: Float[np.ndarray, " times"]
    passed: Float[np.ndarray, " times"]


class Envelope(NamedTuple):
    """What the ear gets of a recording, `ENVELOPE_HZ` times a second.

    Attributes:
        level: compressed level of each band.
        flux: how much each grows.
        onsets: how much all of them grow together.
        time_s: when.
    """

    level: Float[np.ndarray, "frames bands"]
    flux: Float[np.ndarray, "frames bands"]
    onsets: Float[np.ndarray, " frames"]
    time_s: Float[np.ndarray, " frames"]


class Candidate(NamedTuple):
    """A tempo that something speaks for.

    Attributes:
        beats: how many the recording would have.
        score: how much speaks for it.
        source: what decided.
    """

    beats: float
    score: float
    source: str


class TempoEvidence(NamedTuple):
    """What speaks for a tempo besides pulses and length.

    Attributes:
        by: a key of `STATED` or `TRACKED`.
        bpm: folded into the range.
        weight: how much likelier it makes the tempi near by.
        within_bpm: how near they must be.
    """

    by: str
    bpm: float
    weight: float
    within_bpm: float


def tempo_in_name(name: str) -> Stated | None:
    """The tempo a file name states, by `name` or by `number`; None where it states none.

    `kick_128bpm`, `BPM 93.5 pad` and `bpm128` say so; in `loop_97` a number of 60 to 200 stands
    between separators. The last one counts, as names go from the general to the particular.
    """
    stem = PurePosixPath(name).stem.lower()
    number = r"(\d{2,3}(?:\.\d+)?)"
    said = re.findall(rf"(?<![\d.]){number}[\s_-]*bpm|bpm[\s_-]*{number}(?![\d])", stem)
    if said:
        return Stated("name", float("".join(said[-1])))
    alone = [float(n) for n in re.findall(rf"(?:^|[\s_-]){number}(?=$|[\s_-])", stem)]
    alone = [n for n in alone if 60 <= n <= 200]
    return Stated("number", alone[-1]) if alone else None


def stated_tempi(item: Item, tags: Tags, duration_s: float) -> list[Stated]:
    """All that is written down about the tempo of an item."""
    annotated = valid_tempo("annotation", item.bpm or 0.0)  # a hand may have slipped
    stated = [Stated(by, bpm) for by, bpm in annotated.items()]
    stated += [tempo] if (tempo := tempo_in_name(item.name)) else []
    if not tags.one_shot:  # editors give single sounds some tempo too
        stated += [Stated(by, bpm) for by, bpm in tags.bpm.items()]
        stated += [Stated("beats", 60 * tags.beats / duration_s)] if tags.beats else []
    return stated


def fold_octave(bpm: float, min_bpm: float, max_bpm: float) -> float:
    """The octave (double, half) of a tempo that lies in a range; unchanged where none does."""
    low, high = min_bpm - 1e-6, max_bpm + 1e-6
    return next((bpm * 2.0**k for k in (0, 1, -1, 2, -2) if low <= bpm * 2.0**k <= high), bpm)


def onset_envelope(x: Float[np.ndarray, " samples"], sample_rate_hz: int) -> Envelope:
    """Level and growth of each band of the spectrum.

    Half-wave rectified flux of compressed amplitudes; the recording is taken as a circle, so that
    an onset on the first sample counts, and a whole number of frames goes into it.

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
    for some in np.array_split(np.arange(frames), -(-frames // 256)):  # a block fits in a cache
        amplitudes = np.abs(scipy.fft.rfft(windows[starts[some]] * window, axis=1))
        bands[some] = np.add.reduceat(amplitudes[:, :-1], edges[:-1], axis=1)
    level = np.log1p(10 * bands / (np.sqrt(np.square(bands).mean()) + 1e-9))
    flux = np.maximum(level - np.roll(level, 2, axis=0), 0)
    time_s = np.arange(frames) * duration_s / frames + ENVELOPE_LEAD_S
    return Envelope(level, flux, flux.sum(axis=1), time_s)


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
    tracker: Literal["librosa", "beat_this"] = "librosa",
) -> Tempo:
    """The tempo and bars of a recording, from all evidence there is.

    Each whole number of beats the recording can have is a candidate, as is the tempo at which
    its pulses are strongest whatever its length. A candidate's score is how strong its pulses
    are in the onset envelope (beats, eighths and sixteenths, over the whole recording, which
    makes it precise), times how plausible its length is, and whether what is stated and a beat
    tracker agree. A long recording whose pulses are much stronger along a tempo that drifts is
    followed bar by bar.

    An annotated tempo that makes the recording a whole number of bars, to the sample, is taken
    as it is, and so is its octave.

    Args:
        x: one channel.
        sample_rate_hz: its rate.
        stated: tempi that are written down somewhere.
        exact: whether it is cut at bar lines, where that is known.
        min_bpm: lowest tempo; others are folded to an octave in the range.
        max_bpm: highest.
        min_confidence: below it, evidence disagrees too far.
        beats_per_bar: beats in a bar.
        tracker: which beat tracker is heard as a witness.

    Raises:
        Rejected: `tempo_uncertain`, also where the recording is shorter than two beats of the
            highest tempo; `single_hit`; `other_meter`.
        ValueError: the tracker is not installed.
    """
    duration_s = len(x) / sample_rate_hz
    annotated = next((tempo.bpm for tempo in stated if tempo.by == "annotation"), None)
    if annotated is not None and exact is not False:
        bars = duration_s * annotated / 60 / beats_per_bar
        sample = annotated / 60 / beats_per_bar / sample_rate_hz
        if round(bars) >= 1 and abs(bars - round(bars)) <= sample:
            said = f"annotation {annotated:g}; length {annotated:g} ({round(bars)} bars)"
            return Tempo(annotated, 1.0, 0.0, "annotation", circular=True, evidence=said)
    if duration_s * max_bpm / 60 < 2:
        raise Rejected("tempo_uncertain", "s are too short to have a tempo", duration_s)

    envelope = onset_envelope(x, sample_rate_hz)
    _refuse_single_hit(envelope)
    limits = (min_bpm, max_bpm)
    witnesses = [
        TempoEvidence(by, fold_octave(bpm, *limits), STATED[by], STATED_WITHIN_BPM)
        for by, bpm in stated
    ]
    candidates = _candidates(envelope, duration_s, witnesses, limits, beats_per_bar, exact)
    downbeats_s = None
    if _confidence(candidates) < DOUBT or tracker == "beat_this":  # which hears bars too
        heard_bpm, downbeats_s = TRACKERS[tracker](x, sample_rate_hz, envelope)
        bpm = fold_octave(heard_bpm, *limits)
        witnesses.append(TempoEvidence(tracker, bpm, TRACKED[tracker], TRACKED_WITHIN * bpm))
        candidates = _candidates(envelope, duration_s, witnesses, limits, beats_per_bar, exact)
    best, evidence = candidates[0], _in_words(witnesses, candidates, duration_s, beats_per_bar)
    confidence, bpm = _confidence(candidates), 60 * best.beats / duration_s

    beats, gain = Beats(np.array([0.0, duration_s]), np.array([0.0, best.beats])), 1.0
    if duration_s > TRACK_S and not exact:
        beats, gain = _follow(envelope, beats)
    if drifts := gain > 1:
        bpm = 60 * float(beats.passed[-1] - beats.passed[0]) / duration_s
        best = best._replace(score=best.score * gain)
        confidence = _confidence([best, *candidates[1:]], DRIFT)
    if not confidence >= min_confidence:  # NaN neither
        raise Rejected("tempo_uncertain", evidence, round(confidence, 3), min_confidence)
    _refuse_other_meter(envelope, beats, beats_per_bar)

    # A loop starts on its downbeat, that is what it was cut for. A track can be a whole number of
    # bars long by chance, so its beats must say so too (or off-beats, which may be the stronger).
    first_bar, circular = 0.0, not drifts and best.beats % beats_per_bar == 0
    if duration_s > TRACK_S or best.beats % 1 or exact is False:
        first_bar = _first_bar(envelope, beats, beats_per_bar, downbeats_s)
        eighth = 2 * first_bar
        circular = circular and (exact is True or abs(eighth - round(eighth)) < 0.2)
    if circular:
        first_bar = 0.0
    return Tempo(
        bpm=bpm,
        confidence=confidence,
        downbeat_s=float(np.interp(first_bar, beats.passed, beats.time_s)),
        source=best.source,
        circular=circular,
        evidence=evidence,
        beats=Beats(beats.time_s, beats.passed - first_bar) if drifts else None,
    )


def pulse_strength(
    envelope: Float[np.ndarray, " frames"], beats: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """How regular an onset envelope is at so many beats over its length: 0 not at all.

    Sum over `PULSES` of its Fourier amplitude, relative to its norm: as precise as the recording
    is long, and a tempo of 3/4 or 4/3 shares no more than one of the pulses.
    """
    centred = envelope - envelope.mean()
    norm = np.sqrt(np.square(centred).sum() * len(centred)) + 1e-9
    spectrum = np.abs(scipy.fft.rfft(centred, n=OVERSAMPLING * len(centred))) / norm
    bins = np.rint(np.outer(PULSES, beats) * OVERSAMPLING).astype(int)
    found = spectrum[np.minimum(bins, len(spectrum) - 1)]
    return np.where(bins < len(spectrum), found, 0).sum(axis=0)


def _candidates(
    envelope: Envelope,
    duration_s: float,
    witnesses: Sequence[TempoEvidence],
    limits_bpm: tuple[float, float],
    beats_per_bar: int,
    exact: bool | None,
) -> list[Candidate]:
    """Every tempo worth a thought, the best first."""
    (min_bpm, max_bpm), minutes = limits_bpm, duration_s / 60
    # Tolerance: 60.0 s at 90 BPM must not fall out of the range for a sample too few.
    whole = np.arange(max(np.ceil(min_bpm * minutes - 0.01), 1), max_bpm * minutes + 0.01)
    between = np.linspace(min_bpm, max_bpm, round((max_bpm - min_bpm) * minutes * 16) + 3) * minutes
    strengths = pulse_strength(envelope.onsets, np.concatenate([between, whole]))
    heard, heard_whole = np.split(strengths, [len(between)])
    free = {int(heard.argmax())} | {
        int(np.where(np.abs(between / minutes - bpm) <= STATED_WITHIN_BPM, heard, -1).argmax())
        for by, bpm, _, _ in witnesses
        if by in STATED
    }
    if exact is False:  # no length speaks against the strongest
        elsewhere = np.abs(between / between[heard.argmax()] - 1) > DISTINCT
        free.add(int(np.where(elsewhere, heard, -1).argmax()))
    of_any_length = ANY_LENGTH_TRACK if duration_s > TRACK_S else ANY_LENGTH
    no_whole_bars = NO_WHOLE_BARS
    if exact:
        of_any_length, no_whole_bars = of_any_length * CUT_AT_BARS, no_whole_bars * CUT_AT_BARS
    table = [
        (beats, strength, _prior(int(beats), beats_per_bar, no_whole_bars), "length")
        for beats, strength in zip(whole, heard_whole, strict=True)
        if exact is not False
    ] + [(_peak(between, heard, at), heard[at], of_any_length, "onsets") for at in free]

    candidates = []
    for beats, strength, prior, source in table:
        bpm = beats / minutes
        habit = np.exp(-0.5 * (np.log2(bpm / HABITUAL_BPM) / HABIT_OCTAVES) ** 2)
        score, by_weight = (strength + PULSELESS) * prior * habit, 1.0
        for by, said_bpm, weight, within_bpm in witnesses:
            if abs(bpm - said_bpm) <= within_bpm:
                score *= weight
                if by in STATED and weight > by_weight:
                    source, by_weight = by, weight
        candidates.append(Candidate(float(beats), float(score), source))
    return sorted(candidates, key=lambda candidate: -candidate.score)


def _confidence(candidates: Sequence[Candidate], same: float = 0.01) -> float:
    """How far the first is above the best that differs by more than a share, or 0."""
    best = candidates[0]
    rivals = [c.score for c in candidates if abs(c.beats / best.beats - 1) > same]
    return max(1 - max([NO_TEMPO, *rivals]) / best.score, 0.0)


def _prior(beats: int, beats_per_bar: int, no_whole_bars: float) -> float:
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


def _follow(envelope: Envelope, steady: Beats) -> tuple[Beats, float]:
    """The beats of a tempo that drifts, and how many times stronger the pulses are along it.

    Where a steady tempo explains about as much, that and 1. Windows of `WINDOW_BEATS` each have a
    strength at each tempo around the mean; the path through them that is strong and smooth
    (Viterbi) says roughly how many beats have passed when. What then remains is the place of the
    pulses against these beats, which is followed from window to window: a phase, and so finer than
    any frame.
    """
    duration_s, n_beats = float(steady.time_s[-1]), float(steady.passed[-1])
    flux = envelope.onsets - envelope.onsets.mean()
    frames, beat_frames = len(flux), len(flux) / n_beats
    size, hop = round(WINDOW_BEATS * beat_frames), round(HOP_BEATS * beat_frames)
    if frames < 3 * size:
        return steady, 1.0
    starts = np.arange(0, frames - size + 1, hop)
    window = np.hanning(size).astype(flux.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(flux, size)
    ratios = 1 + np.arange(-DRIFT, DRIFT + 1e-9, DRIFT_STEP)
    bins = np.rint(np.outer(PULSES, ratios) * 8 * WINDOW_BEATS).astype(int)
    strength = np.concatenate(
        [
            np.abs(scipy.fft.rfft(windows[some] * window, n=8 * size, axis=1))[:, bins].sum(axis=1)
            for some in np.array_split(starts, -(-len(starts) // 256))  # two hours fit in memory
        ]
    )  # (windows, ratios)
    path = ratios[_smooth_path(strength / (strength.max() + 1e-9))]

    middle = starts + size / 2
    speed = np.interp(np.arange(frames), middle, path) / beat_frames
    rough = np.cumsum(speed) - speed[0]
    turned = [np.exp(-2j * np.pi * p * rough).astype(np.complex64) * flux for p in PULSES]
    pulses = np.stack(
        [np.lib.stride_tricks.sliding_window_view(t, size)[starts] @ window for t in turned], axis=1
    )
    late = _late(pulses)
    passed = rough - np.interp(np.arange(frames), middle, late)
    passed = np.maximum.accumulate(passed)

    along = pulses_along(envelope, passed)
    gain = along / (pulses_along(envelope, np.arange(frames) / beat_frames) + 1e-9)
    if gain < DRIFT_GAIN or along < PULSING:  # a path through noise is better than a straight
        return steady, 1.0
    slope = np.array([passed[1] - passed[0], passed[-1] - passed[-2]]) * frames / duration_s
    ends = passed[[0, -1]] + slope * (np.array([0, duration_s]) - envelope.time_s[[0, -1]])
    inside = envelope.time_s < duration_s
    time_s = np.concatenate([[0.0], envelope.time_s[inside], [duration_s]])
    passed = np.concatenate([ends[:1], passed[inside], ends[1:]])
    return Beats(time_s, np.maximum.accumulate(passed) - np.floor(passed[0])), gain


def pulses_along(envelope: Envelope, passed: Float[np.ndarray, " frames"]) -> float:
    """`pulse_strength` where so many beats have passed at each frame."""
    flux = envelope.onsets - envelope.onsets.mean()
    norm = np.sqrt(np.square(flux).sum() * len(flux)) + 1e-9
    return float(sum(abs(np.exp(-2j * np.pi * p * passed) @ flux) for p in PULSES) / norm)


def _smooth_path(strength: Float[np.ndarray, "windows ratios"]) -> np.ndarray:
    """The strongest path of which each step costs a little (Viterbi)."""
    n = strength.shape[1]
    step = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    cost = 0.02 * step.astype(float) ** 2
    total, back = strength[0].copy(), []
    for row in strength[1:]:
        reached = total[:, None] - cost
        back.append(reached.argmax(axis=0))
        total = reached.max(axis=0) + row
    path = [int(total.argmax())]
    for came_from in reversed(back):
        path.append(int(came_from[path[-1]]))
    return np.array(path[::-1])


def _late(pulses: np.ndarray) -> Float[np.ndarray, " windows"]:
    """How many beats too late the pulses of each window are, against those of the strongest.

    Args:
        pulses: `(windows, PULSES)`, complex: how strong each is, and where.
    """
    places = np.arange(-0.25, 0.25, 1 / BINS_PER_BEAT)
    turns = np.exp(2j * np.pi * np.outer(PULSES, places))
    late = np.zeros(len(pulses))
    start = int(np.abs(pulses).sum(axis=1).argmax())
    for order in (range(start + 1, len(pulses)), range(start - 1, -1, -1)):
        at, model = 0.0, pulses[start]
        for i in order:
            here = pulses[i] * np.exp(2j * np.pi * np.array(PULSES) * at)
            fit = (np.conj(model)[:, None] * here[:, None] * turns).real.sum(axis=0)
            at += float(places[fit.argmax()])
            late[i] = at
            model = 0.8 * model + 0.2 * pulses[i] * np.exp(2j * np.pi * np.array(PULSES) * at)
    return late


def _first_bar(
    envelope: Envelope,
    beats: Beats,
    beats_per_bar: int,
    downbeats_s: Float[np.ndarray, " n"] | None,
) -> float:
    """The number of beats at which the first bar begins; `downbeats_s` where others hear them."""
    if downbeats_s is None:
        first = _downbeat(envelope, beats, beats_per_bar)
    else:
        turn = np.exp(2j * np.pi * np.interp(downbeats_s, *beats) / beats_per_bar).mean()
        first = float(np.angle(turn) / (2 * np.pi) * beats_per_bar % beats_per_bar)
    return float(first + beats_per_bar * (first < beats.passed[0] - ROUNDING_BEATS))


def _downbeat(envelope: Envelope, beats: Beats, beats_per_bar: int) -> float:
    """After how many beats the first bar begins, at most those of a bar.

    A beat is where onsets are strong (or half-way to the next, as hats off the beat may be the
    stronger); a bar begins on the beat where kicks are, and where the sound changes for longer.
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
        [_change(envelope.level, passed, o / BINS_PER_BEAT, beats_per_bar) for o in offsets]
    )
    score = CHANGE_WEIGHT * change / (change.mean() + 1e-9) + kicks / (kicks.mean() + 1e-9)
    score += (strong[offsets] / (strong.max() + 1e-9))[:, None]
    which, beat = divmod(int(score.argmax()), beats_per_bar)
    return beat + offsets[which] / BINS_PER_BEAT


def _change(
    level: Float[np.ndarray, "frames bands"],
    passed: Float[np.ndarray, " frames"],
    offset: float,
    beats_per_bar: int,
) -> Float[np.ndarray, " beats_per_bar"]:
    """How much the mean level over some beats changes at each beat of a bar, on average.

    Relative to the mean of the recording, in a power that makes it as good as none next to a beat
    where much changes: the mean difference itself falls off as a triangle, which summed over the
    beats of a bar says nothing.
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
    change = CHANGE_FLOOR + (change / (loudness.mean() * span + 1e-9)) ** CHANGE_POWER
    n = np.bincount(beat, minlength=beats_per_bar)
    return np.bincount(beat, weights=change, minlength=beats_per_bar) / np.maximum(n, 1)


def _refuse_single_hit(envelope: Envelope) -> None:
    """Refuse a recording of one onset that dies away: nothing in it says how fast to play it.

    Raises:
        Rejected: `single_hit`.
    """
    flux, level = envelope.onsets, np.expm1(envelope.level).sum(axis=1)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(flux, 8, mode="wrap"), 17).max(axis=1)
    onsets = (flux == near) & (flux > SINGLE_HIT_ONSET * flux.max(initial=1e-9))
    if onsets.sum() > 1:
        return
    tail = level[2 * len(level) // 3 : -8]  # later windows reach the first sample again
    fall_db = 20 * np.log10((level.max() + 1e-9) / (tail.max() + 1e-9))
    if fall_db > SINGLE_HIT_DECAY_DB:
        raise Rejected("single_hit", "onsets, after which it dies away", float(onsets.sum()), 2.0)


def _refuse_other_meter(envelope: Envelope, beats: Beats, beats_per_bar: int) -> None:
    """Refuse what repeats every so many beats and not every bar.

    Raises:
        Rejected: `other_meter`.
    """
    likeness = beat_self_similarity(envelope, beats)
    pulses = pulses_along(envelope, np.interp(envelope.time_s, *beats))
    if len(likeness) < METER_LAGS or pulses < PULSING:
        return
    ours = _periodicity(likeness, beats_per_bar)
    others = [m for m in METERS if m % beats_per_bar and beats_per_bar % m]
    theirs = {meter: _periodicity(likeness, meter) for meter in others}
    meter = max(theirs, key=theirs.__getitem__, default=beats_per_bar)
    if theirs.get(meter, -1.0) > ours + METER_MARGIN:
        raise Rejected(
            "other_meter", "beats after which it repeats", float(meter), float(beats_per_bar)
        )


def beat_self_similarity(envelope: Envelope, beats: Beats) -> Float[np.ndarray, " lags"]:
    """How alike beats are that lie so many beats apart, from 0 on; in [-1, 1].

    The correlation of their onsets in bands and eighths of a beat, without what all beats share.
    """
    passed = np.interp(envelope.time_s, *beats)
    first = np.floor(passed[0])
    n = int(passed[-1] - first)
    # To fractions of a frame: whole ones would make beats alike that lie alike on their raster, as
    # every fifth at 125 BPM (384 frames).
    lines = first + np.arange(n * METER_CELLS + 1) / METER_CELLS
    frame, part = np.divmod(np.interp(lines, passed, np.arange(len(passed))), 1)
    frame = frame.astype(int)
    total = np.pad(np.cumsum(envelope.flux, axis=0, dtype=np.float64), ((1, 0), (0, 0)))
    upto = total[frame] + part[:, None] * envelope.flux[frame]
    onsets = np.diff(upto, axis=0).reshape(n, -1)
    floor = METER_FLOOR * np.square(onsets).sum()  # monotone music differs by frames at most
    onsets -= onsets.mean(axis=0)
    spectrum = scipy.fft.rfft(onsets, n=2 * n, axis=0)
    products = scipy.fft.irfft(np.square(np.abs(spectrum)).sum(axis=1))[: n // 2]
    pairs = n - np.arange(n // 2)
    return products / pairs / ((np.square(onsets).sum() + floor) / n + 1e-9)


def _periodicity(likeness: Float[np.ndarray, " lags"], beats: int) -> float:
    """How much more alike beats are that lie a multiple of `beats` apart than others."""
    lags = np.arange(beats, min(len(likeness) - 1, 4 * beats + 1), beats)
    return float((likeness[lags] - (likeness[lags - 1] + likeness[lags + 1]) / 2).mean())


def _librosa(
    x: Float[np.ndarray, " samples"], sample_rate_hz: int, envelope: Envelope
) -> tuple[float, None]:
    """Tempo as librosa's beat tracker estimates it, from the middle minute of a long recording.

    References:
        Ellis, Beat Tracking by Dynamic Programming, 2007, section 3.2; by librosa.
    """
    rate_hz = ENVELOPE_HZ // 4
    flux = envelope.onsets
    flux = flux[: len(flux) // 4 * 4].reshape(-1, 4).sum(axis=1)
    first = max(len(flux) // 2 - 30 * rate_hz, 0)
    middle = flux[first : first + 60 * rate_hz]
    return float(librosa_tempo()(onset_envelope=middle, sr=rate_hz, hop_length=1)[0]), None


@functools.cache
def librosa_tempo() -> Any:
    """`librosa.feature.tempo`, compiled: one process after the other.

    Processes that compile for numba's cache at the same time can spoil it, and then each that uses
    it crashes (numba issue 10128).
    """
    with FileLock(Path(tempfile.gettempdir(), "techloop-compiles-librosa.lock"), mode=0o666):
        from librosa.feature import tempo  # seconds, that only those in doubt shall wait for

        tempo(onset_envelope=np.ones(400, np.float32), sr=ENVELOPE_HZ // 4, hop_length=1)
        return tempo


def _beat_this(
    x: Float[np.ndarray, " samples"], sample_rate_hz: int, envelope: Envelope
) -> tuple[float, Float[np.ndarray, " n"] | None]:
    """Tempo and downbeats by beat_this; 0 and none where it hears no beat.

    References:
        Foscarin, Schlüter & Widmer, Beat this! Accurate beat tracking without DBN postprocessing,
        2024.

    Raises:
        ValueError: it is not installed.
    """
    beats_s, downbeats_s = (
        np.asarray(found, float) for found in _beat_this_model()(x, sample_rate_hz)
    )
    if len(beats_s) < 2:
        return 0.0, None
    return 60 / float(np.median(np.diff(beats_s))), downbeats_s if len(downbeats_s) else None


@functools.cache
def _beat_this_model() -> Any:
    try:
        from beat_this.inference import Audio2Beats
    except ImportError as error:
        raise ValueError(
            "tracker is `beat_this`, which is not installed here. `pip install beat-this` in the "
            "environment (it fetches its weights on first use), or set `tracker: librosa`."
        ) from error
    return Audio2Beats(checkpoint_path="final0", device="cpu")


TRACKERS = {"librosa": _librosa, "beat_this": _beat_this}


def _in_words(
    witnesses: Sequence[TempoEvidence],
    candidates: Sequence[Candidate],
    duration_s: float,
    beats_per_bar: int,
) -> str:
    """The evidence: who speaks for which tempo."""
    said = [f"{by} {bpm:.5g}" for by, bpm, _, _ in witnesses]
    for source in ("length", "onsets"):
        of_it = [c for c in candidates if (c.beats % 1 == 0) == (source == "length")]
        if of_it:
            best = of_it[0]
            bars = f" ({best.beats / beats_per_bar:g} bars)" if source == "length" else ""
            bars = " (1 bar)" if best.beats == beats_per_bar and bars else bars
            said.append(f"{source} {60 * best.beats / duration_s:.5g}{bars}")
    return "; ".join(said)

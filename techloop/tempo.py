"""How fast a recording is and where its first bar begins: evidence, and the verdict."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import scipy.fft
from jaxtyping import Float

from techloop.audio import resample

ANALYSIS_HZ = 16_000
ENVELOPE_HZ = 160  # about; exactly, a whole number of frames goes into the recording
WINDOW = 1024
BANDS = 24
LOW_BANDS = 8  # those below about 170 Hz, where the kick is
LOW_WEIGHT = 2.0  # of them, in finding the downbeat
BINS_PER_BEAT = 96
ENVELOPE_LEAD_S = 0.017  # a window that reaches an attack sees it before its centre does (measured)
OVERSAMPLING = 16  # of the envelope's spectrum, to look between whole numbers of beats
PULSES = (1, 2, 4)  # beats, eighths, sixteenths

# How likely a tempo is before its pulses are heard. Files are cut to 1, 2, 4, 8... bars, tracks to
# phrases of 4; a length that is no whole number of bars is mostly no cut at all.
WHOLE_BARS = {"power of two": 1.0, 4: 0.9, 2: 0.8, 1: 0.6}
NO_WHOLE_BARS = 0.15
ANY_LENGTH = 0.4  # a tempo that ignores the length of a file ...
ANY_LENGTH_TRACK = 0.8  # ... and of one so long that some whole number of bars always fits
TRACK_S = 30.0
NAMED_BPM = 6.0  # times as likely when the file name says `128bpm`,
NAMED_NUMBER = 3.0  # or has a number between separators, which may count something else
ANNOTATED = 8.0  # or somebody who listened to it wrote it down
STATED_WITHIN_BPM = 0.5  # tempi are stated in whole beats a minute as a rule
PULSELESS = 0.05  # score of a tempo that cannot be heard: a drone has one nevertheless
HABITUAL_BPM, HABIT_OCTAVES = 125.0, 1.5  # only decides where a range of tempi has octaves in it


@dataclass(frozen=True)
class Tempo:
    """The verdict.

    Attributes:
        bpm: tempo in beats a minute.
        confidence: how far the best candidate's score is above that of the best of another
            tempo: 0 for a draw, 1 where nothing else fits.
        downbeat_s: where the first bar begins.
        source: the evidence that decided: `annotation` or `name` (both only together with what
            is heard or with the length), `length` (a whole number of bars), or `onsets` alone.
        circular: the recording is a whole number of bars from its first sample to its last.
    """

    bpm: float
    confidence: float
    downbeat_s: float
    source: str
    circular: bool


@dataclass(frozen=True)
class Candidate:
    """A tempo that something speaks for.

    Attributes:
        beats: how many the recording would have.
        score: how much speaks for it.
        source: what decided.
    """

    beats: float
    score: float
    source: str


def tempo_in_name(name: str) -> tuple[float, bool] | None:
    """The tempo a file name states, and whether it says `bpm`; None where it states none.

    `kick_128bpm`, `BPM 93.5 pad` and `bpm128` say so; in `loop_97` a number of 60 to 200 stands
    between separators. The last one counts, as names go from the general to the particular.
    """
    stem = PurePosixPath(name).stem.lower()
    number = r"(\d{2,3}(?:\.\d+)?)"
    said = re.findall(rf"(?<![\d.]){number}[\s_-]*bpm|bpm[\s_-]*{number}(?![\d])", stem)
    if said:
        return float("".join(said[-1])), True
    alone = [float(n) for n in re.findall(rf"(?:^|[\s_-]){number}(?=$|[\s_-])", stem)]
    alone = [n for n in alone if 60 <= n <= 200]
    return (alone[-1], False) if alone else None


def fold(bpm: float, min_bpm: float, max_bpm: float) -> float:
    """The octave (double, half) of a tempo that lies in a range; unchanged where none does."""
    low, high = min_bpm - 1e-6, max_bpm + 1e-6
    return next((bpm * 2.0**k for k in (0, 1, -1, 2, -2) if low <= bpm * 2.0**k <= high), bpm)


def onset_envelope(
    x: Float[np.ndarray, "samples"], sample_rate_hz: int
) -> Float[np.ndarray, "frames bands"]:
    """How much each band of the spectrum grows, `ENVELOPE_HZ` times a second.

    Half-wave rectified flux of compressed amplitudes; the recording is taken as a circle, so that
    an onset on the first sample counts, and a whole number of frames goes into it.

    References:
        Böck & Widmer, Maximum Filter Vibrato Suppression for Onset Detection, 2013 (log flux).
    """
    x = resample(x, sample_rate_hz, ANALYSIS_HZ, quality="LQ")
    frames = max(round(len(x) * ENVELOPE_HZ / ANALYSIS_HZ), 1)
    starts = np.round(np.arange(frames) * (len(x) / frames)).astype(int)
    edges = np.unique(np.geomspace(2, WINDOW // 2, BANDS + 1).round().astype(int))
    window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    padded = np.pad(x.astype(np.float32), WINDOW // 2, mode="wrap")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)
    bands = np.empty((frames, len(edges) - 1), np.float32)
    for some in np.array_split(np.arange(frames), -(-frames // 2048)):  # two hours fit in memory
        amplitudes = np.abs(scipy.fft.rfft(windows[starts[some]] * window, axis=1))
        bands[some] = np.add.reduceat(amplitudes[:, :-1], edges[:-1], axis=1)
    level = np.log1p(10 * bands / (np.sqrt(np.square(bands).mean()) + 1e-9))
    return np.maximum(level - np.roll(level, 2, axis=0), 0)


def find_tempo(
    x: Float[np.ndarray, "samples"],
    sample_rate_hz: int,
    *,
    name: str = "",
    annotated_bpm: float | None = None,
    min_bpm: float = 90.0,
    max_bpm: float = 180.0,
    beats_per_bar: int = 4,
) -> Tempo:
    """The tempo and first downbeat of a recording, from all evidence there is.

    Each whole number of beats the recording can have is a candidate, as is the tempo at which
    its pulses are strongest whatever its length. A candidate's score is how strong its pulses
    are in the onset envelope (beats, eighths and sixteenths, over the whole recording, which
    makes it precise), times how plausible its length is and whether name or annotation agree.

    An annotated tempo that makes the recording a whole number of bars, to the sample, is taken
    as it is, and so is its octave.

    Args:
        x: one channel.
        sample_rate_hz: its rate.
        name: file name, which may state the tempo.
        annotated_bpm: what the source says, where it does.
        min_bpm: lowest tempo; others are folded to an octave in the range.
        max_bpm: highest.
        beats_per_bar: beats in a bar.

    Raises:
        ValueError: the recording is shorter than two beats of the highest tempo.
    """
    duration_s = len(x) / sample_rate_hz
    if annotated_bpm is not None:
        bars = duration_s * annotated_bpm / 60 / beats_per_bar
        sample = annotated_bpm / 60 / beats_per_bar / sample_rate_hz
        if round(bars) >= 1 and abs(bars - round(bars)) <= sample:
            return Tempo(annotated_bpm, 1.0, 0.0, "annotation", circular=True)
    if duration_s * max_bpm / 60 < 2:
        raise ValueError(f"{duration_s:.3g} s is too short to have a tempo")

    envelope = onset_envelope(x, sample_rate_hz)
    stated = _stated(name, annotated_bpm, min_bpm, max_bpm)
    candidates = _candidates(envelope, duration_s, stated, min_bpm, max_bpm, beats_per_bar)
    best = max(candidates, key=lambda c: c.score)
    rivals = [c.score for c in candidates if abs(c.beats / best.beats - 1) > 0.01]
    bpm = 60 * best.beats / duration_s
    circular = best.beats % beats_per_bar == 0
    downbeat_s = 0.0
    # A loop starts on its downbeat, that is what it was cut for. A track can be a whole number of
    # bars long by chance, so its beats must say so too (or off-beats, which may be the stronger).
    if duration_s > TRACK_S or best.beats % 1:
        downbeat_s = _downbeat_s(envelope, duration_s, 60 / bpm, beats_per_bar)
        eighth = 2 * downbeat_s * bpm / 60
        circular &= abs(eighth - round(eighth)) < 0.2
    return Tempo(
        bpm=bpm,
        confidence=1 - max(rivals, default=0.0) / best.score,
        downbeat_s=0.0 if circular else downbeat_s,
        source=best.source,
        circular=circular,
    )


def _stated(
    name: str, annotated_bpm: float | None, min_bpm: float, max_bpm: float
) -> list[tuple[str, float, float]]:
    """Who states a tempo, which one (folded), and how much more likely that makes it."""
    found = []
    if annotated_bpm is not None:
        found.append(("annotation", fold(annotated_bpm, min_bpm, max_bpm), ANNOTATED))
    if (named := tempo_in_name(name)) is not None:
        bpm, said = named
        found.append(("name", fold(bpm, min_bpm, max_bpm), NAMED_BPM if said else NAMED_NUMBER))
    return found


def _candidates(
    envelope: Float[np.ndarray, "frames bands"],
    duration_s: float,
    stated: list[tuple[str, float, float]],
    min_bpm: float,
    max_bpm: float,
    beats_per_bar: int,
) -> list[Candidate]:
    """Every tempo worth a thought, with its score."""
    minutes = duration_s / 60
    # Tolerance: 60.0 s at 90 BPM must not fall out of the range for a sample too few.
    whole = np.arange(max(np.ceil(min_bpm * minutes - 0.01), 1), max_bpm * minutes + 0.01)
    between = np.linspace(min_bpm, max_bpm, round((max_bpm - min_bpm) * minutes * 16) + 3) * minutes
    heard = pulse_strength(envelope.sum(axis=1), between)
    free = {int(heard.argmax())} | {
        int(np.where(np.abs(between / minutes - bpm) <= STATED_WITHIN_BPM, heard, -1).argmax())
        for _, bpm, _ in stated
    }
    of_any_length = ANY_LENGTH_TRACK if duration_s > TRACK_S else ANY_LENGTH
    table = [
        (beats, strength, _prior(int(beats), beats_per_bar), "length")
        for beats, strength in zip(whole, pulse_strength(envelope.sum(axis=1), whole), strict=True)
    ] + [(_peak(between, heard, at), heard[at], of_any_length, "onsets") for at in free]

    candidates = []
    for beats, strength, prior, source in table:
        bpm = beats / minutes
        habit = np.exp(-0.5 * (np.log2(bpm / HABITUAL_BPM) / HABIT_OCTAVES) ** 2)
        score = (strength + PULSELESS) * prior * habit
        for witness, stated_bpm, weight in stated:
            if abs(bpm - stated_bpm) <= STATED_WITHIN_BPM:
                score, source = score * weight, witness
        candidates.append(Candidate(float(beats), float(score), source))
    return candidates


def pulse_strength(
    envelope: Float[np.ndarray, "frames"], beats: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
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


def _peak(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], at: int) -> float:
    """Where the parabola through a maximum on an even grid and its neighbours is highest."""
    if not 0 < at < len(y) - 1:
        return float(x[at])
    left, top, right = y[at - 1 : at + 2]
    bend = left - 2 * top + right
    shift = 0.0 if bend >= 0 else float(np.clip((left - right) / (2 * bend), -0.5, 0.5))
    return float(x[at] + shift * (x[1] - x[0]))


def _prior(beats: int, beats_per_bar: int) -> float:
    """How likely a file is cut to so many beats."""
    bars, rest = divmod(beats, beats_per_bar)
    if rest or not bars:
        return NO_WHOLE_BARS
    return WHOLE_BARS["power of two" if bars & (bars - 1) == 0 else min(bars & -bars, 4)]


def _downbeat_s(
    envelope: Float[np.ndarray, "frames bands"],
    duration_s: float,
    beat_s: float,
    beats_per_bar: int,
) -> float:
    """Where the first bar begins: the beat is where onsets are strong, the bar where kicks are.

    The envelope is folded over one bar, so that what repeats in each stands out.
    """
    bins = beats_per_bar * BINS_PER_BEAT
    time_s = np.arange(len(envelope)) * duration_s / len(envelope) + ENVELOPE_LEAD_S
    place = (time_s / beat_s * BINS_PER_BEAT).astype(int) % bins
    folded = [
        np.bincount(place, weights=flux, minlength=bins)
        / np.maximum(np.bincount(place, minlength=bins), 1)
        for flux in (envelope.sum(axis=1), envelope[:, :LOW_BANDS].sum(axis=1))
    ]
    every, low = (np.convolve(np.r_[f[-1], f, f[0]], [0.5, 1, 0.5], mode="valid") for f in folded)
    by_beat = (every + LOW_WEIGHT * low).reshape(beats_per_bar, BINS_PER_BEAT)
    offset = int(by_beat.sum(axis=0).argmax())
    beat = int(low.reshape(beats_per_bar, BINS_PER_BEAT)[:, offset].argmax())
    return (beat * BINS_PER_BEAT + offset) / BINS_PER_BEAT * beat_s

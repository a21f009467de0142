"""A recording becomes loops on the beat grid.

`prepare_item` runs the steps: read -> estimate_tempo -> cut -> clean -> stretch -> normalise.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16, Int64

from techloop.audio.level import loop_loudness_lufs, loudness_gain_db, remove_dc
from techloop.audio.recording import Recording, Rejected, Rejection
from techloop.audio.resample import resample_circle, stretch_circle
from techloop.audio.seam import SEAM_FADE_S, close_seam
from techloop.audio.wav import to_int16
from techloop.data.rows import LoopRow, RejectRow, hash_of, one_line, reject_row
from techloop.data.source import Item, Source
from techloop.data.tempo.beats import Tempo
from techloop.data.tempo.estimate import find_tempo
from techloop.data.tempo.librosa_tempo import NotInstalledError
from techloop.data.tempo.stated import stated_tempi
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig, StretchMethod

MIN_MARKED_LOOP_S = 0.5  # a shorter loop that a file marks is the sustain of a note
MIN_LEFTOVER_BEATS = 0.05  # a shorter leftover at an end is rounding


class Span(NamedTuple):
    """Where a loop lies in its recording, and how clean it is there.

    Attributes:
        bar: number of its first bar in the recording.
        start: its first sample.
        end: one past its last.
        dc_offset: mean of its samples, where 1 is full scale.
        clipped_share: share of its samples at which a channel is clipped.
    """

    bar: int
    start: int
    end: int
    dc_offset: float
    clipped_share: float


class Loop(NamedTuple):
    """A finished loop.

    Attributes:
        span: where it lies in its recording.
        audio: its samples on the grid.
        loudness_lufs: what it had before the gain.
        gain_db: what it was given.
    """

    span: Span
    audio: Int16[np.ndarray, " samples"]
    loudness_lufs: float
    gain_db: float


class RejectedBar(NamedTuple):
    """Why what begins at a bar of a recording is left out; -1 is before the first bar."""

    bar: int
    rejection: Rejection


class PreparedItem(NamedTuple):
    """What becomes of an item.

    Attributes:
        loops: audio of each loop.
        rows: row of each loop in the index.
        rejects: rows of what is left out.
    """

    loops: list[Int16[np.ndarray, " samples"]]
    rows: list[LoopRow]
    rejects: list[RejectRow]


def prepare_item(source: Source, item: Item, grid: Grid, config: PreparationConfig) -> PreparedItem:
    """The loops of one item, and for each part that is left out, the reason.

    If a step fails, the whole item is one reject, whose `bar` is empty.

    Raises:
        NotInstalledError: a beat tracker is missing; every item in doubt would fail alike.
    """
    try:
        recording = read(source, item)
        tempo = estimate_tempo(recording, item, grid, config)
        spans, leftovers = cut(recording, tempo, grid)
        clean_spans, unclean = clean(spans, config)
        stretched = stretch(recording, tempo, clean_spans, grid, config.stretch)
        loops, silent = normalise(stretched, grid, config)

        rows = [_loop_row(source, item, recording, tempo, loop, grid) for loop in loops]
        rejected = sorted([*leftovers, *unclean, *silent], key=lambda reject: reject.bar)
        rejects = [reject_row(item, bar, rejection) for bar, rejection in rejected]
        return PreparedItem([loop.audio for loop in loops], rows, rejects)
    except Rejected as error:
        rejection = error.rejection
    except NotInstalledError:
        raise
    except Exception as error:  # one recording in ten thousand must not cost the others
        rejection = Rejection("failed", f"{type(error).__name__}: {error}")
    return PreparedItem([], [], [reject_row(item, "", rejection)])


def read(source: Source, item: Item) -> Recording:
    """The recording of an item. If the file marks a loop (0.5 s or longer), only that part.

    Raises:
        Rejected: the source leaves the item out, or it is unreadable.
    """
    if item.rejection:
        raise Rejected(*item.rejection)
    try:
        recording = source.read(item)
    except Rejected:
        raise
    except Exception as error:  # whatever a decoder raises, the other files are prepared
        raise Rejected("unreadable", str(error) or type(error).__name__) from error
    start, end = recording.tags.loop or (0, 0)
    if (end - start) / recording.rate_hz < MIN_MARKED_LOOP_S:
        return replace(recording, tags=replace(recording.tags, loop=None))
    inside = (recording.clipped >= start) & (recording.clipped < end)
    return replace(
        recording,
        samples=recording.samples[start:end],
        clipped=recording.clipped[inside] - start,
    )


def estimate_tempo(
    recording: Recording, item: Item, grid: Grid, config: PreparationConfig
) -> Tempo:
    """The tempo of a recording and where its bars begin.

    Raises:
        Rejected: the recording is silent, too short to hold a loop or to have a tempo, in another
            meter than the grid's, a single hit, or its tempo is uncertain.
    """
    x, rate, tags = recording.samples, recording.rate_hz, recording.tags
    if not len(x) or x.min() == x.max():  # hours of silence would take gigabytes later on
        raise Rejected("silent", "every sample is the same", -math.inf, config.silence_lufs)
    meter = item.beats_per_bar or tags.beats_per_bar
    if meter and meter != grid.beats_per_bar:
        limit = float(grid.beats_per_bar)
        raise Rejected("other_meter", "beats a bar, as stated", float(meter), limit)
    shortest_s = grid.beats * 60 / config.max_bpm
    if item.bpm is None and len(x) / rate < 0.99 * shortest_s:
        raise _too_short(len(x) / rate / 60 * config.max_bpm, grid)
    return find_tempo(
        x,
        rate,
        stated=stated_tempi(item, tags, len(x) / rate),
        exact=True if tags.loop and item.exact is None else item.exact,
        min_bpm=config.min_bpm,
        max_bpm=config.max_bpm,
        min_confidence=config.min_confidence,
        beats_per_bar=grid.beats_per_bar,
        tracker=config.tracker,
    )


def cut(recording: Recording, tempo: Tempo, grid: Grid) -> tuple[list[Span], list[RejectedBar]]:
    """Every whole loop of a recording, and the incomplete parts at both ends.

    Raises:
        Rejected: no whole loop fits.
    """
    x, rate = recording.samples, recording.rate_hz
    lines = bar_line_samples(recording, tempo, grid)
    end = (len(lines) - 1) // grid.bars * grid.bars
    if end < grid.bars:
        raise _too_short((len(x) / rate - tempo.downbeat_s) * tempo.bpm / 60, grid)
    spans = [
        _span(recording, bar, int(lines[bar]), int(lines[bar + grid.bars]))
        for bar in range(0, end, grid.bars)
    ]
    before_beats = lines[0] / rate * tempo.bpm / 60
    after_beats = (len(x) - lines[end]) / rate * tempo.bpm / 60
    leftovers = [
        RejectedBar(
            bar,
            Rejection("incomplete", f"beats {where}", round(float(beats), 3), float(grid.beats)),
        )
        for bar, beats, where in (
            (-1, before_beats, "before the first bar"),
            (end, after_beats, "after the last whole loop"),
        )
        if beats > MIN_LEFTOVER_BEATS
    ]
    return spans, leftovers


def clean(spans: Sequence[Span], config: PreparationConfig) -> tuple[list[Span], list[RejectedBar]]:
    """Spans with little DC offset and clipping, and rejections of the others."""
    clean_spans, rejected = [], []
    for span in spans:
        if abs(span.dc_offset) > config.max_dc_offset:
            rejection = Rejection(
                "dc_offset", "mean, 1 is full scale", span.dc_offset, config.max_dc_offset
            )
            rejected.append(RejectedBar(span.bar, rejection))
        elif span.clipped_share > config.max_clipped_share:
            rejection = Rejection(
                "clipped", "share of samples cut off", span.clipped_share, config.max_clipped_share
            )
            rejected.append(RejectedBar(span.bar, rejection))
        else:
            clean_spans.append(span)
    return clean_spans, rejected


def stretch(
    recording: Recording, tempo: Tempo, spans: Iterable[Span], grid: Grid, method: StretchMethod
) -> Iterator[tuple[Span, Float[np.ndarray, " samples"]]]:
    """The audio of each loop on the grid.

    One at a time: all loops of a two-hour recording would not fit into memory. Each is cut to the
    sample, its ends are joined, and it is stretched as a circle. A loop that is on the grid already
    stays as it is.

    Args:
        recording: what they lie in.
        tempo: of the recording.
        spans: where they lie.
        grid: where they shall lie.
        method: as `PreparationConfig.stretch`.
    """
    fade = round(SEAM_FADE_S * recording.rate_hz)
    for span in spans:
        circle = close_seam(recording.samples, span.start, span.end, fade, circular=tempo.circular)
        if method == "preserve_pitch":
            rates_hz = recording.rate_hz, grid.sample_rate_hz
            yield span, stretch_circle(circle, rates_hz[0], grid.samples, rates_hz[1])
        else:
            yield span, resample_circle(circle, grid.samples)


def normalise(
    loops: Iterable[tuple[Span, Float[np.ndarray, " samples"]]],
    grid: Grid,
    config: PreparationConfig,
) -> tuple[list[Loop], list[RejectedBar]]:
    """The loops without DC, at the config's loudness and in 16 bits; and those that are silent."""
    normalised, rejected = [], []
    for span, audio in loops:
        audio = remove_dc(audio)
        loudness = loop_loudness_lufs(audio, grid.sample_rate_hz)
        if loudness < config.silence_lufs:
            rejection = Rejection("silent", "LUFS", loudness, config.silence_lufs)
            rejected.append(RejectedBar(span.bar, rejection))
            continue
        gain_db = loudness_gain_db(float(np.abs(audio).max()), loudness, config.loudness_lufs)
        scaled = to_int16(audio * np.float32(10 ** (gain_db / 20)))
        normalised.append(Loop(span, scaled, loudness, gain_db))
    return normalised, rejected


def bar_line_samples(recording: Recording, tempo: Tempo, grid: Grid) -> Int64[np.ndarray, " lines"]:
    """The sample at which each whole bar begins, and the one past the last bar."""
    samples, rate = len(recording.samples), recording.rate_hz
    lines_s = tempo.bar_lines_s(samples / rate, grid.beats_per_bar)
    lines: np.ndarray = np.minimum(np.round(lines_s * rate).astype(int), samples)
    return lines


def _span(recording: Recording, bar: int, start: int, end: int) -> Span:
    """A loop from one sample to another."""
    mean = recording.samples[start:end].mean(dtype=np.float64)
    first, last = np.searchsorted(recording.clipped, (start, end))
    return Span(bar, start, end, float(mean), float(last - first) / (end - start))


def _too_short(beats: float, grid: Grid) -> Rejected:
    """The reason why no whole loop fits into a recording."""
    reason = "shorter_than_a_bar" if beats < grid.beats_per_bar else "shorter_than_a_loop"
    detail = "beats from the first downbeat to the end, at the tempo found or else at the highest"
    return Rejected(reason, detail, round(beats, 3), float(grid.beats))


def _loop_row(
    source: Source, item: Item, recording: Recording, tempo: Tempo, loop: Loop, grid: Grid
) -> LoopRow:
    """The row of a loop in the index."""
    rate, span = recording.rate_hz, loop.span
    author = item.author or recording.tags.author
    bpm = tempo.bpm if tempo.steady else 60 * grid.beats * rate / (span.end - span.start)
    return LoopRow(
        loop_id=hash_of(f"{source.name}/{item.name}#{span.bar}").hex()[:16],
        name=one_line(item.name),
        group=one_line(item.group or author or item.name),
        source=source.name,
        author=one_line(author),
        licence=one_line(item.licence),
        url=one_line(item.url),
        bpm_source=tempo.source,
        bpm_confidence=float(tempo.confidence),
        bpm_evidence=one_line(tempo.evidence),
        downbeat_s=float(tempo.downbeat_s),
        duration_s=len(recording.samples) / rate,
        bpm=float(bpm),
        stretch_ratio=float(bpm / grid.bpm),
        bar_in_source=span.bar,
        loudness_lufs=loop.loudness_lufs,
        dc_offset=span.dc_offset,
        clipped_share=span.clipped_share,
        gain_db=loop.gain_db,
        factors={name: float(value) for name, value in item.factors.items()},
    )

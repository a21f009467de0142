"""Any recording becomes loops on the beat grid: timed, cut at bar lines, cleaned, levelled."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int16

from techloop.audio.level import loop_loudness_lufs, loudness_gain_db, remove_dc
from techloop.audio.recording import Recording, Rejected
from techloop.audio.resample import resample_circle, stretch_circle
from techloop.audio.seam import SEAM_FADE_S, close_seam
from techloop.audio.wav import to_int16
from techloop.data.source import Item
from techloop.data.tempo import Tempo, find_tempo, stated_tempi
from techloop.grid import Grid

if TYPE_CHECKING:
    from techloop.data.source import Source
else:  # a protocol that is not checkable at run time, which the tests' checks would stumble over
    Source = object

SHORTEST_LOOP_S = 0.5  # of what a file marks as its loop
SHORTEST_REST = 0.05  # beats; what is left over at an end and shorter than this is rounding

LINE_ENDS = str.maketrans({"\r": r"\r", "\n": r"\n"})

Row = dict[str, Any]


@dataclass(frozen=True)
class PreparationConfig:
    """What turns a recording into loops; all that a worker needs to know.

    Attributes:
        grid: where the loops shall lie.
        min_bpm: lowest tempo a recording is taken to have; others are folded to an octave.
        max_bpm: highest.
        min_confidence: a tempo that is less sure than this, in [0, 1], is not taken.
        tracker: what follows the beats, besides our own search: `librosa`, or `beat_this` where
            it is installed.
        stretch: `resample`, where pitch follows tempo, or `preserve_pitch`.
        loudness_lufs: what loops are normalised to, as far as their peaks allow.
        silence_lufs: what is less loud before that is left out.
        max_clipped_share: what has a larger share of its samples cut off is left out.
        max_dc_offset: what has a larger mean (1 is full scale) is left out; a smaller one is
            taken away.
    """

    grid: Grid
    min_bpm: float = 90.0
    max_bpm: float = 180.0
    min_confidence: float = 0.2
    tracker: Literal["librosa", "beat_this"] = "librosa"
    stretch: Literal["resample", "preserve_pitch"] = "resample"
    loudness_lufs: float = -16.0
    silence_lufs: float = -60.0
    max_clipped_share: float = 0.05
    max_dc_offset: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.min_bpm < self.max_bpm:
            raise ValueError(
                f"min_bpm {self.min_bpm:g} and max_bpm {self.max_bpm:g} are no range of tempi: "
                "min_bpm must be positive and lower. 90 and 180 is one octave, which gives each "
                "tempo one place."
            )


@dataclass(frozen=True)
class Cut:
    """A loop as it lies in its recording.

    Attributes:
        bar: number of its first bar in the recording.
        start: its first sample.
        end: one past its last.
        audio: it on the grid, ends joined.
    """

    bar: int
    start: int
    end: int
    audio: Float[np.ndarray, " loop"]


def prepare_item(
    source: Source, item: Item, recipe: PreparationConfig
) -> tuple[list[Int16[np.ndarray, " samples"]], list[Row], list[Row]]:
    """The loops of one item, their rows of the index, and the rows of what was left out.

    Never raises: what goes wrong is a row whose `bar` is empty, which is the whole item.
    """
    rejected: list[Row] = []
    try:
        return (*_accept(source, item, recipe, rejected), rejected)
    except Rejected as whole:
        row = whole.row
    except Exception as error:  # one recording in ten thousand must not cost the others
        row = Rejected("failed", f"{type(error).__name__}: {error}").row
    return [], [], [_row(item, "", row)]


def cut_loops(
    x: Float[np.ndarray, " samples"], sample_rate_hz: int, tempo: Tempo, recipe: PreparationConfig
) -> Iterator[Cut]:
    """Every whole loop of a recording, stretched to the grid.

    Cut at the bar lines to the sample, ends joined, then stretched as a circle. What is on the
    grid already comes out as it went in.
    """
    grid, lines = recipe.grid, bar_line_samples(x, sample_rate_hz, tempo, recipe.grid)
    fade = round(SEAM_FADE_S * sample_rate_hz)
    for bar in range(0, len(lines) - grid.bars, grid.bars):
        start, end = int(lines[bar]), int(lines[bar + grid.bars])
        circle = close_seam(x, start, end, fade, circular=tempo.circular)
        if recipe.stretch == "preserve_pitch":
            audio = stretch_circle(circle, sample_rate_hz, grid.samples, grid.sample_rate_hz)
        else:
            audio = resample_circle(circle, grid.samples)
        yield Cut(bar, start, end, audio)


def bar_line_samples(
    x: Float[np.ndarray, " samples"], sample_rate_hz: int, tempo: Tempo, grid: Grid
) -> np.ndarray:
    """The samples at which bars begin, and the one past the last bar."""
    lines = tempo.bar_lines_s(len(x) / sample_rate_hz, grid.beats_per_bar)
    return np.minimum(np.round(lines * sample_rate_hz).astype(int), len(x))


def normalise(
    loop: Float[np.ndarray, " samples"], recipe: PreparationConfig
) -> tuple[Int16[np.ndarray, " samples"], float, float]:
    """A loop in 16 bits at the loudness of the recipe; what it had, in LUFS; the gain, in dB.

    Raises:
        Rejected: it is silent.
    """
    loop = remove_dc(loop)
    loudness = loop_loudness_lufs(loop, recipe.grid.sample_rate_hz)
    if loudness < recipe.silence_lufs:
        raise Rejected("silent", "LUFS", loudness, recipe.silence_lufs)
    gain_db = loudness_gain_db(float(np.abs(loop).max()), loudness, recipe.loudness_lufs)
    return to_int16(loop * np.float32(10 ** (gain_db / 20))), loudness, gain_db


def _accept(
    source: Source, item: Item, recipe: PreparationConfig, rejected: list[Row]
) -> tuple[list[Int16[np.ndarray, " samples"]], list[Row]]:
    """Loops and rows of an item that is not rejected as a whole; its bars that are go to a list."""
    if item.rejection:
        raise Rejected(*item.rejection)
    recording, grid = _read(source, item), recipe.grid
    x, rate = recording.samples, recording.rate_hz
    tempo = _tempo(recording, item, recipe)
    author = item.author or recording.tags.author
    about: Row = {
        "name": text(item.name),
        "group": text(item.group or author or item.name),
        "source": source.name,
        "author": text(author),
        "licence": text(item.licence),
        "url": text(item.url),
        "bpm_source": tempo.source,
        "bpm_confidence": float(tempo.confidence),
        "bpm_evidence": text(tempo.evidence),
        "downbeat_s": float(tempo.downbeat_s),
        "duration_s": len(x) / rate,
    }
    factors = {f"factor_{key}": float(value) for key, value in item.factors.items()}
    loops: list[np.ndarray] = []
    rows: list[Row] = []
    lines = bar_line_samples(x, rate, tempo, grid)
    last = (len(lines) - 1) // grid.bars * grid.bars
    if last < grid.bars:
        beats = (len(x) / rate - tempo.downbeat_s) * tempo.bpm / 60
        raise _too_short(beats, grid)
    _note_rest(item, -1, lines[0] / rate * tempo.bpm / 60, grid, rejected)
    for cut in cut_loops(x, rate, tempo, recipe):
        try:
            dc = float(x[cut.start : cut.end].mean(dtype=np.float64))
            clipped = _clipped_share(recording, cut)
            _check_clean(dc, clipped, recipe)
            audio, loudness, gain_db = normalise(cut.audio, recipe)
        except Rejected as left_out:
            rejected.append(_row(item, cut.bar, left_out.row))
            continue
        bpm = tempo.bpm if tempo.steady else 60 * grid.beats * rate / (cut.end - cut.start)
        loops.append(audio)
        rows.append(
            {
                "loop_id": digest(f"{source.name}/{item.name}#{cut.bar}").hex()[:16],
                **about,
                "bpm": float(bpm),
                "stretch_ratio": float(bpm / grid.bpm),
                "bar_in_source": cut.bar,
                "loudness_lufs": loudness,
                "dc_offset": dc,
                "clipped_share": clipped,
                "gain_db": gain_db,
                **factors,
            }
        )
    _note_rest(item, last, (len(x) - lines[last]) / rate * tempo.bpm / 60, grid, rejected)
    return loops, rows


def _read(source: Source, item: Item) -> Recording:
    """An item, of which only the loop is taken that its file marks, where that is a part of it."""
    try:
        recording = source.read(item)
    except Rejected:
        raise
    except Exception as error:  # whatever a decoder stumbles over, the other files go on
        raise Rejected("unreadable", str(error) or type(error).__name__) from error
    start, end = recording.tags.loop or (0, 0)
    if (end - start) / recording.rate_hz < SHORTEST_LOOP_S:
        # No mark at all, or a note's sustain.
        return replace(recording, tags=replace(recording.tags, loop=None))
    inside = (recording.clipped >= start) & (recording.clipped < end)
    return replace(
        recording,
        samples=recording.samples[start:end],
        clipped=recording.clipped[inside] - start,
    )


def _tempo(recording: Recording, item: Item, recipe: PreparationConfig) -> Tempo:
    """The tempo of an item that is music, long and loud enough to have one, and in the meter."""
    x, rate, tags, grid = recording.samples, recording.rate_hz, recording.tags, recipe.grid
    if not len(x) or x.min() == x.max():  # copies of two hours would be gigabytes
        raise Rejected("silent", "every sample is the same", -math.inf, recipe.silence_lufs)
    meter = item.beats_per_bar or tags.beats_per_bar
    if meter and meter != grid.beats_per_bar:
        stated, ours = float(meter), float(grid.beats_per_bar)
        raise Rejected("other_meter", "beats a bar, as stated", stated, ours)
    shortest_s = grid.beats * 60 / recipe.max_bpm
    if item.bpm is None and len(x) / rate < 0.99 * shortest_s:
        raise _too_short(len(x) / rate / 60 * recipe.max_bpm, grid)
    return find_tempo(
        x,
        rate,
        stated=stated_tempi(item, tags, len(x) / rate),
        exact=True if tags.loop and item.exact is None else item.exact,
        min_bpm=recipe.min_bpm,
        max_bpm=recipe.max_bpm,
        min_confidence=recipe.min_confidence,
        beats_per_bar=grid.beats_per_bar,
        tracker=recipe.tracker,
    )


def _check_clean(dc_offset: float, clipped_share: float, recipe: PreparationConfig) -> None:
    """Refuse what a converter or a too hot master has spoilt."""
    if abs(dc_offset) > recipe.max_dc_offset:
        raise Rejected("dc_offset", "mean, 1 is full scale", dc_offset, recipe.max_dc_offset)
    if clipped_share > recipe.max_clipped_share:
        raise Rejected(
            "clipped", "share of samples cut off", clipped_share, recipe.max_clipped_share
        )


def _clipped_share(recording: Recording, cut: Cut) -> float:
    """The share of a cut's samples at which a channel is cut off."""
    first, last = np.searchsorted(recording.clipped, (cut.start, cut.end))
    return float(last - first) / (cut.end - cut.start)


def _too_short(beats: float, grid: Grid) -> Rejected:
    """The reason where no whole loop fits into a recording."""
    reason = "shorter_than_a_bar" if beats < grid.beats_per_bar else "shorter_than_a_loop"
    detail = "beats from the first downbeat to the end, at the tempo found or else at the highest"
    return Rejected(reason, detail, round(beats, 3), float(grid.beats))


def _note_rest(item: Item, bar: int, beats: float, grid: Grid, rejected: list[Row]) -> None:
    """A row for what lies before the first bar or after the last whole loop."""
    if beats > SHORTEST_REST:
        where = "before the first bar" if bar < 0 else "after the last whole loop"
        row = Rejected(
            "incomplete", f"beats {where}", round(float(beats), 3), float(grid.beats)
        ).row
        rejected.append(_row(item, bar, row))


def _row(item: Item, bar: int | str, reason: Row) -> Row:
    """A row of the reject table; its text can be written in any case."""
    row = {"file": item.name, "bar": bar, **reason}
    return {key: text(value) if isinstance(value, str) else value for key, value in row.items()}


def digest(name: str) -> bytes:
    """SHA-256 of a name, also of one in no valid encoding."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def text(name: str) -> str:
    """The same as a line of a table can hold it: names on disk may be in no valid encoding."""
    return name.encode("utf-8", "backslashreplace").decode().translate(LINE_ENDS)

"""A beat of some test loops close up: where noise, a tone or a kick can be seen at their clearest.

Loops and beats are chosen by measurement of the originals, never by hand, and not by how well
anything reconstructs them.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from techloop.audio.spectral import circular_stft, whole_hop
from techloop.evaluation.metrics.tonality import RANGE_HZ, frame_tonality
from techloop.grid import Grid

ANALYSIS_WINDOW = 1024  # of the search, in samples
BATCH = 16  # loops searched at a time
LOW_HZ = (0.0, 150.0)  # where a kick is
KICK_TOP_HZ = 1000.0  # the highest frequency of its close-up
FLOOR_DB = -100.0
FINEST_HOP = 64  # of what is drawn, in samples, at most


@dataclass(frozen=True)
class CloseUp:
    """A beat of a loop.

    Attributes:
        kind: what it was chosen for: `noise`, `tone` or `kick`.
        row: of the loop.
        start: sample at which it begins.
        samples: its length, a beat to the nearest frame; it may reach around the circle.
        window: of the spectrogram to draw, in samples.
        top_hz: the highest frequency to draw.
    """

    kind: str
    row: int
    start: int
    samples: int
    window: int
    top_hz: float


def choose_close_ups(
    x: Float[Tensor, "n samples"], tonal: Float[np.ndarray, " n"], grid: Grid
) -> list[CloseUp]:
    """The noisiest loop, the most tonal one, and the one with the loudest kick, a beat of each.

    `noise` is of the loop with the lowest tonality above 3 kHz, `tone` of that with the highest;
    each beat is the one with the most power there that is noise, or tone: the power of a frame
    times how little, or how much, it resembles the frame one window later. `kick` is the beat with
    the most power below 150 Hz of all loops. Beats begin on sixteenths.

    Args:
        x: the originals.
        tonal: `tonality` of each; nan where nothing is audible above 3 kHz.
        grid: of the loops.

    Returns:
        In this order. Without two loops that are audible above 3 kHz, `kick` alone.
    """
    chosen = []
    if np.isfinite(tonal).sum() >= 2:
        for kind, row, window in (
            ("noise", int(np.nanargmin(tonal)), 512),
            ("tone", int(np.nanargmax(tonal)), 1024),
        ):
            loop = x[row : row + 1]
            likeness = frame_tonality(loop, grid).nan_to_num(0).clamp(0, 1)
            share = 1 - likeness if kind == "noise" else likeness
            _, start = loudest_beat(band_power(loop, grid, RANGE_HZ) * share, grid)
            chosen.append(_close_up(kind, row, start, window, grid.sample_rate_hz / 2, grid))
    row, start = loudest_beat(band_power(x, grid, LOW_HZ), grid)
    top_hz = min(KICK_TOP_HZ, grid.sample_rate_hz / 2)
    return [*chosen, _close_up("kick", row, start, 1024, top_hz, grid)]


def band_power(
    x: Float[Tensor, "n samples"], grid: Grid, range_hz: tuple[float, float]
) -> Float[Tensor, "n frames"]:
    """Power of each frame in a band, window 1,024, on the scale of `circular_stft`."""
    low, high = (round(hz * ANALYSIS_WINDOW / grid.sample_rate_hz) for hz in range_hz)
    parts = [
        circular_stft(loops, ANALYSIS_WINDOW, grid.hop)[:, low : high + 1].abs().square().sum(1)
        for loops in x.split(BATCH)
    ]
    return torch.cat(parts)


def loudest_beat(power: Float[Tensor, "n frames"], grid: Grid) -> tuple[int, int]:
    """Row and first frame of the beat with the most power; it begins on a sixteenth."""
    starts = (torch.arange(grid.steps) * grid.frames / grid.steps).round().long()
    frames = starts[:, None] + torch.arange(_beat_frames(grid))
    sums = power[:, frames % grid.frames].sum(2)
    row, step = divmod(int(sums.argmax()), grid.steps)
    return row, int(starts[step])


def close_up_db(
    x: Float[Tensor, "n samples"], view: CloseUp, grid: Grid
) -> Float[np.ndarray, "n bins columns"]:
    """Levels of the STFT of one beat, in dB re a full-scale sine, at least -100.

    Column 0 is centred on the first sample of the beat; columns are at most 64 samples apart. Bins
    reach from 0 Hz to `top_hz`.

    Args:
        x: a loop as it is and as it was decoded.
        view: where to look.
        grid: of the loop.
    """
    hop = whole_hop(grid.hop, 4 * FINEST_HOP)  # divides the loop and the beat
    bins = 1 + int(view.top_hz * view.window / grid.sample_rate_hz)
    spectrum = circular_stft(x.roll(-view.start, 1), view.window, hop)
    amplitude = spectrum[:, :bins, : view.samples // hop].abs() / (view.window / 4)
    levels: np.ndarray = (20 * amplitude.clamp_min(10 ** (FLOOR_DB / 20)).log10()).numpy()
    return levels


def _beat_frames(grid: Grid) -> int:
    return max(round(grid.frames / grid.beats), 1)


def _close_up(kind: str, row: int, start: int, window: int, top_hz: float, grid: Grid) -> CloseUp:
    samples = _beat_frames(grid) * grid.hop
    return CloseUp(kind, row, start * grid.hop, samples, window, float(top_hz))

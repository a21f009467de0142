"""Rhythm on a circle: are onsets on the grid, and does the wrap sound like any other beat."""

import math

import numpy as np
from jaxtyping import Bool, Float

from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.grid import Grid
from techloop.metric import Metric

ON_GRID_SHARE = Metric(
    "on_grid_share",
    "share of onsets on the grid",
    better="higher",
    baselines=(*OTHER_SAMPLES, "chance"),
)
# Best at 1, a seam like any other beat.
SEAM_RATIO = Metric(
    "seam_ratio", "spectral flux at the seam / at other beats", baselines=OTHER_SAMPLES
)


def on_grid_share(onsets: Bool[np.ndarray, "n frames"], grid: Grid) -> float:
    """Share of onsets near a sixteenth of the grid, 0 to 1; nan without onsets.

    Near is a quarter of a sixteenth or less. About half of all frames are, so onsets at random
    places have `chance_on_grid_share`.
    """
    if not onsets.any():
        return math.nan
    return float(_near_step(grid)[np.nonzero(onsets)[1]].mean())


def chance_on_grid_share(grid: Grid) -> float:
    """The expected `on_grid_share` of onsets at random places."""
    return float(_near_step(grid).mean())


def seam_ratio(strength: Float[np.ndarray, "n frames"], grid: Grid) -> Float[np.ndarray, " n"]:
    """Spectral flux where the loop wraps around over its median at the loop's other beats.

    1 is a seam like any other beat; far above 1, something happens there and nowhere else, such as
    a click. Other beats are the reference because many loops start with a kick. At each beat the
    largest value within a quarter of a sixteenth counts. nan where neither the wrap nor the beats
    have any flux, infinite where only the beats have none.

    Args:
        strength: onset strength, in dB.
        grid: of the loops.

    Raises:
        ValueError: a loop of one beat, which has no other.
    """
    if grid.beats < 2:
        raise ValueError("a loop of one beat has no beat to compare its seam with")
    reach = int(grid.frames / grid.steps / 4)
    beats = np.round(np.arange(grid.beats) * grid.frames / grid.beats).astype(int)
    around = (beats[:, None] + np.arange(-reach, reach + 1)) % grid.frames
    flux = strength[:, around].max(2).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: np.ndarray = flux[:, 0] / np.median(flux[:, 1:], 1)
    return ratio


def _near_step(grid: Grid) -> np.ndarray:
    """Which frames lie within a quarter of a sixteenth of one."""
    step = grid.frames / grid.steps
    place = np.arange(grid.frames) % step
    near: np.ndarray = np.minimum(place, step - place) <= step / 4
    return near

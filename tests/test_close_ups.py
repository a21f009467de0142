"""Close-ups are of the noisiest loop, the most tonal one, the loudest kick, each at its beat."""

import numpy as np
import pytest
import torch

from techloop.evaluation.close_ups import choose_close_ups, close_up_db
from techloop.evaluation.metrics.tonality import tonality
from techloop.grid import Grid
from tests.helpers.datasets import GRID

GRIDS = [GRID, Grid(hop=96, bpm=125.0), Grid(beats_per_bar=7, bpm=52_500 / 419), Grid(bars=2)]
HZ = (3125.0, 4375.0, 5625.0)


def sixteenth(grid, step):
    """First sample of a sixteenth, on a frame."""
    return round(step * grid.frames / grid.steps) * grid.hop


def placed(grid, sound, step):
    """A beat of a sound, in a silent loop."""
    loop = np.zeros(grid.samples)
    loop[: len(sound)] = sound
    return np.roll(loop, sixteenth(grid, step))


def world(grid):
    """Four loops: hiss of one beat, tones of one beat, kicks, both of the first without kicks."""
    n = round(grid.frames / grid.beats) * grid.hop
    t, rng = np.arange(n) / grid.sample_rate_hz, np.random.default_rng(0)
    fade = np.hanning(n)
    hiss = 0.1 * rng.standard_normal(n) * fade
    tones = sum(0.1 * np.sin(2 * np.pi * hz * t) for hz in HZ) * fade
    kick = 0.8 * np.sin(2 * np.pi * 50 * t) * fade
    last = grid.steps - 2  # reaches around the circle
    loops = [
        placed(grid, hiss, last) + placed(grid, 0.2 * kick, 0),
        placed(grid, tones, 5) + placed(grid, 0.5 * hiss, 9),
        placed(grid, kick, 3) + placed(grid, 0.5 * kick, 10),
        placed(grid, hiss, 2) + placed(grid, tones, 8),
    ]
    x = torch.from_numpy(np.stack(loops)).float()
    return x, tonality(x, grid).numpy(), {"noise": (0, last), "tone": (1, 5), "kick": (2, 3)}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_is_of_its_loop_and_beat(grid):
    x, tonal, expected = world(grid)
    views = choose_close_ups(x, tonal, grid)
    assert {view.kind: view.row for view in views} == {k: row for k, (row, _) in expected.items()}
    for view in views:
        assert view.start == sixteenth(grid, expected[view.kind][1]), view.kind
        assert view.samples == pytest.approx(grid.samples / grid.beats, abs=grid.hop / 2)
        assert view.samples % grid.hop == 0


def test_nothing_above_3_khz_leaves_the_kick():
    x, tonal, _ = world(GRID)
    tonal[:3] = np.nan
    assert [view.kind for view in choose_close_ups(x, tonal, GRID)] == ["kick"]


def test_levels_are_those_of_the_beat_in_db_re_a_full_scale_sine():
    x, tonal, _ = world(GRID)
    view = next(view for view in choose_close_ups(x, tonal, GRID) if view.kind == "tone")
    cycles = round(4375 * GRID.samples / GRID.sample_rate_hz)
    t = torch.arange(GRID.samples) / GRID.samples
    sine = torch.sin(2 * torch.pi * cycles * t)[None]
    loops = torch.cat([sine, 0.1 * sine, 0 * sine])
    levels = close_up_db(loops, view, GRID)
    assert levels.shape == (3, 513, GRID.samples // GRID.beats // 64)
    assert levels.max((1, 2)) == pytest.approx([0, -20, -100], abs=0.01)
    assert levels[0].argmax(0).tolist() == [4375 * 1024 // 16_000] * levels.shape[2]
    # The beat, and not another: a loop that sounds elsewhere alone is silent here.
    before, behind = (
        torch.zeros(1, GRID.samples).index_fill(1, torch.tensor([at % GRID.samples]), 1.0)
        for at in (view.start - 1024, view.start + view.samples + 1024)
    )
    assert close_up_db(torch.cat([before, behind]), view, GRID).max() == -100
    inside = torch.zeros(1, GRID.samples)
    inside[0, view.start + 64 * 7] = 1
    assert close_up_db(inside, view, GRID)[0].mean(0).argmax() == 7


def test_a_kick_is_drawn_up_to_1_khz():
    x, tonal, _ = world(GRID)
    view = next(view for view in choose_close_ups(x, tonal, GRID) if view.kind == "kick")
    levels = close_up_db(x[view.row :][:1], view, GRID)
    assert levels.shape[1] == 65
    hz = levels[0].max(1).argmax() * GRID.sample_rate_hz / view.window
    assert hz == pytest.approx(50, abs=10)

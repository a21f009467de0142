import pytest
from hypothesis import given
from hypothesis import strategies as st

from techloop.grid import Grid


def test_the_default_grid() -> None:
    grid = Grid()
    assert (grid.samples, grid.frames, grid.steps, grid.beats) == (30_720, 240, 16, 4)
    assert grid.frame_rate_hz == 125
    assert grid.duration_s == 1.92
    assert grid.lengths == [
        1,
        2,
        3,
        4,
        5,
        6,
        8,
        10,
        12,
        15,
        16,
        20,
        24,
        30,
        40,
        48,
        60,
        80,
        120,
        240,
    ]


@given(n=st.integers(8, 2000), bars=st.sampled_from([1, 2, 4, 8]))
def test_every_tempo_the_formula_gives_is_valid(n: int, bars: int) -> None:
    grid = Grid(bpm=round(30_000 / n, 8), bars=bars)
    assert grid.frames == n * bars
    assert grid.samples == grid.frames * grid.hop


def test_an_impossible_tempo_names_the_nearest_that_work() -> None:
    with pytest.raises(
        ValueError, match=r"238\.1 hops.*125\.5230126 and 126\.0504202 BPM"
    ) as error:
        Grid(bpm=126.0)
    for bpm in (125.5230126, 126.0504202):
        assert f"{bpm}" in str(error.value)
        Grid(bpm=bpm)


@pytest.mark.parametrize("field", ["sample_rate_hz", "hop", "bpm", "beats_per_bar", "bars"])
def test_no_value_may_be_zero(field: str) -> None:
    value = 0.0 if field == "bpm" else 0
    with pytest.raises(ValueError, match=f"{field} is 0"):
        Grid(**{field: value})


def test_a_tempo_too_fast_for_one_hop() -> None:
    with pytest.raises(ValueError, match="nearest tempi"):
        Grid(bpm=70_000.0)


def test_a_length_must_divide() -> None:
    Grid().check_length(48)
    with pytest.raises(ValueError, match=r"7 does not divide the 240 .* 1, 2, 3, 4, 5, 6, 8"):
        Grid().check_length(7)

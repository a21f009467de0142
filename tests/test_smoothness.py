"""Smoothness: paths whose measures are known, and the folder of a real (hardly trained) cell."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from techloop.analysis.smoothness import (
    MEASURES,
    closed_length_ratio,
    crossfade,
    evaluate_smoothness,
    jerk,
    largest_jump,
    monotonicity,
    path_length_ratio,
    path_metrics,
    walk_metrics,
)
from techloop.audio import read_audio
from techloop.datasets import LoopDataset
from techloop.grid import Grid
from techloop.instrument import Instrument
from techloop.models.audio_vae import AudioVAE
from techloop.models.latent_vae import LatentVAE
from tests.made_loops import GRID, contents, kicks, write_loops

LINE = np.linspace(-3.0, 5.0, 9)
DETOUR = np.array([0.0, 2.0, 1.0, 3.0])


def test_a_straight_line_is_perfect():
    assert path_length_ratio(LINE) == pytest.approx(1)
    assert monotonicity(LINE) == pytest.approx(1)
    assert largest_jump(LINE) == pytest.approx(1 / 8)
    assert jerk(LINE) == pytest.approx(0, abs=1e-9)


def test_a_detour_by_hand():
    assert path_length_ratio(DETOUR) == pytest.approx(5 / 3)
    assert monotonicity(DETOUR) == pytest.approx(0.8)
    assert largest_jump(DETOUR) == pytest.approx(2 / 3)
    # Steps 2, -1, 2; their differences -3, 3; the third difference 6, in steps of 1/3.
    assert jerk(DETOUR) == pytest.approx(6 * 27 / 3)


def test_jerk_of_a_cubic_is_its_third_derivative():
    t = np.linspace(0, 1, 20)
    assert jerk(t**3) == pytest.approx(6, rel=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_constant_paths_are_undefined_and_bad_ones_refused(name):
    measure = MEASURES[name]
    assert np.isnan(measure(np.full(5, 2.0)))
    with pytest.raises(ValueError, match="points here"):
        measure(np.array([1.0]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure(np.array([0.0, np.nan, 1.0, 2.0]))


@pytest.mark.parametrize("name", MEASURES)
@given(st.floats(0.1, 100), st.floats(-100, 100), st.integers(0, 99))
def test_measures_know_neither_unit_nor_direction(name, scale, shift, seed):
    values = np.random.default_rng(seed).standard_normal(8)
    moved = MEASURES[name](values * scale + shift)
    assert moved == pytest.approx(MEASURES[name](values), rel=1e-5)
    assert MEASURES[name](-values[::-1]) == pytest.approx(MEASURES[name](values), rel=1e-5)


def test_more_noise_is_never_smoother():
    noise = np.random.default_rng(0).standard_normal(9)
    noise[[0, -1]] = 0
    steps = [LINE + g * noise for g in (0.1, 1, 5, 20)]
    for name, measure in MEASURES.items():
        values = [measure(step) for step in steps]
        assert values == sorted(values, reverse=name == "monotonicity"), name
        assert values[0] != pytest.approx(values[-1])


def test_closed_curves():
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    assert closed_length_ratio(np.sin(angle)) == pytest.approx(1)
    assert closed_length_ratio(np.sin(3 * angle + 0.1)) == pytest.approx(3, rel=0.06)
    assert closed_length_ratio(np.roll(np.sin(angle), 5)) == pytest.approx(1)
    assert np.isnan(closed_length_ratio(np.zeros(4)))
    with pytest.raises(ValueError, match="points here"):
        closed_length_ratio(np.zeros(1))


def test_metrics_are_medians_over_paths_that_have_a_value():
    paths = np.stack([LINE, DETOUR.repeat(3)[:9], np.zeros(9)])[..., None].repeat(2, 2)
    metrics = path_metrics(paths)
    assert metrics["path_length_ratio_loudness_db"] == np.median(
        [1, path_length_ratio(paths[1, :, 0])]
    )
    assert np.isnan(path_metrics(np.zeros((2, 5, 2)))["jerk_centroid_hz"])
    assert walk_metrics(paths)["walk_length_ratio_centroid_hz"] >= 1


def test_crossfade_keeps_its_ends_and_is_linear_between():
    a, b = np.random.default_rng(0).standard_normal((2, 40_000)).astype(np.float32)
    mix = crossfade(a, b, 5)
    np.testing.assert_array_equal(mix[0], a)
    np.testing.assert_array_equal(mix[-1], b)
    np.testing.assert_allclose(mix[1], 0.75 * a + 0.25 * b, atol=1e-6)
    # In phase, as kicks are: no louder half-way than at the louder end.
    power = (crossfade(a, 0.5 * a, 9) ** 2).mean(1)
    assert (np.diff(power) < 0).all()
    np.testing.assert_allclose((crossfade(a, a, 5) ** 2).mean(1), (a**2).mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="two points"):
        crossfade(a, b, 1)


@pytest.fixture(scope="module")
def instrument(latent_vae_folder):
    return Instrument.load(latent_vae_folder)


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoothness") / "loops"
    return LoopDataset(write_loops(folder, kicks(4), ["test"] * 4), "test")


def test_the_folder_is_whole_and_the_same_again(tmp_path, instrument, loops):
    runs = {
        name: evaluate_smoothness(instrument, loops, tmp_path / name, paths=2, points=5, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert runs["a"] != runs["c"]
    for way in ("", "vae1_", "crossfade_", "shuffled_"):
        for name in MEASURES:
            assert f"{way}{name}_loudness_db" in runs["a"]
    items = json.loads((tmp_path / "a" / "items.json").read_text())
    assert {i["file"] for i in items} | {"items.json", "metrics.json"} == set(
        contents(tmp_path / "a")
    )
    bars = {
        name: read_audio(tmp_path / "a" / f"{name}.wav").samples.size / GRID.samples
        for name in ("morph", "walk")
    }
    assert bars == {"morph": 5, "walk": 10}


@pytest.mark.parametrize("n", [2, 6])
def test_few_loops_are_enough(tmp_path, instrument, n):
    folder = write_loops(tmp_path / "loops", kicks(n), ["test"] * n)
    metrics = evaluate_smoothness(
        instrument, LoopDataset(folder, "test"), tmp_path / "a", paths=3, points=4, seed=0
    )
    assert np.isfinite(list(metrics.values())).all()
    assert "paths.png" in contents(tmp_path / "a")


def test_loops_of_several_bars_stay_whole(tmp_path):
    grid = Grid(bars=2)
    torch.manual_seed(0)
    instrument = Instrument(
        AudioVAE(grid, latent_dim=4, channels=32, blocks=1),
        LatentVAE(grid, audio_latent_dim=4, length=4, latent_dim=3, channels=16, blocks=1),
    )
    audio = kicks(4).reshape(2, -1)
    folder = write_loops(tmp_path / "loops", audio, ["test"] * 2)
    card = json.loads((folder / "card.json").read_text())
    card["grid"]["bars"] = 2
    (folder / "card.json").write_text(json.dumps(card))
    loops = LoopDataset(folder, "test")
    evaluate_smoothness(instrument, loops, tmp_path / "a", paths=1, points=4, seed=0)
    for name, count in (("morph", 4), ("crossfade", 4), ("walk", 8)):
        sound = read_audio(tmp_path / "a" / f"{name}.wav").samples
        assert sound.size == count * grid.samples, name
    captions = [item["caption"] for item in json.loads((tmp_path / "a/items.json").read_text())]
    assert any("4 loops" in caption for caption in captions)
    assert not any(" bar" in caption for caption in captions)


def test_too_few_points_or_loops_are_refused(tmp_path, instrument, loops):
    with pytest.raises(ValueError, match="four points"):
        evaluate_smoothness(instrument, loops, tmp_path / "a", paths=1, points=3, seed=0)
    one = LoopDataset(write_loops(tmp_path / "loops", kicks(1), ["test"]), "test")
    with pytest.raises(ValueError, match="two loops"):
        evaluate_smoothness(instrument, one, tmp_path / "a", paths=1, points=5, seed=0)
    assert not (tmp_path / "a").exists()

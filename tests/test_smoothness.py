"""Smoothness: paths whose measures are known, and the folder of a real (hardly trained) cell."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from techloop.audio.descriptors import UNITS
from techloop.audio.io import read_audio
from techloop.data.datasets import LoopDataset
from techloop.evaluation.interpolation import INTERPOLATIONS, crossfade, summarised
from techloop.evaluation.metrics.paths import (
    EXCESS_PATH_LENGTH,
    MEASURES,
    MONOTONICITY,
    PERCEPTUAL_LARGEST_JUMP,
    PERCEPTUAL_PATH_LENGTH,
    PERCEPTUAL_PATH_RATIO,
    WALK_LENGTH_RATIO,
    closed_length_ratio,
    excess_path_length,
    jerk,
    largest_jump,
    monotonicity,
    path_length_ratio,
    perceptual_path,
)
from techloop.evaluation.result import read_arrays
from techloop.evaluation.smoothness import evaluate_smoothness, walk_metrics
from techloop.grid import Grid
from techloop.instrument import Instrument
from techloop.metric import Metric, flat_metrics
from techloop.models.audio_vae import AudioVAE
from techloop.models.latent_vae import LatentVAE
from techloop.reporting.exhibits.smoothness import exhibits
from tests.helpers.datasets import GRID, contents, kicks, write_loops

# The excess has the unit of the values; the others have none.
RATIOS = [metric for metric in MEASURES if metric is not EXCESS_PATH_LENGTH]
EACH_MEASURE = pytest.mark.parametrize("metric", MEASURES, ids=lambda metric: metric.name)
OWN = Metric("own", "own")
LINE = np.linspace(-3.0, 5.0, 9)
DETOUR = np.array([0.0, 2.0, 1.0, 3.0])


def test_a_straight_line_is_perfect():
    assert path_length_ratio(LINE) == pytest.approx(1)
    assert excess_path_length(LINE) == pytest.approx(0)
    assert monotonicity(LINE) == pytest.approx(1)
    assert largest_jump(LINE) == pytest.approx(1 / 8)
    assert jerk(LINE) == pytest.approx(0, abs=1e-9)


def test_a_detour_by_hand():
    assert path_length_ratio(DETOUR) == pytest.approx(5 / 3)
    assert excess_path_length(DETOUR) == pytest.approx(2)
    assert excess_path_length(np.array([1.0, 4.0, 1.0])) == pytest.approx(6)
    assert monotonicity(DETOUR) == pytest.approx(0.8)
    assert largest_jump(DETOUR) == pytest.approx(2 / 3)
    # Steps 2, -1, 2; their differences -3, 3; the third difference 6, in steps of 1/3.
    assert jerk(DETOUR) == pytest.approx(6 * 27 / 3)


def test_jerk_of_a_cubic_is_its_third_derivative():
    t = np.linspace(0, 1, 20)
    assert jerk(t**3) == pytest.approx(6, rel=1e-6)


@EACH_MEASURE
def test_constant_paths_are_undefined_and_bad_ones_refused(metric):
    measure = MEASURES[metric]
    constant = measure(np.full(5, 2.0))
    assert np.isnan(constant) if metric in RATIOS else constant == 0
    with pytest.raises(ValueError, match="points here"):
        measure(np.array([1.0]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure(np.array([0.0, np.nan, 1.0, 2.0]))


@EACH_MEASURE
@given(st.floats(0.1, 100), st.floats(-100, 100), st.integers(0, 99))
def test_measures_depend_on_neither_unit_nor_direction(metric, scale, shift, seed):
    measure, values = MEASURES[metric], np.random.default_rng(seed).standard_normal(8)
    moved = measure(values * scale + shift) / (1 if metric in RATIOS else scale)
    assert moved == pytest.approx(measure(values), rel=1e-5, abs=1e-9)
    assert measure(-values[::-1]) == pytest.approx(measure(values), rel=1e-5)


def test_more_noise_is_never_smoother():
    noise = np.random.default_rng(0).standard_normal(9)
    noise[[0, -1]] = 0
    steps = [LINE + g * noise for g in (0.1, 1, 5, 20)]
    for metric, measure in MEASURES.items():
        values = [measure(step) for step in steps]
        assert values == sorted(values, reverse=metric is MONOTONICITY), metric.name
        assert metric.better == ("higher" if metric is MONOTONICITY else "lower")
        assert values[0] != pytest.approx(values[-1])


def test_closed_curves():
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    assert closed_length_ratio(np.sin(angle)) == pytest.approx(1)
    assert closed_length_ratio(np.sin(3 * angle + 0.1)) == pytest.approx(3, rel=0.06)
    assert closed_length_ratio(np.roll(np.sin(angle), 5)) == pytest.approx(1)
    assert np.isnan(closed_length_ratio(np.zeros(4)))
    with pytest.raises(ValueError, match="points here"):
        closed_length_ratio(np.zeros(1))


def test_a_perceptual_path_by_hand():
    levels = np.zeros((4, 2, 3))
    levels[1:] += np.array([2.0, 1.0, 3.0])[:, None, None]  # steps of 2, 1 and 2 dB
    path = perceptual_path(levels)
    assert path[PERCEPTUAL_PATH_LENGTH] == pytest.approx(5)
    assert path[PERCEPTUAL_PATH_RATIO] == pytest.approx(5 / 3)
    assert path[PERCEPTUAL_LARGEST_JUMP] == pytest.approx(2 / 3)
    closed = perceptual_path(levels[[0, 1, 0]])
    assert closed[PERCEPTUAL_PATH_LENGTH] == pytest.approx(4)
    assert np.isnan([closed[PERCEPTUAL_PATH_RATIO], closed[PERCEPTUAL_LARGEST_JUMP]]).all()
    with pytest.raises(ValueError, match="two loops"):
        perceptual_path(levels[:1])
    with pytest.raises(ValueError, match="finite"):
        perceptual_path(levels * np.nan)


def test_a_perceptual_path_is_never_shorter_than_straight_and_longer_with_noise():
    rng = np.random.default_rng(0)
    line = np.linspace(0, 1, 6)[:, None, None] * rng.standard_normal((4, 5)) * 20
    noise = rng.standard_normal(line.shape)
    noise[[0, -1]] = 0
    paths = [perceptual_path(line + g * noise) for g in (0, 0.1, 1, 10)]
    for metric in (PERCEPTUAL_PATH_RATIO, PERCEPTUAL_PATH_LENGTH, PERCEPTUAL_LARGEST_JUMP):
        values = [path[metric] for path in paths]
        assert values == sorted(values)
    assert paths[0][PERCEPTUAL_PATH_RATIO] == pytest.approx(1)
    assert paths[0][PERCEPTUAL_LARGEST_JUMP] == pytest.approx(1 / 5)


def test_measures_are_medians_over_paths_that_have_a_value():
    paths = np.stack([LINE, DETOUR.repeat(3)[:9], np.zeros(9)])[..., None].repeat(13, 2)
    table = summarised(paths, [{OWN: v} for v in (1.0, 5.0, 2.0)], 0)
    table = table.set_index(["measure", "descriptor"])
    row = table.loc["path_length_ratio", "loudness_db"]
    assert row["median"] == np.median([1, path_length_ratio(paths[1, :, 0])])
    assert row["low"] <= row["median"] <= row["high"]
    assert table.loc["own", ""].tolist() == [2, 1, 5]
    still = summarised(np.zeros((2, 5, 13)), [{OWN: 1.0}] * 2, 0).set_index("measure")
    assert still.loc["jerk"].drop(columns="descriptor").isna().all(axis=None)
    assert walk_metrics(paths)[WALK_LENGTH_RATIO.of("centroid_hz", "centroid")] >= 1


def test_crossfade_keeps_its_ends_and_is_linear_between():
    a, b = np.random.default_rng(0).standard_normal((2, 40_000)).astype(np.float32)
    mix = crossfade(a, b, 5)
    np.testing.assert_array_equal(mix[0], a)
    np.testing.assert_array_equal(mix[-1], b)
    np.testing.assert_allclose(mix[1], 0.75 * a + 0.25 * b, atol=1e-6)
    # In phase, as kicks are: no louder at the midpoint than at the louder end.
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


@pytest.fixture(scope="module")
def evaluation(instrument, loops):
    return evaluate_smoothness(instrument, loops, paths=2, points=5, seed=0)


def test_the_folder_is_whole_and_the_same_again(tmp_path, instrument, loops, evaluation):
    evaluation.write(tmp_path / "a", GRID)
    runs = {"a": flat_metrics(evaluation.metrics)}
    for name, seed in (("b", 0), ("c", 1)):
        again = evaluate_smoothness(instrument, loops, paths=2, points=5, seed=seed)
        again.write(tmp_path / name, GRID)
        runs[name] = flat_metrics(again.metrics)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert runs["a"] != runs["c"]
    a = runs["a"]
    for baseline in ("", "spherical_", "audio_vae_", "crossfade_", "shuffled_"):
        for metric in MEASURES:
            assert f"{baseline}{metric.name}_loudness_db" in a
        assert a[f"{baseline}perceptual_path_ratio"] >= 1 - 1e-6
        assert 0 <= a[f"{baseline}midpoint_nearest_ratio"] <= 1
    # Shuffling a path makes it longer but leaves it where it is.
    assert a["shuffled_perceptual_path_length_db"] > a["perceptual_path_length_db"]
    table = pd.read_csv(tmp_path / "a" / "measures.csv", keep_default_na=False, na_values=["nan"])
    assert set(table["descriptor"]) == {"", *UNITS}
    assert tuple(dict.fromkeys(table["interpolation"])) == INTERPOLATIONS
    assert len(table) == 5 * (len(MEASURES) * len(UNITS) + 4)
    files = {"metrics.json", "measures.csv", "arrays.npz", "facts.json", "sounds.json"}
    sounds = {f"{name}.wav" for name in ("morph", "crossfade", "walk")}
    assert files | sounds == set(contents(tmp_path / "a"))
    bars = {
        name: read_audio(tmp_path / "a" / f"{name}.wav").samples.size / GRID.samples
        for name in ("morph", "walk")
    }
    assert bars == {"morph": 5, "walk": 10}
    arrays = read_arrays(tmp_path / "a")
    for name in INTERPOLATIONS:
        assert arrays[f"path_{name}"].shape == (2, 5, 2)
        # All of them share their ends.
        np.testing.assert_allclose(
            arrays[f"path_{name}"][:, [0, -1]], arrays["path_latent"][:, [0, -1]], rtol=1e-3
        )
    assert arrays["walks"].shape == (3, 10, 2)


def test_what_the_numbers_mean(evaluation):
    metrics = evaluation.metrics
    neither = {name for name, m in metrics.items() if not m.metric.better}
    assert neither == {"paths", "points", "end_nearest_ratio", "midpoint_nearest_ratio"}
    higher = {name for name, m in metrics.items() if m.metric.better == "higher"}
    assert higher == {"monotonicity_loudness_db", "monotonicity_centroid_hz"}
    units = {name: m.metric.unit for name, m in metrics.items() if m.metric.unit}
    assert units == {
        "excess_path_length_loudness_db": "dB",
        "excess_path_length_centroid_hz": "Hz",
        "perceptual_path_length_db": "dB",
    }
    baselines = {"spherical", "audio_vae", "crossfade", "shuffled"}
    for name in ("perceptual_path_ratio", "midpoint_nearest_ratio", "jerk_centroid_hz"):
        assert metrics[name].baselines.keys() == baselines
    assert metrics["end_nearest_ratio"].baselines == {}


@pytest.mark.parametrize("n", [2, 6])
def test_few_loops_are_enough(tmp_path, instrument, n):
    folder = write_loops(tmp_path / "loops", kicks(n), ["test"] * n)
    evaluation = evaluate_smoothness(
        instrument, LoopDataset(folder, "test"), paths=3, points=4, seed=0
    )
    metrics = flat_metrics(evaluation.metrics)
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    # With two loops, no third one is left that could be near.
    assert all("nearest_ratio" in name for name in undefined)
    assert bool(undefined) == (n == 2)
    assert all(np.isfinite(values).all() for values in evaluation.arrays.values())


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
    evaluate_smoothness(instrument, loops, paths=1, points=4, seed=0).write(tmp_path / "a", grid)
    for name, count in (("morph", 4), ("crossfade", 4), ("walk", 8)):
        sound = read_audio(tmp_path / "a" / f"{name}.wav").samples
        assert sound.size == count * grid.samples, name
    captions = [exhibit.caption for exhibit in exhibits(tmp_path / "a", tmp_path)]
    assert any("4 loops" in caption for caption in captions)
    assert not any(" bar" in caption for caption in captions)


def test_too_few_points_or_loops_are_refused(tmp_path, instrument, loops):
    with pytest.raises(ValueError, match="four points"):
        evaluate_smoothness(instrument, loops, paths=1, points=3, seed=0)
    one = LoopDataset(write_loops(tmp_path / "loops", kicks(1), ["test"]), "test")
    with pytest.raises(ValueError, match="two loops"):
        evaluate_smoothness(instrument, one, paths=1, points=5, seed=0)

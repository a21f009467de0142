"""Generation: closed forms, definitions spelled out as oracles, degradations that must show."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from techloop.artifacts import read_json
from techloop.data.columns import HELD_OUT
from techloop.data.datasets import LoopDataset
from techloop.evaluation.comparison import compared
from techloop.evaluation.features import features
from techloop.evaluation.generation import evaluate_generation
from techloop.evaluation.generation_metrics import GenerationMetrics
from techloop.evaluation.metrics.copies import copied_share, nearest_distance
from techloop.evaluation.metrics.density import (
    COVERAGE,
    DENSITY,
    DIVERSITY_RATIO,
    density_coverage,
    mean_pairwise_distance,
)
from techloop.evaluation.metrics.frechet import (
    FRECHET,
    PrincipalComponents,
    frechet_distance,
    standardised,
)
from techloop.evaluation.metrics.kernel import KERNEL
from techloop.evaluation.metrics.rhythm import chance_on_grid_share, on_grid_share, seam_ratio
from techloop.evaluation.metrics.tempo import tempo_share
from techloop.evaluation.result import Evaluation, read_arrays
from techloop.evaluation.training_distances import FRECHET_LOG_MEL, KERNEL_LOG_MEL
from techloop.grid import Grid
from techloop.instrument import Instrument
from techloop.metric import Metric, flat_metrics, read_metrics
from tests.helpers.datasets import GRID, contents, kicks, write_loops


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_of_a_sample_and_itself_is_zero(rng):
    x = rng.standard_normal((50, 4))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(np.zeros((9, 2)), np.zeros((9, 2))) == 0


def test_frechet_is_the_textbooks_formula(rng):
    x = rng.standard_normal((80, 3)) @ rng.standard_normal((3, 3)) + 1
    y = rng.standard_normal((70, 3)) @ rng.standard_normal((3, 3))
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cx @ cy).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


def test_frechet_of_a_shift_and_of_a_scale_in_closed_form(rng):
    x = rng.standard_normal((60, 2))
    assert frechet_distance(x, x + np.array([3, 4])) == pytest.approx(25)
    assert frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(
        4 * np.trace(np.cov(x, rowvar=False))
    )


def test_frechet_of_too_few_is_refused(rng):
    with pytest.raises(ValueError, match="singular"):
        frechet_distance(rng.standard_normal((4, 4)), rng.standard_normal((50, 4)))


def test_density_and_coverage_are_naeems_sums(rng):
    real, fake, k = rng.standard_normal((30, 3)), rng.standard_normal((20, 3)) * 1.3, 4
    radius = [np.sort(np.linalg.norm(real - r, axis=1))[k] for r in real]
    inside = np.array(
        [[np.linalg.norm(r - f) <= q for f in fake] for r, q in zip(real, radius, strict=True)]
    )
    expected = inside.sum() / (k * len(fake)), inside.any(1).mean()
    assert density_coverage(real, fake, k) == pytest.approx(expected)


def test_density_and_coverage_at_the_extremes(rng):
    real = rng.standard_normal((200, 3))
    density, coverage = density_coverage(real, real, 5)
    assert coverage == 1
    assert density == pytest.approx(1.2, abs=0.01)  # each is in its own ball and in 5 others
    assert density_coverage(real, real + 100, 5) == (0, 0)
    collapsed = np.repeat(real.mean(0)[None], 200, 0)
    density, coverage = density_coverage(real, collapsed, 5)
    assert coverage < 0.2
    fresh = density_coverage(real, rng.standard_normal((200, 3)), 5)
    assert fresh[0] == pytest.approx(1, abs=0.15)
    assert fresh[1] == pytest.approx(1 - 2**-5, abs=0.06)
    with pytest.raises(ValueError, match="neighbours"):
        density_coverage(real[:5], real, 5)


def test_variety_by_hand(rng):
    assert mean_pairwise_distance(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    assert mean_pairwise_distance(np.ones((5, 2))) == 0
    with pytest.raises(ValueError, match="two loops"):
        mean_pairwise_distance(np.zeros((1, 2)))


def test_a_rotated_copy_is_a_copy_and_a_blur_is_not(rng):
    among = rng.normal(-40, 10, (30, 16, 8)).astype(np.float32)
    x = np.stack([np.roll(among[3], 5, 0), among[7], among.mean(0)])
    x = np.concatenate([x, rng.normal(-40, 10, (1, 16, 8)).astype(np.float32)])
    distance_db, ratio = nearest_distance(x, among)
    assert distance_db[:2] == pytest.approx([0, 0], abs=0.05)
    assert ratio[:2] == pytest.approx([0, 0], abs=0.01)
    # The blur is nearer to all than a new loop is, but to none in particular.
    assert distance_db[2] < distance_db[3]
    assert ratio[2] > 0.8
    turned = [np.sqrt(((np.roll(x[3], s, 0) - among) ** 2).mean((1, 2))) for s in range(16)]
    assert distance_db[3] == pytest.approx(np.min(turned), rel=1e-3)


def test_more_noise_on_a_copy_is_never_nearer(rng):
    among, noise = rng.normal(-40, 10, (2, 20, 16, 8)).astype(np.float32)
    noise += 40
    values = [nearest_distance(among[:1] + g * noise[:1], among)[0].item() for g in (0, 0.1, 0.3)]
    assert values == sorted(values)
    with pytest.raises(ValueError, match="patterns"):
        nearest_distance(among, among[:, :8])


def test_the_share_of_copies_is_counted_by_the_nearest_percent_of_real_loops(rng):
    real = rng.uniform(0.5, 1, 200)
    limit = np.quantile(real, 0.01)
    assert copied_share(np.array([0.0, limit - 1e-6, limit, 1.0]), real) == 0.5
    assert copied_share(real, real) == pytest.approx(0.01)
    assert np.isnan(copied_share(real, real[:19]))


def test_on_grid_share():
    onsets = np.zeros((1, GRID.frames), bool)
    assert np.isnan(on_grid_share(onsets, GRID))
    onsets[0, [0, 15, 33, 240 - 3]] = True  # 33 is 3 after 30
    assert on_grid_share(onsets, GRID) == 1
    onsets[0, [8, 22, 37, 52]] = True  # midway between sixteenths
    assert on_grid_share(onsets, GRID) == 0.5
    assert on_grid_share(np.ones((2, GRID.frames), bool), GRID) == chance_on_grid_share(GRID)
    assert chance_on_grid_share(GRID) == pytest.approx(7 / 15)


def test_seam_ratio():
    flux = np.zeros((4, GRID.frames), np.float32)
    flux[:, ::60] = 2
    flux[1, -2] = 10  # a click just before the wrap
    flux[2] = 0
    flux[3, 60:] = 0
    np.testing.assert_array_equal(seam_ratio(flux, GRID), [1, 5, np.nan, np.inf])
    with pytest.raises(ValueError, match="one beat"):
        seam_ratio(flux, Grid(beats_per_bar=1))


def test_the_tempo_of_a_beat_is_recognised_and_another_is_not():
    assert tempo_share(kicks(3), GRID) == 1
    assert tempo_share(np.zeros((2, GRID.samples), np.float32), GRID) == 0
    t = np.arange(GRID.samples) / GRID.samples
    fifths = np.sin(2 * np.pi * 3_000 * t) * ((5 * t) % 1 < 0.1)  # 156 BPM
    assert tempo_share(fifths.astype(np.float32)[None], GRID) == 0


A, B = (
    Metric("a", "first", baselines=("real",)),
    Metric("b", "second", baselines=("real", "chance")),
)


def test_a_metric_has_the_baselines_that_hold_a_value_of_it():
    measured = compared(
        {A: 1.0, B: 2.0}, {"real": {A: 3.0, B: 4.0}, "chance": {B: 5.0}}, {A: (0.0, 2.0)}
    )
    assert flat_metrics(measured) == {
        "a": 1,
        "a_low": 0,
        "a_high": 2,
        "real_a": 3,
        "b": 2,
        "real_b": 4,
        "chance_b": 5,
    }
    with pytest.raises(ValueError, match=r"a declares the baselines.*got also \['white'\]"):
        compared({A: 1.0}, {"white": {A: 1.0}})
    unlabelled = Metric("c", "c", baselines=("unlabelled",))
    with pytest.raises(ValueError, match="BASELINES"):
        compared({unlabelled: 1.0}, {"unlabelled": {unlabelled: 1.0}})
    with pytest.raises(ValueError, match="twice"):
        compared({A: 1.0, Metric("a", "of the same name"): 1.0})


def test_a_further_embedding_has_a_distance_of_its_own(tmp_path):
    folder = write_loops(tmp_path / "loops", kicks(48), ["train"] * 48)
    train = LoopDataset(folder, "train")
    score = GenerationMetrics(train, 48, seed=0, embeddings={"halves": lambda x, _: halves(x)})
    metric = FRECHET.of("halves", "halves")
    assert metric.name == "frechet_halves"
    assert score(train.audio()[:48]).values[metric] == pytest.approx(0, abs=1e-9)
    other = np.random.default_rng(0).normal(0, 0.1, (48, GRID.samples)).astype(np.float32)
    assert score(other).values[metric] > 0.01
    kernel = KERNEL.of("halves", "halves")
    assert score(other).values[kernel] > score(train.audio()).values[kernel]
    low, high = score(other).intervals[kernel]
    assert low < score(other).values[kernel] < high


def test_samples_of_different_sizes_are_scored_and_the_first_loops_count_for_coverage(tmp_path):
    folder = write_loops(tmp_path / "loops", kicks(48), ["train"] * 48)
    score = GenerationMetrics(LoopDataset(folder, "train"), 20, seed=0)
    sample = kicks(60, seed=1)
    few, all_ = score(sample[:20]), score(sample)
    assert len(score.embedding) == 48
    assert len(all_.embedding) == len(all_.nearest) == 60
    for metric in (DENSITY, COVERAGE, DIVERSITY_RATIO):
        assert all_.values[metric] == few.values[metric]
    for metric in (FRECHET_LOG_MEL, KERNEL_LOG_MEL):
        assert all_.values[metric] != few.values[metric]
        assert reach(all_, metric) < reach(few, metric)


def reach(scores, metric):
    low, high = scores.intervals[metric]
    return high - low


def halves(audio):
    """Levels of the halves of loops, as an embedding."""
    return np.log10((audio.reshape(len(audio), 2, -1) ** 2).mean(2) + 1e-6)


def test_principal_components_keep_distances_and_order(rng):
    x = rng.standard_normal((40, 5)) * [5, 1, 9, 0.1, 2]
    points = PrincipalComponents(x, 5)(x)
    assert mean_pairwise_distance(points) == pytest.approx(mean_pairwise_distance(x))
    deviation = points.std(0)
    assert list(deviation) == sorted(deviation, reverse=True)
    with pytest.raises(ValueError, match="principal components"):
        PrincipalComponents(x, 6)


def test_standardised_by_the_reference(rng):
    x = np.stack([rng.normal(5, 3, 50), np.full(50, 7.0)], 1)
    reference, other = standardised(x, x + 3)
    np.testing.assert_allclose(reference.std(0), [1, 0], atol=1e-9)
    np.testing.assert_allclose(other - reference, [[3 / x[:, 0].std(), 3]] * 50)


def test_features_of_four_kicks():
    analysed = features(kicks(3), GRID)
    assert analysed.patterns.shape == (3, 16, 64)
    assert analysed.statistics.shape == (3, 128)
    assert analysed.descriptor("kick_on_beat").tolist() == [1, 1, 1]
    assert on_grid_share(analysed.onsets, GRID) > 0.9
    low = analysed.patterns[:, :, :4].mean(2)
    assert (low[:, ::4] > low[:, 3::4]).all()
    turned = analysed.reordered([2, 0, 1])
    assert all((a[[2, 0, 1]] == b).all() for a, b in zip(analysed, turned, strict=True))


@pytest.fixture(scope="module")
def instrument(latent_vae_folder):
    return Instrument.load(latent_vae_folder)


def evaluated(
    instrument: Instrument, folder: Path, *, examples: int, loops_used: int = 24
) -> Evaluation:
    """What is measured with the loops in a folder."""
    return evaluate_generation(
        instrument,
        LoopDataset(folder, "train"),
        LoopDataset(folder, HELD_OUT),
        loops_used=loops_used,
        examples=examples,
        seed=0,
    )


def test_the_folder_is_whole_and_real_loops_win(tmp_path, instrument):
    splits = ["train"] * 40 + ["validation", "test"] * 12
    folder = write_loops(tmp_path / "loops", kicks(64), splits)
    for name in ("a", "b"):
        evaluation = evaluated(instrument, folder, examples=4, loops_used=30)
        evaluation.write(tmp_path / name, GRID)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    metrics = flat_metrics(evaluation.metrics)
    assert metrics["loops"] == 30
    assert metrics["real_loops"] == 24  # of both splits
    assert metrics["training_loops"] == 40
    for name in ("frechet_log_mel", "kernel_log_mel", "frechet_descriptors"):
        assert metrics[f"real_{name}"] < metrics[f"{name}_low"]
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]
    assert metrics["real_coverage"] > 0.7 > metrics["coverage"]
    assert metrics["real_kick_on_beat"] == 1
    assert metrics["real_seam_ratio"] == pytest.approx(1, abs=0.2)
    assert metrics["real_silent_share"] == 0
    assert metrics["chance_on_grid_share"] == chance_on_grid_share(GRID)
    for prefix in ("real_", "standard_normal_"):
        names = {m.removeprefix(prefix) for m in metrics if m.startswith(prefix)}
        assert {"coverage", "diversity_ratio", "seam_ratio", "tempo_share"} < names <= set(metrics)
    assert metrics["standard_normal_frechet_log_mel"] != metrics["frechet_log_mel"]
    sounds = [f"generated-{i}.wav" for i in (1, 2, 3, 4)]
    assert [sound["file"] for sound in read_json(tmp_path / "a" / "sounds.json")] == sounds
    files = {"metrics.json", "arrays.npz", "facts.json", "sounds.json", *sounds}
    assert files == set(contents(tmp_path / "a"))
    assert flat_metrics(read_metrics(tmp_path / "a" / "metrics.json")) == pytest.approx(
        metrics, nan_ok=True
    )
    arrays = read_arrays(tmp_path / "a")
    assert arrays["levels_db"].shape == (4 + 4 + 4, 64, GRID.frames)
    assert arrays["nearest_real"].shape == (24,)
    for name in ("training", "held_out", "generated"):
        assert arrays[f"plane_{name}"].shape == (24, 2)


def test_what_the_numbers_mean(tmp_path, instrument):
    folder = write_loops(tmp_path / "loops", kicks(8), ["train", "test"] * 4)
    metrics = evaluated(instrument, folder, examples=1).metrics
    better = {name: m.metric.better for name, m in metrics.items() if m.metric.better}
    assert better == {
        "frechet_log_mel": "lower",
        "kernel_log_mel": "lower",
        "frechet_descriptors": "lower",
        "coverage": "higher",
        "on_grid_share": "higher",
        "silent_share": "lower",
        "copied_share": "lower",
    }
    units = {name: m.metric.unit for name, m in metrics.items() if m.metric.unit}
    assert units == {
        "frechet_log_mel": "dB²",
        "nearest_training_db": "dB",
        "loudness_db": "LUFS",
        "onset_density": "1/s",
    }


@pytest.mark.parametrize(
    ("n", "undefined"),
    [
        (2, {"density", "coverage", "frechet_descriptors", "copied_share"}),
        (6, {"frechet_descriptors", "copied_share"}),
    ],
)
def test_few_loops_leave_some_numbers_undefined(tmp_path, instrument, n, undefined):
    folder = write_loops(tmp_path / "loops", kicks(2 * n), ["train", "test"] * n)
    evaluation = evaluated(instrument, folder, examples=5, loops_used=n)
    evaluation.write(tmp_path / "a", GRID)
    metrics = flat_metrics(evaluation.metrics)
    assert metrics["loops"] == n
    # The untrained instrument may have no onset at all, then nothing is on the grid or a seam.
    nan = {
        k.removeprefix("real_").removeprefix("standard_normal_")
        for k, v in metrics.items()
        if not np.isfinite(v)
    }
    assert nan - {"on_grid_share", "seam_ratio"} == undefined
    shown, real = min(5, n), min(4, n)
    assert len(evaluation.arrays["levels_db"]) == shown + 2 * real
    assert evaluation.facts["generated_shown"] == len(evaluation.sounds) == shown
    assert evaluation.facts["real_shown"] == real
    assert {sound.file for sound in evaluation.sounds} < set(contents(tmp_path / "a"))


def test_loops_that_are_all_the_same_have_no_variety_to_compare_with(tmp_path, instrument):
    folder = write_loops(tmp_path / "loops", kicks(1).repeat(4, 0), ["train", "test"] * 2)
    metrics = flat_metrics(evaluated(instrument, folder, examples=1).metrics)
    assert np.isnan(metrics["diversity_ratio"])
    assert metrics["real_nearest_training_db"] == pytest.approx(0, abs=0.05)


def test_one_loop_is_refused(tmp_path, instrument):
    folder = write_loops(tmp_path / "loops", kicks(3), ["train", "test", "train"])
    with pytest.raises(ValueError, match="Prepare more audio"):
        evaluated(instrument, folder, examples=4)

"""Generation: closed forms, definitions spelled out as oracles, degradations that must show."""

import json

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from techloop.data.datasets import LoopDataset
from techloop.evaluation.generation import (
    Judge,
    PrincipalComponents,
    chance_on_grid_share,
    density_coverage,
    evaluate_generation,
    features,
    frechet_distance,
    mean_pairwise_distance,
    nearest_distance,
    on_grid_share,
    over_seeds,
    seam_ratio,
    standardised,
    tempo_share,
)
from techloop.grid import Grid
from techloop.instrument import Instrument
from tests.helpers.datasets import GRID, contents, kicks, write_loops


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_frechet_of_a_sample_and_itself_is_zero(draw):
    x = draw.standard_normal((50, 4))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(np.zeros((9, 2)), np.zeros((9, 2))) == 0


def test_frechet_is_the_textbooks_formula(draw):
    x = draw.standard_normal((80, 3)) @ draw.standard_normal((3, 3)) + 1
    y = draw.standard_normal((70, 3)) @ draw.standard_normal((3, 3))
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cx @ cy).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))


def test_frechet_of_a_shift_and_of_a_scale_in_closed_form(draw):
    x = draw.standard_normal((60, 2))
    assert frechet_distance(x, x + np.array([3, 4])) == pytest.approx(25)
    assert frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(
        4 * np.trace(np.cov(x, rowvar=False))
    )


def test_frechet_of_too_few_is_refused(draw):
    with pytest.raises(ValueError, match="singular"):
        frechet_distance(draw.standard_normal((4, 4)), draw.standard_normal((50, 4)))


def test_density_and_coverage_are_naeems_sums(draw):
    real, fake, k = draw.standard_normal((30, 3)), draw.standard_normal((20, 3)) * 1.3, 4
    radius = [np.sort(np.linalg.norm(real - r, axis=1))[k] for r in real]
    inside = np.array(
        [[np.linalg.norm(r - f) <= q for f in fake] for r, q in zip(real, radius, strict=True)]
    )
    expected = inside.sum() / (k * len(fake)), inside.any(1).mean()
    assert density_coverage(real, fake, k) == pytest.approx(expected)


def test_density_and_coverage_at_the_extremes(draw):
    real = draw.standard_normal((200, 3))
    density, coverage = density_coverage(real, real, 5)
    assert coverage == 1
    assert density == pytest.approx(1.2, abs=0.01)  # each is in its own ball and in 5 others
    assert density_coverage(real, real + 100, 5) == (0, 0)
    collapsed = np.repeat(real.mean(0)[None], 200, 0)
    density, coverage = density_coverage(real, collapsed, 5)
    assert coverage < 0.2
    fresh = density_coverage(real, draw.standard_normal((200, 3)), 5)
    assert fresh[0] == pytest.approx(1, abs=0.15)
    assert fresh[1] == pytest.approx(1 - 2**-5, abs=0.06)
    with pytest.raises(ValueError, match="neighbours"):
        density_coverage(real[:5], real, 5)


def test_variety_by_hand(draw):
    assert mean_pairwise_distance(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2)
    assert mean_pairwise_distance(np.ones((5, 2))) == 0
    with pytest.raises(ValueError, match="two loops"):
        mean_pairwise_distance(np.zeros((1, 2)))


def test_a_rotated_copy_is_a_copy_and_a_blur_is_none(draw):
    among = draw.normal(-40, 10, (30, 16, 8)).astype(np.float32)
    x = np.stack([np.roll(among[3], 5, 0), among[7], among.mean(0)])
    x = np.concatenate([x, draw.normal(-40, 10, (1, 16, 8)).astype(np.float32)])
    distance_db, ratio = nearest_distance(x, among)
    assert distance_db[:2] == pytest.approx([0, 0], abs=0.05)
    assert ratio[:2] == pytest.approx([0, 0], abs=0.01)
    # The blur is nearer to all than a new loop is, but to none in particular.
    assert distance_db[2] < distance_db[3]
    assert ratio[2] > 0.8
    turned = [np.sqrt(((np.roll(x[3], s, 0) - among) ** 2).mean((1, 2))) for s in range(16)]
    assert distance_db[3] == pytest.approx(np.min(turned), rel=1e-3)


def test_more_noise_on_a_copy_is_never_nearer(draw):
    among, noise = draw.normal(-40, 10, (2, 20, 16, 8)).astype(np.float32)
    noise += 40
    values = [nearest_distance(among[:1] + g * noise[:1], among)[0].item() for g in (0, 0.1, 0.3)]
    assert values == sorted(values)
    with pytest.raises(ValueError, match="patterns"):
        nearest_distance(among, among[:, :8])


def test_on_grid_share():
    found = np.zeros((1, GRID.frames), bool)
    assert np.isnan(on_grid_share(found, GRID))
    found[0, [0, 15, 33, 240 - 3]] = True  # 33 is 3 after 30
    assert on_grid_share(found, GRID) == 1
    found[0, [8, 22, 37, 52]] = True  # half-way
    assert on_grid_share(found, GRID) == 0.5
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


def test_the_tempo_of_a_beat_is_heard_and_of_another_is_not():
    assert tempo_share(kicks(3), GRID) == 1
    assert tempo_share(np.zeros((2, GRID.samples), np.float32), GRID) == 0
    t = np.arange(GRID.samples) / GRID.samples
    fifths = np.sin(2 * np.pi * 3_000 * t) * ((5 * t) % 1 < 0.1)  # 156 BPM
    assert tempo_share(fifths.astype(np.float32)[None], GRID) == 0


def test_an_interval_over_seeds_is_students():
    found = over_seeds([{"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 2.0}, {"a": 3.0, "b": np.nan}])
    low, high = scipy.stats.t.interval(0.95, 2, loc=2, scale=scipy.stats.sem([1, 2, 3]))
    assert (found["a"], found["a_low"], found["a_high"]) == pytest.approx((2, low, high))
    assert np.isnan([found["b"], found["b_low"]]).all()
    with pytest.raises(ValueError, match="two or more"):
        over_seeds([{"a": 1.0}])


def test_a_further_embedding_has_a_distance_of_its_own(tmp_path):
    folder = write_loops(tmp_path / "loops", kicks(48), ["train"] * 48)
    train = LoopDataset(folder, "train")
    judge = Judge(train, 48, seed=0, embeddings={"halves": lambda x, _: halves(x)})
    metrics = judge(train.audio()[:48]).metrics
    assert metrics["frechet_halves"] == pytest.approx(0, abs=1e-9)
    other = np.random.default_rng(0).normal(0, 0.1, (48, GRID.samples)).astype(np.float32)
    assert judge(other).metrics["frechet_halves"] > 0.01


def halves(audio):
    """Levels of the halves of loops, as an embedding."""
    return np.log10((audio.reshape(len(audio), 2, -1) ** 2).mean(2) + 1e-6)


def test_principal_components_keep_distances_and_order(draw):
    x = draw.standard_normal((40, 5)) * [5, 1, 9, 0.1, 2]
    points = PrincipalComponents(x, 5)(x)
    assert mean_pairwise_distance(points) == pytest.approx(mean_pairwise_distance(x))
    deviation = points.std(0)
    assert list(deviation) == sorted(deviation, reverse=True)
    with pytest.raises(ValueError, match="principal components"):
        PrincipalComponents(x, 6)


def test_standardised_by_the_reference(draw):
    x = np.stack([draw.normal(5, 3, 50), np.full(50, 7.0)], 1)
    reference, other = standardised(x, x + 3)
    np.testing.assert_allclose(reference.std(0), [1, 0], atol=1e-9)
    np.testing.assert_allclose(other - reference, [[3 / x[:, 0].std(), 3]] * 50)


def test_features_of_four_kicks():
    found = features(kicks(3), GRID)
    assert found["patterns"].shape == (3, 16, 64)
    assert found["statistics"].shape == (3, 128)
    assert found["descriptors"][:, -1].tolist() == [1, 1, 1]
    assert on_grid_share(found["onsets"] > 0, GRID) > 0.9
    low = found["patterns"][:, :, :4].mean(2)
    assert (low[:, ::4] > low[:, 3::4]).all()


@pytest.fixture(scope="module")
def instrument(latent_vae_folder):
    return Instrument.load(latent_vae_folder)


def test_the_folder_is_whole_and_real_loops_win(tmp_path, instrument):
    splits = ["train"] * 40 + ["test"] * 24
    folder = write_loops(tmp_path / "loops", kicks(64), splits)
    train, test = LoopDataset(folder, "train"), LoopDataset(folder, "test")
    for name in ("a", "b"):
        metrics = evaluate_generation(
            instrument, train, test, tmp_path / name, loops_used=24, seeds=2, examples=4, seed=0
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert metrics["loops"] == 24
    for name in ("frechet_log_mel", "frechet_descriptors"):
        assert metrics[f"real_{name}"] < metrics[name]
    assert metrics["real_coverage"] > 0.7 > metrics["coverage"]
    assert metrics["real_kick_on_beat"] == 1
    assert metrics["real_seam_ratio"] == pytest.approx(1, abs=0.2)
    assert metrics["real_silent_share"] == 0
    for prefix in ("real_", "standard_"):
        names = {m.removeprefix(prefix) for m in metrics if m.startswith(prefix)}
        assert {"coverage", "diversity_ratio", "seam_ratio"} < names <= set(metrics)
    assert metrics["standard_frechet_log_mel"] != metrics["frechet_log_mel"]
    items = json.loads((tmp_path / "a" / "items.json").read_text())
    files = {item["file"] for item in items} | {"items.json", "metrics.json"}
    assert files == set(contents(tmp_path / "a"))
    assert [i["file"] for i in items if i["kind"] == "audio"] == [
        f"generated-{i}.wav" for i in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize(
    ("n", "undefined"),
    [
        (2, {"density", "coverage", "frechet_descriptors", "copied_share"}),
        (6, {"frechet_descriptors", "copied_share"}),
    ],
)
def test_few_loops_leave_some_numbers_undefined(tmp_path, instrument, n, undefined):
    folder = write_loops(tmp_path / "loops", kicks(2 * n), ["train", "test"] * n)
    train, test = LoopDataset(folder, "train"), LoopDataset(folder, "test")
    metrics = evaluate_generation(
        instrument, train, test, tmp_path / "a", loops_used=200, seeds=1, examples=5, seed=0
    )
    assert metrics["loops"] == n
    # The untrained instrument may have no onset at all, then nothing is on the grid or a seam.
    nan = {
        k.removeprefix("real_").removeprefix("standard_")
        for k, v in metrics.items()
        if not np.isfinite(v)
    }
    assert nan - {"on_grid_share", "seam_ratio"} == undefined
    items = json.loads((tmp_path / "a" / "items.json").read_text())
    files = {item["file"] for item in items} | {"items.json", "metrics.json"}
    assert files == set(contents(tmp_path / "a"))
    shown, real = min(5, n), min(4, n)
    assert f"first {shown} loops" in items[0]["caption"]
    assert f"after them {real} real" in items[0]["caption"]
    assert len([i for i in items if i["kind"] == "audio"]) == shown


def test_loops_that_are_all_the_same_have_no_variety_to_compare_with(tmp_path, instrument):
    folder = write_loops(tmp_path / "loops", kicks(1).repeat(4, 0), ["train", "test"] * 2)
    metrics = evaluate_generation(
        instrument,
        LoopDataset(folder, "train"),
        LoopDataset(folder, "test"),
        tmp_path / "a",
        loops_used=200,
        seeds=1,
        examples=1,
        seed=0,
    )
    assert np.isnan(metrics["diversity_ratio"])
    assert metrics["real_nearest_training_db"] == pytest.approx(0, abs=0.05)


def test_the_caption_says_where_real_loops_are(tmp_path, instrument, monkeypatch):
    """However many examples there are: what the titles of the panels say."""
    folder = write_loops(tmp_path / "loops", kicks(14), ["train", "test"] * 7)
    seen = {}
    monkeypatch.setattr(
        "techloop.evaluation.generation.spectrogram_grid",
        lambda path, levels, titles, **_: seen.update(titles=titles),
    )
    evaluate_generation(
        instrument,
        LoopDataset(folder, "train"),
        LoopDataset(folder, "test"),
        tmp_path / "a",
        loops_used=200,
        seeds=1,
        examples=6,
        seed=0,
    )
    caption = json.loads((tmp_path / "a" / "items.json").read_text())[0]["caption"]
    assert [title.split()[0] for title in seen["titles"]] == ["generated"] * 6 + ["real"] * 8
    assert "first 6 loops drawn from the prior, none chosen; after them 4 real" in caption


def test_one_loop_is_refused(tmp_path, instrument):
    folder = write_loops(tmp_path / "loops", kicks(3), ["train", "test", "train"])
    train, test = LoopDataset(folder, "train"), LoopDataset(folder, "test")
    with pytest.raises(ValueError, match="Prepare more audio"):
        evaluate_generation(
            instrument, train, test, tmp_path / "a", loops_used=24, seeds=2, examples=4, seed=0
        )
    assert not (tmp_path / "a").exists()

"""Correlation and probes: scipy as oracle, loops as the unit, nothing found where nothing is."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.evaluation.descriptors import (
    benjamini_hochberg,
    dci,
    evaluate_descriptors,
    factor_probe,
    loop_correlation,
    mutual_information_gap,
    ranked,
    readable_order,
    ridge_probe,
)
from tests.helpers.datasets import GRID, contents, kicks, write_latents, write_loops


def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def related():
    """60 loops of 20 frames: two dimensions, and two descriptors that each follow one of them."""
    draw = np.random.default_rng(1)
    x = draw.standard_normal((60, 2, 20))
    return x, np.exp(x + 0.5 * draw.standard_normal(x.shape))


def test_values_are_scipys(related):
    x, y = related
    pearson = loop_correlation(x, y, bootstrap=50, rng=rng())
    spearman = loop_correlation(ranked(x), ranked(y), bootstrap=50, rng=rng())
    for d in range(2):
        for k in range(2):
            a, b = x[:, d].ravel(), y[:, k].ravel()
            assert pearson.value[d, k] == pytest.approx(stats.pearsonr(a, b).statistic)
            assert spearman.value[d, k] == pytest.approx(stats.spearmanr(a, b).statistic)
            assert spearman.low[d, k] < spearman.value[d, k] < spearman.high[d, k]


def test_the_interval_of_independent_frames_is_fishers():
    """With one frame a loop the bootstrap must agree with the textbook's interval."""
    draw = np.random.default_rng(2)
    x = draw.standard_normal((400, 1, 1))
    y = 0.5 * x + draw.standard_normal(x.shape)
    got = loop_correlation(x, y, bootstrap=2000, rng=rng())
    low, high = stats.pearsonr(x.ravel(), y.ravel()).confidence_interval(0.95)
    assert got.low.item() == pytest.approx(low, abs=0.03)
    assert got.high.item() == pytest.approx(high, abs=0.03)


def test_frames_of_one_loop_count_as_one():
    """Repeating each loop's frame a hundred times adds no evidence."""
    draw = np.random.default_rng(3)
    x, y = draw.standard_normal((2, 40, 1, 1))
    once = loop_correlation(x, y, bootstrap=500, rng=rng())
    often = loop_correlation(x.repeat(100, 2), y.repeat(100, 2), bootstrap=500, rng=rng())
    np.testing.assert_allclose([often.low, often.high, often.p], [once.low, once.high, once.p])


def test_p_values_are_uniform_where_nothing_is():
    """Slow curves, constant within a loop: a test on frames would find them all significant."""
    draw = np.random.default_rng(4)
    x = np.repeat(draw.standard_normal((60, 20, 1)), 30, 2)
    y = np.repeat(draw.standard_normal((60, 20, 1)), 30, 2)
    p = loop_correlation(x, y, bootstrap=300, rng=rng()).p
    assert 0.01 < (p < 0.05).mean() < 0.11
    assert not (benjamini_hochberg(p) < 0.05).any()


def test_perfect_and_constant_channels():
    x = np.random.default_rng(5).standard_normal((10, 1, 8))
    y = np.concatenate([3 * x + 1, -x, np.full_like(x, 7)], 1)
    got = loop_correlation(x, y, bootstrap=100, rng=rng())
    assert got.value[0, :2] == pytest.approx([1, -1])
    assert got.p[0, :2] == pytest.approx([0, 0])
    assert np.isnan([got.value[0, 2], got.low[0, 2], got.p[0, 2]]).all()


def test_more_noise_is_never_more_correlated():
    draw = np.random.default_rng(6)
    x, noise = draw.standard_normal((2, 50, 1, 10))
    values = [
        loop_correlation(x, x + g * noise, bootstrap=10, rng=rng()).value.item()
        for g in (0.1, 0.5, 2, 10)
    ]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((1, 1, 4)), np.zeros((1, 1, 4)), "two loops"),
        (np.zeros((5, 1, 4)), np.zeros((5, 1, 3)), "the same in both"),
        (np.full((5, 1, 4), np.nan), np.zeros((5, 1, 4)), "NaN or infinite"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        loop_correlation(x, y, bootstrap=10, rng=rng())


def test_benjamini_hochberg_by_hand():
    p = np.array([[0.01, 0.04], [0.03, np.nan]])
    np.testing.assert_allclose(benjamini_hochberg(p), [[0.03, 0.04], [0.04, np.nan]])
    assert np.isnan(benjamini_hochberg(np.full((1, 2), np.nan))).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg(np.array([1.5]))


def test_probe_of_what_is_linear_of_noise_and_of_a_constant():
    draw = np.random.default_rng(7)
    features, groups = draw.standard_normal((600, 4)), np.repeat(np.arange(30), 20)
    targets = np.stack(
        [features @ [1, -2, 0, 3] + 5, draw.standard_normal(600), np.full(600, 2.0)], 1
    )
    r2 = ridge_probe(features, targets, groups)
    assert r2[0] == pytest.approx(1, abs=1e-3)
    assert r2[1] < 0.05
    assert np.isnan(r2[2])


def test_probe_does_not_learn_loops_by_heart():
    """Features that tell loops apart, a target that is random by loop: nothing to generalise."""
    draw = np.random.default_rng(8)
    groups = np.repeat(np.arange(30), 20)
    features = np.eye(30)[groups]
    target = draw.standard_normal(30)[groups][:, None]
    assert ridge_probe(features, target, groups)[0] < 0.05


def test_probe_of_too_few_loops_is_undefined():
    features = np.random.default_rng(0).standard_normal((20, 1))
    assert np.isnan(ridge_probe(features, features, np.repeat(range(4), 5))).all()
    assert ridge_probe(features, features, np.repeat(range(5), 4))[0] > 0.9


def test_two_loops_have_a_correlation_and_no_interval():
    x = np.random.default_rng(0).standard_normal((2, 1, 50))
    got = loop_correlation(x, -x, bootstrap=10, rng=rng())
    assert got.value.item() == pytest.approx(-1)
    assert np.isnan([got.low, got.high, got.p]).all()


def test_factor_probe_reads_level_and_deviation_and_skips_unknown():
    draw = np.random.default_rng(9)
    factor = draw.uniform(1, 2, 80)
    mu = draw.standard_normal((80, 3, 500))
    mu[:, 1] *= factor[:, None]
    assert factor_probe(mu, factor) > 0.9
    factor[:20] = np.nan
    assert factor_probe(mu, factor) > 0.9
    factor[5:] = np.nan
    assert np.isnan(factor_probe(mu, factor))


def test_disentangled_codes_are_told_from_mixed_ones():
    draw = np.random.default_rng(12)
    factors = draw.uniform(size=(400, 3))
    apart = factors[:, [2, 0, 1]] * [1, -5, 2]
    mixed = apart @ stats.ortho_group.rvs(3, random_state=0)
    assert mutual_information_gap(apart, factors) > 0.7
    assert mutual_information_gap(mixed, factors) < 0.3
    best, worse = dci(apart, factors, 0), dci(mixed, factors, 0)
    assert best["disentanglement"] > 0.9
    assert best["completeness"] > 0.9
    assert best["informativeness"] > 0.95
    assert worse["disentanglement"] < 0.5
    assert worse["completeness"] < 0.5
    nothing = draw.standard_normal((400, 3))
    assert mutual_information_gap(nothing, factors) < 0.05
    assert dci(nothing, factors, 0)["informativeness"] < 0.05


def test_a_gap_by_hand():
    """One code tells a fair coin whole, the other nothing: 1. Both tell it: 0."""
    coin = np.tile([0.0, 1.0], 64)[:, None]
    other = np.tile([0.0, 0.0, 1.0, 1.0], 32)[:, None]
    assert mutual_information_gap(np.hstack([coin, other]), coin) == pytest.approx(1)
    assert mutual_information_gap(np.hstack([coin, 3 - coin]), coin) == pytest.approx(0)


def test_more_noise_is_never_better_disentangled():
    draw = np.random.default_rng(13)
    factors, noise = draw.uniform(size=(2, 300, 3))
    codes = [factors + g * noise for g in (0, 0.5, 2, 10)]
    for measure in (
        lambda c: mutual_information_gap(c, factors),
        lambda c: dci(c, factors, 0)["informativeness"],
        lambda c: dci(c, factors, 0)["disentanglement"],
    ):
        values = [measure(c) for c in codes]
        assert values == sorted(values, reverse=True)


def test_what_cannot_be_disentangled_is_undefined():
    draw = np.random.default_rng(14)
    codes, factors = draw.uniform(size=(2, 100, 3))
    unknown = np.where(np.arange(100)[:, None] < 3, np.nan, factors)
    for c, f in ((codes, unknown), (codes, np.ones_like(factors)), (codes[:, :1], factors)):
        assert np.isnan(mutual_information_gap(c, f))
        assert np.isnan(list(dci(c, f, 0).values())).all()
    assert np.isnan(mutual_information_gap(codes[:20], factors[:20]))
    constant = np.column_stack([codes[:, 0], np.zeros(100)])  # a code may well be
    assert 0 <= mutual_information_gap(constant, factors) <= 1


def test_readable_order_puts_followers_of_one_descriptor_together():
    values = np.array([[0.1, 0.5], [-0.9, 0.2], [0.2, -0.7], [np.nan, np.nan]])
    assert readable_order(values) == [1, 3, 2, 0]


def test_the_folder_finds_the_dimension_that_was_made_to_follow(tmp_path):
    n = 12
    audio = kicks(n)
    draw = np.random.default_rng(10)
    folder = write_loops(tmp_path / "loops", audio, ["test"] * n, hiss=draw.uniform(size=n))
    square = audio.reshape(n, GRID.frames, GRID.hop) ** 2
    mu = draw.standard_normal((n, 3, GRID.frames)).astype(np.float32)
    mu[:, 2] = -np.log10(square.mean(2) + 1e-6)
    latents = LatentDataset(write_latents(tmp_path / "latents", folder, mu), "test")
    loops = LoopDataset(folder, "test")
    for name in ("a", "b"):
        metrics = evaluate_descriptors(
            loops, latents, tmp_path / name, loops_used=200, bootstrap=100, seed=0
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert metrics["spearman_low_db"] < -0.8
    assert metrics["probe_r2_low_db"] > 0.5
    table = pd.read_csv(tmp_path / "a" / "correlations.csv").set_index(["dimension", "descriptor"])
    assert len(table) == 30
    assert table.loc[(2, "low_db"), "q"] < 0.001
    assert table.loc[(2, "low_db"), "spearman"] == pytest.approx(metrics["spearman_low_db"], 1e-5)
    items = json.loads((tmp_path / "a" / "items.json").read_text())
    files = {item["file"] for item in items} | {"items.json", "metrics.json"}
    assert files == set(contents(tmp_path / "a"))
    assert set(pd.read_csv(tmp_path / "a" / "probes.csv")["kind"]) == {"descriptor", "factor"}


@pytest.mark.parametrize("n", [2, 6])
def test_few_loops_leave_some_numbers_undefined(tmp_path, n):
    draw = np.random.default_rng(11)
    folder = write_loops(tmp_path / "loops", kicks(n), ["test"] * n, hiss=draw.uniform(size=n))
    mu = draw.standard_normal((n, 3, GRID.frames)).astype(np.float32)
    metrics = evaluate_descriptors(
        LoopDataset(folder, "test"),
        LatentDataset(write_latents(tmp_path / "latents", folder, mu), "test"),
        tmp_path / "a",
        loops_used=200,
        bootstrap=50,
        seed=0,
    )
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    factors = {"mean_factor_r2", "factor_r2_hiss"}
    factors |= {name for name in metrics if "dci" in name or "mig" in name}
    probes = {name for name in metrics if "probe" in name} | {"significant_share"}
    assert undefined == (factors | probes if n == 2 else factors)
    items = json.loads((tmp_path / "a" / "items.json").read_text())
    files = {item["file"] for item in items} | {"items.json", "metrics.json"}
    assert files == set(contents(tmp_path / "a"))
    assert ("too few" in items[0]["caption"]) == ("too few" in items[1]["caption"]) == (n == 2)


def test_latents_of_other_loops_are_refused(tmp_path):
    six = write_loops(tmp_path / "six", kicks(6), ["test"] * 6)
    five = write_loops(tmp_path / "five", kicks(5), ["test"] * 5)
    mu = np.zeros((5, 1, GRID.frames), np.float32)
    latents = LatentDataset(write_latents(tmp_path / "latents", five, mu), "test")
    with pytest.raises(ValueError, match="indices differ"):
        evaluate_descriptors(
            LoopDataset(six, "test"), latents, tmp_path / "a", loops_used=9, bootstrap=9, seed=0
        )

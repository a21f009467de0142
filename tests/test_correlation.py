"""Correlation: scipy as oracle, loops as the unit, nothing significant where nothing is."""

import numpy as np
import pytest
from scipy import stats

from techloop.evaluation.metrics.correlation import benjamini_hochberg, loop_correlation, ranked


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


def test_p_values_are_uniform_without_correlation():
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


def test_two_loops_have_a_correlation_and_no_interval():
    x = np.random.default_rng(0).standard_normal((2, 1, 50))
    got = loop_correlation(x, -x, bootstrap=10, rng=rng())
    assert got.value.item() == pytest.approx(-1)
    assert np.isnan([got.low, got.high, got.p]).all()

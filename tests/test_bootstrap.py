"""The bootstrap over loops: closed forms, an oracle, pairs, and what has no deviation."""

import numpy as np
import pytest
import scipy.stats

from techloop.evaluation.metrics.bootstrap import (
    Estimate,
    bootstrap,
    mean,
    median,
    paired_difference,
    resampled_counts,
)
from techloop.evaluation.metrics.frechet import FrechetDistance, frechet_distance


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_counts_draw_as_many_loops_with_replacement():
    counts = resampled_counts(30, seed=1, times=2000)
    assert counts.shape == (2000, 30)
    assert (counts.sum(1) == 30).all()
    assert counts.mean(0) == pytest.approx(np.ones(30), abs=0.15)
    assert counts.var() == pytest.approx(1 - 1 / 30, rel=0.05)  # multinomial
    np.testing.assert_array_equal(counts, resampled_counts(30, seed=1, times=2000))
    assert (counts != resampled_counts(30, seed=2, times=2000)).any()


def test_the_deviation_of_a_mean_is_in_closed_form(rng):
    values = rng.standard_normal(200) * 3
    estimate = bootstrap(values, mean, times=4000)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.deviation == pytest.approx(values.std() / np.sqrt(200), rel=0.05)
    low, high = estimate.interval
    assert (low + high) / 2 == pytest.approx(estimate.value)
    assert high - low == pytest.approx(2 * scipy.stats.norm.ppf(0.975) * estimate.deviation)


def test_a_mean_leaves_undefined_loops_out():
    values, counts = np.array([1.0, np.nan, 4.0]), np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
    np.testing.assert_allclose(mean(values, counts), [2.5, 2, np.nan])


def test_a_median_is_that_of_the_repeated_loops(rng):
    values = rng.standard_normal(9)
    counts = np.concatenate([np.ones((1, 9), int), resampled_counts(9, seed=0, times=50)])
    expected = [np.median(np.repeat(values, count)) for count in counts]
    assert median(values, counts) == pytest.approx(expected)
    even = rng.standard_normal(10)
    assert median(even, np.ones((1, 10), int)) == pytest.approx([np.median(even)])
    undefined = np.array([3.0, np.nan, 1.0, np.inf, 8.0])
    assert median(undefined, np.ones((1, 5), int)) == pytest.approx([3])
    assert np.isnan(median(undefined, np.array([[0, 3, 0, 2, 0]]))).all()
    assert np.isnan(median(np.full(3, np.nan), np.ones((2, 3), int))).all()


def test_what_has_no_deviation():
    one = bootstrap(np.array([2.0]), mean)
    assert one.value == 2
    assert np.isnan(one.deviation)
    assert np.isnan(one.interval).all()
    assert bootstrap(np.full(9, 2.0), mean) == Estimate(2, 0)
    assert np.isnan(bootstrap(np.full(9, np.nan), mean)).all()
    with pytest.raises(ValueError, match="got none"):
        bootstrap(np.empty(0), mean)


def test_a_resampled_frechet_distance_is_that_of_the_repeated_loops(rng):
    reference, sample = rng.standard_normal((50, 3)), rng.standard_normal((30, 3)) * 1.4 + 0.3
    distance, counts = FrechetDistance(reference), resampled_counts(30, seed=0, times=5)
    repeated = [
        frechet_distance(reference, sample[np.repeat(np.arange(30), count)]) for count in counts
    ]
    assert distance.resampled(sample, counts) == pytest.approx(repeated)
    estimate = bootstrap(sample, distance.resampled)
    assert estimate.value == pytest.approx(frechet_distance(reference, sample))


def test_the_deviation_of_a_frechet_distance_is_that_of_fresh_samples(rng):
    distance = FrechetDistance(rng.standard_normal((400, 3)))
    fresh = [distance(rng.standard_normal((100, 3)) + 0.5) for _ in range(300)]
    bootstrapped = [
        bootstrap(rng.standard_normal((100, 3)) + 0.5, distance.resampled, seed=s, times=300)
        for s in range(10)
    ]
    assert np.mean([e.deviation for e in bootstrapped]) == pytest.approx(np.std(fresh), rel=0.2)


def test_pairs_tell_what_loops_of_their_own_do_not(rng):
    """A second decoder that is better by 0.1 on each loop, where loops differ by much more."""
    first = rng.standard_normal(100)
    second = first - 0.1 + 0.01 * rng.standard_normal(100)
    difference = paired_difference(first, second)
    assert difference.value == pytest.approx((second - first).mean())
    assert difference.deviation == pytest.approx((second - first).std() / 10, rel=0.1)
    assert difference.interval[1] < 0
    unpaired = paired_difference(first, rng.permutation(second))
    assert unpaired.value == pytest.approx(difference.value)
    assert unpaired.deviation > 50 * difference.deviation


def test_pairs_of_distances(rng):
    distance = FrechetDistance(rng.standard_normal((200, 3)))
    first = rng.standard_normal((80, 3)) + 0.6
    second = first - 0.05
    difference = paired_difference(first, second, distance.resampled)
    assert difference.value == pytest.approx(distance(second) - distance(first))
    assert difference.interval[1] < 0
    assert difference.deviation < bootstrap(first, distance.resampled).deviation / 3
    reverse = paired_difference(second, first, distance.resampled)
    assert (-reverse.value, reverse.deviation) == pytest.approx(difference)
    assert paired_difference(first, first, distance.resampled) == Estimate(0, 0)


def test_a_loop_without_a_value_in_one_of_two_counts_in_neither():
    first, second = np.array([1.0, 5.0, np.nan, 2.0]), np.array([2.0, np.nan, 7.0, 3.0])
    assert paired_difference(first, second).value == pytest.approx(1)


def test_other_loops_are_not_a_pair(rng):
    with pytest.raises(ValueError, match="the same loops twice"):
        paired_difference(np.zeros(3), np.zeros(4))

"""The kernel distance: closed form, the definition as a double loop, invariances, unbiasedness."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from techloop.evaluation.metrics.bootstrap import bootstrap, resampled_counts
from techloop.evaluation.metrics.kernel import KERNEL, KernelDistance, kernel_distance


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def naive(reference, sample):
    """The definition, pair by pair."""
    n, m = len(reference), len(sample)
    apart = [np.linalg.norm(reference[i] - reference[j]) for i in range(n) for j in range(i)]
    bandwidth = np.median(apart)

    def k(x, y):
        return np.exp(-((x - y) ** 2).sum() / (2 * bandwidth**2))

    xx = sum(k(reference[i], reference[j]) for i in range(n) for j in range(n) if i != j)
    yy = sum(k(sample[i], sample[j]) for i in range(m) for j in range(m) if i != j)
    xy = sum(k(x, y) for x in reference for y in sample)
    return 1000 * (xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m))


def test_two_points_each_in_closed_form():
    """Reference 0 and 2: bandwidth 2. Sample 0 and 4."""
    e = np.exp
    expected = 1000 * (e(-1 / 2) + e(-2) - 2 * (1 + e(-2) + e(-1 / 2) + e(-1 / 2)) / 4)
    reference, sample = np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]])
    assert kernel_distance(reference, sample) == pytest.approx(expected)
    assert KernelDistance(reference).bandwidth == 2


def test_it_is_the_definition(rng):
    reference, sample = rng.standard_normal((23, 3)), 1.5 * rng.standard_normal((14, 3)) + 0.4
    assert kernel_distance(reference, sample) == pytest.approx(naive(reference, sample))
    # float32, as features are, makes little of a difference.
    single = kernel_distance(reference.astype(np.float32), sample.astype(np.float32))
    assert single == pytest.approx(naive(reference, sample), rel=1e-4)


def test_samples_of_one_distribution_are_at_zero_on_average_whatever_their_sizes():
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values.append(kernel_distance(rng.standard_normal((40, 4)), rng.standard_normal((15, 4))))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 3 * error
    assert error < 1.5
    assert min(values) < 0 < max(values)  # a biased estimate would never be below 0


def test_it_grows_with_a_shift_and_ends_at_its_bound(rng):
    reference, sample = rng.standard_normal((60, 3)), rng.standard_normal((50, 3))
    distance = KernelDistance(reference)
    values = [distance(sample + shift) for shift in (0, 0.6, 1.2, 3)]
    assert values == sorted(values)
    far = distance(np.full((50, 3), 1e6))  # all at one far place
    assert far == pytest.approx(1000 * (distance.within + 1))
    assert far < 2000


@given(st.floats(0.01, 100), st.floats(-1000, 1000), st.integers(0, 1000))
def test_it_does_not_change_when_both_are_scaled_shifted_rotated_and_shuffled(scale, shift, seed):
    rng = np.random.default_rng(seed)
    reference, sample = rng.standard_normal((12, 3)), rng.standard_normal((9, 3)) + 0.5
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    before = kernel_distance(reference, sample)
    moved = [scale * rng.permutation(points) @ turn + shift for points in (reference, sample)]
    assert kernel_distance(*moved) == pytest.approx(before, rel=1e-4, abs=1e-4)


def test_points_that_are_all_the_same(rng):
    same = np.ones((5, 2))
    assert kernel_distance(same, same) == 0
    assert KernelDistance(same).bandwidth == 1
    assert 0 < kernel_distance(rng.standard_normal((9, 2)), same) < 2000


def test_invalid_points_are_refused(rng):
    points = rng.standard_normal((6, 2))
    with pytest.raises(ValueError, match="two loops or more, the reference has 1"):
        kernel_distance(points[:1], points)
    with pytest.raises(ValueError, match="two loops or more, the sample has 1"):
        kernel_distance(points, points[:1])
    undefined = points.copy()
    undefined[2, 1] = np.nan
    with pytest.raises(ValueError, match="the sample has points that are not finite"):
        kernel_distance(points, undefined)
    with pytest.raises(ValueError, match="in 3 dimensions against 2"):
        kernel_distance(points, rng.standard_normal((6, 3)))


def test_counts_are_repeated_points_without_pairs_of_a_point_with_itself(rng):
    """The oracle: the mean over pairs of draws that are of different points."""
    reference, sample = rng.standard_normal((20, 2)), rng.standard_normal((6, 2)) + 1
    distance, counts = KernelDistance(reference), np.array([[2, 0, 1, 0, 3, 0], [1, 1, 1, 1, 1, 1]])
    rows = np.repeat(np.arange(6), counts[0])
    s2 = 2 * distance.bandwidth**2
    pairs = [
        np.exp(-((sample[i] - sample[j]) ** 2).sum() / s2) for i in rows for j in rows if i != j
    ]
    across = [np.exp(-((sample[i] - x) ** 2).sum() / s2) for i in rows for x in reference]
    expected = 1000 * (distance.within + np.mean(pairs) - 2 * np.mean(across))
    drawn = distance.resampled(sample, counts)
    assert drawn == pytest.approx([expected, distance(sample)])
    alone = distance.resampled(sample, np.array([[6, 0, 0, 0, 0, 0]]))
    assert np.isnan(alone).all()


def test_resamples_are_around_the_value_not_above_it(rng):
    """With pairs of a point with itself they would be higher by 1000 / 50 = 20."""
    reference, sample = rng.standard_normal((200, 4)), rng.standard_normal((50, 4)) + 0.3
    distance = KernelDistance(reference)
    drawn = distance.resampled(sample, resampled_counts(50, seed=0))
    assert abs(drawn.mean() - distance(sample)) < 3 * drawn.std() / np.sqrt(len(drawn)) + 0.5


def test_the_bootstrap_deviation_is_that_of_fresh_samples(rng):
    reference = rng.standard_normal((300, 4))
    distance = KernelDistance(reference)
    fresh = [distance(rng.standard_normal((60, 4)) + 0.5) for _ in range(300)]
    estimates = [
        bootstrap(rng.standard_normal((60, 4)) + 0.5, distance.resampled, seed=s, times=300)
        for s in range(10)
    ]
    assert np.mean([e.deviation for e in estimates]) == pytest.approx(np.std(fresh), rel=0.2)


def test_a_smaller_distance_is_better():
    assert (KERNEL.better, KERNEL.unit) == ("lower", "")

"""Distances to all training loops: their embedding, their sizes, their deviations, and pairs."""

import numpy as np
import pytest

from techloop.data.columns import HELD_OUT
from techloop.data.datasets import LoopDataset
from techloop.evaluation import samples, training_distances
from techloop.evaluation.features import log_mel_statistics
from techloop.evaluation.metrics.frechet import PrincipalComponents, frechet_distance
from techloop.evaluation.metrics.kernel import kernel_distance
from techloop.evaluation.samples import real_loops, smallest_sample
from techloop.evaluation.training_distances import (
    FRECHET_LOG_MEL,
    KERNEL_LOG_MEL,
    TrainingDistances,
    log_mel_distances,
)
from tests.helpers.datasets import GRID, kicks, write_loops


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_both_distances_are_taken_in_the_same_components(rng):
    training, sample = rng.standard_normal((90, 30)), rng.standard_normal((70, 30)) + 0.2
    distances = TrainingDistances(training, 70, name="x", label="x")
    assert distances.components == 16
    project = PrincipalComponents(training, 16)
    estimates = distances(sample)
    frechet, kernel = estimates[distances.frechet], estimates[distances.kernel]
    assert frechet.value == pytest.approx(frechet_distance(project(training), project(sample)))
    assert kernel.value == pytest.approx(kernel_distance(project(training), project(sample)))
    assert (distances.frechet.name, distances.kernel.name) == ("frechet_x", "kernel_x")


@pytest.mark.parametrize(
    ("training", "smallest", "components", "axes"),
    [(90, 70, 16, 16), (90, 20, 5, 5), (20, 90, 5, 5), (90, 2, 1, 2), (2, 2, 1, 1)],
)
def test_small_samples_are_compared_in_fewer_components(rng, training, smallest, components, axes):
    distances = TrainingDistances(rng.standard_normal((training, 30)), smallest, name="x", label="")
    assert distances.components == components
    assert distances.embedding.shape == (training, axes)
    estimates = distances(rng.standard_normal((smallest, 30)))
    assert np.isfinite([estimate.value for estimate in estimates.values()]).all()


def test_larger_samples_scatter_less_and_a_seed_repeats(rng):
    distances = TrainingDistances(rng.standard_normal((300, 8)), 50, name="x", label="")
    few, many = (
        distances(rng.standard_normal((50, 8)) + 1),
        distances(rng.standard_normal((800, 8)) + 1),
    )
    for metric in few:
        assert many[metric].deviation == pytest.approx(few[metric].deviation / 4, rel=0.4)
    sample = rng.standard_normal((50, 8))
    assert distances(sample, seed=3) == distances(sample, seed=3) != distances(sample, seed=4)


def test_a_decoder_that_is_a_little_better_on_the_same_loops_is_recognised(rng):
    distances = TrainingDistances(rng.standard_normal((300, 8)), 60, name="x", label="")
    first = rng.standard_normal((60, 8)) + 0.8
    second = first - 0.03
    for metric, difference in distances.paired(first, second).items():
        alone = distances(first)[metric]
        assert difference.interval[1] < 0
        assert difference.value == pytest.approx(distances(second)[metric].value - alone.value)
        assert difference.deviation < alone.deviation / 3
    with pytest.raises(ValueError, match="the same loops twice"):
        distances.paired(first, second[:30])


def test_all_training_loops_are_the_reference_up_to_a_cap(tmp_path, monkeypatch):
    folder = write_loops(tmp_path / "loops", kicks(60), ["train"] * 55 + ["test"] * 5)
    train = LoopDataset(folder, "train")
    distances = log_mel_distances(train, 5, seed=0)
    assert len(distances.embedding) == 55
    own = distances(log_mel_statistics(train.audio(), GRID))
    assert own[FRECHET_LOG_MEL].value == pytest.approx(0, abs=1e-3)
    assert own[KERNEL_LOG_MEL].value < 0  # unbiased, and a sample is nearer to itself than others
    noise = np.random.default_rng(0).normal(0, 0.1, (9, GRID.samples)).astype(np.float32)
    assert distances(log_mel_statistics(noise, GRID))[FRECHET_LOG_MEL].value > 100
    monkeypatch.setattr(training_distances, "REFERENCE_LOOPS", 12)
    assert len(log_mel_distances(train, 5, seed=0).embedding) == 12


def test_one_training_loop_is_refused(rng):
    with pytest.raises(ValueError, match="1 training loops"):
        TrainingDistances(rng.standard_normal((1, 4)), 9, name="x", label="")


def test_real_loops_are_of_both_splits_each_once(tmp_path, monkeypatch):
    audio = kicks(9)
    folder = write_loops(tmp_path / "loops", audio, ["train", "validation", "test"] * 3)
    held_out, train = LoopDataset(folder, HELD_OUT), LoopDataset(folder, "train")
    loops = real_loops(held_out, seed=0)
    expected = held_out.audio()
    assert len(expected) == 6
    order = [int(np.abs(expected - loop).sum(1).argmin()) for loop in loops]
    assert sorted(order) == list(range(6))
    assert order != sorted(order)
    np.testing.assert_array_equal(loops, expected[order])
    monkeypatch.setattr(samples, "HELD_OUT_LOOPS", 4)
    np.testing.assert_array_equal(real_loops(held_out, seed=0), loops[:4])
    assert smallest_sample(train, held_out, 100) == 3
    assert smallest_sample(train, held_out, 2) == 2
    with pytest.raises(ValueError, match="1 are asked for"):
        smallest_sample(train, held_out, 1)

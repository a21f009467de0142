"""Linear probes: what is linear is read, what is noise, constant or learned by heart is not."""

import numpy as np
import pytest

from techloop.evaluation.metrics.probes import factor_probe, frame_probe, mean_r2, ridge_probe


def test_probe_of_a_linear_target_of_noise_and_of_a_constant():
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
    """Features identify the loop, the target is random per loop: nothing generalises."""
    draw = np.random.default_rng(8)
    groups = np.repeat(np.arange(30), 20)
    features = np.eye(30)[groups]
    target = draw.standard_normal(30)[groups][:, None]
    assert ridge_probe(features, target, groups)[0] < 0.05


def test_probe_of_too_few_loops_is_undefined():
    features = np.random.default_rng(0).standard_normal((20, 1))
    assert np.isnan(ridge_probe(features, features, np.repeat(range(4), 5))).all()
    assert ridge_probe(features, features, np.repeat(range(5), 4))[0] > 0.9


def test_factor_probe_reads_level_and_deviation_and_skips_undefined_values():
    draw = np.random.default_rng(9)
    factor = draw.uniform(1, 2, 80)
    mu = draw.standard_normal((80, 3, 500))
    mu[:, 1] *= factor[:, None]
    assert factor_probe(mu, factor) > 0.9
    factor[:20] = np.nan
    assert factor_probe(mu, factor) > 0.9
    factor[5:] = np.nan
    assert np.isnan(factor_probe(mu, factor))


def test_frame_probe_reads_each_frame_and_keeps_loops_together():
    draw = np.random.default_rng(15)
    mu = draw.standard_normal((10, 2, 30)).astype(np.float32)
    curves = np.stack([mu[:, 0] - 2 * mu[:, 1], mu[:, 1, ::-1]], 1)
    linear, reversed_in_time = frame_probe(mu, curves)
    assert linear == pytest.approx(1, abs=1e-3)
    assert reversed_in_time < 0.2
    by_loop = np.repeat(draw.standard_normal((10, 1, 1)), 30, 2)
    identity = np.repeat(np.eye(10)[:, :, None], 30, 2)
    assert frame_probe(identity, by_loop)[0] < 0.05


def test_mean_r2_counts_negative_as_zero_and_leaves_out_undefined():
    assert mean_r2([0.5, -3.0, np.nan]) == 0.25
    assert np.isnan(mean_r2([np.nan]))

"""Disentanglement: codes that are factors against rotations, noise and degenerate cases."""

import numpy as np
import pytest
from scipy import stats

from techloop.evaluation.metrics.disentanglement import dci, mutual_information_gap


def test_disentangled_codes_score_above_mixed_ones():
    draw = np.random.default_rng(12)
    factors = draw.uniform(size=(400, 3))
    apart = factors[:, [2, 0, 1]] * [1, -5, 2]
    mixed = apart @ stats.ortho_group.rvs(3, random_state=0)
    assert mutual_information_gap(apart, factors) > 0.7
    assert mutual_information_gap(mixed, factors) < 0.3
    best, worse = dci(apart, factors, 0), dci(mixed, factors, 0)
    assert best.disentanglement > 0.9
    assert best.completeness > 0.9
    assert best.informativeness > 0.95
    assert worse.disentanglement < 0.5
    assert worse.completeness < 0.5
    nothing = draw.standard_normal((400, 3))
    assert mutual_information_gap(nothing, factors) < 0.05
    assert dci(nothing, factors, 0).informativeness < 0.05


def test_a_gap_by_hand():
    """One code determines a fair coin, the other says nothing: 1. Both determine it: 0."""
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
        lambda c: dci(c, factors, 0).informativeness,
        lambda c: dci(c, factors, 0).disentanglement,
    ):
        values = [measure(c) for c in codes]
        assert values == sorted(values, reverse=True)


def test_what_cannot_be_disentangled_is_undefined():
    draw = np.random.default_rng(14)
    codes, factors = draw.uniform(size=(2, 100, 3))
    undefined = np.where(np.arange(100)[:, None] < 3, np.nan, factors)
    for c, f in ((codes, undefined), (codes, np.ones_like(factors)), (codes[:, :1], factors)):
        assert np.isnan(mutual_information_gap(c, f))
        assert np.isnan(dci(c, f, 0)).all()
    assert np.isnan(mutual_information_gap(codes[:20], factors[:20]))
    constant = np.column_stack([codes[:, 0], np.zeros(100)])  # a code may be constant
    assert 0 <= mutual_information_gap(constant, factors) <= 1

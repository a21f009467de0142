"""Two decoders on the same loops: differences of all metrics of reconstructions, in pairs."""

import numpy as np
import pytest
import torch

from techloop.evaluation.metrics import tonality
from techloop.evaluation.metrics.bootstrap import Estimate
from techloop.evaluation.metrics.fidelity import (
    FINE_STRUCTURE,
    METRICS,
    MULTI_LOG,
    comparison_features,
    loop_errors,
    summarise,
)
from techloop.evaluation.metrics.tonality import tonality_scores
from techloop.evaluation.paired import paired_errors, paired_tonality
from tests.helpers.datasets import GRID, kicks


@pytest.fixture(scope="module")
def errors():
    """Errors of kicks with more noise, and of the same with less."""
    audio = torch.from_numpy(kicks(12))
    noise = 0.02 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    original = comparison_features(audio, GRID)
    guesses = (comparison_features(audio + gain * noise, GRID) for gain in (1, 0.9))
    return [loop_errors(original, guess) for guess in guesses]


def test_differences_are_those_of_the_metrics_and_more_certain_than_either(errors):
    noisier, cleaner = errors
    differences, values = paired_errors(noisier, cleaner), [summarise(e) for e in errors]
    assert list(differences) == list(METRICS)
    for metric, difference in differences.items():
        expected = values[1][metric.name] - values[0][metric.name]
        assert difference.value == pytest.approx(expected, abs=1e-4, rel=1e-4), metric.name
    assert differences[MULTI_LOG].interval[1] < 0 < differences[FINE_STRUCTURE].interval[0]
    spread = noisier["multi_log"].std() / len(noisier["multi_log"]) ** 0.5
    assert differences[MULTI_LOG].deviation < spread / 3


def test_the_same_decoder_twice_differs_in_nothing(errors):
    assert set(paired_errors(errors[0], errors[0]).values()) == {Estimate(0, 0)}
    values = np.linspace(0, 0.8, 100)
    assert set(paired_tonality(values, values, values).values()) == {Estimate(0, 0)}


def test_differences_of_tonality():
    rng = np.random.default_rng(0)
    original = rng.uniform(0, 0.8, 200)
    first = rng.uniform(0.1, 0.2, 200)  # today's haze, whatever the original
    second = original + 0.05 * rng.standard_normal(200)
    differences = paired_tonality(original, first, second)
    before, after = (tonality_scores(original, values) for values in (first, second))
    assert list(differences) == list(tonality.METRICS)
    for metric, difference in differences.items():
        assert difference.value == pytest.approx(after[metric].value - before[metric].value)
        sign = 1 if metric.better == "higher" else -1
        assert min(sign * end for end in difference.interval) > 0
    # A loop that one decoder leaves silent counts for neither.
    second[0] = np.nan
    silent, without = (
        paired_tonality(original, first, second),
        [values[1:] for values in (original, first, second)],
    )
    assert silent == paired_tonality(*without)


def test_too_few_or_other_loops(errors):
    few = paired_tonality(*np.full((3, 4), 0.5))
    assert np.isnan(list(few.values())).all()
    fewer = {name: values[:5] for name, values in errors[1].items()}
    with pytest.raises(ValueError, match="the same loops twice"):
        paired_errors(errors[0], fewer)

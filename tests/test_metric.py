"""Metrics as data: what a file of them says, and that it is read as it was written."""

import math
from pathlib import Path

import pytest

from techloop.artifacts import read_json, write_json
from techloop.evaluation.result import Evaluation
from techloop.metric import Metric, by_name, flat_metrics, read_metrics, write_metrics

COVERAGE = Metric("coverage", "coverage", better="higher", baselines=("real",))
RATE = Metric("rate", "rate", "nats/loop")


def test_a_file_holds_values_with_their_meaning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    measured = by_name(COVERAGE.measured(0.5, (0.4, 0.6), real=0.9), RATE.measured(math.nan))
    write_metrics(path, measured)
    assert read_json(path) == {
        "coverage": {
            "label": "coverage",
            "unit": "",
            "better": "higher",
            "value": 0.5,
            "interval": [0.4, 0.6],
            "baselines": {"real": 0.9},
        },
        "rate": {"label": "rate", "unit": "nats/loop", "better": "", "value": None},
    }
    again = read_metrics(path)
    assert again["coverage"] == measured["coverage"]
    assert again["rate"].metric == RATE
    assert math.isnan(again["rate"].value)
    numbers = {"coverage": 0.5, "coverage_low": 0.4, "coverage_high": 0.6, "real_coverage": 0.9}
    assert flat_metrics(again) == pytest.approx({**numbers, "rate": math.nan}, nan_ok=True)


def test_a_file_of_an_older_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"coverage": 0.5})
    with pytest.raises(ValueError, match=r"metrics\.json: `coverage` has no label"):
        read_metrics(path)


def test_a_metric_of_a_descriptor_is_named_after_both() -> None:
    jump = Metric("largest_jump", "largest jump", better="lower").of(
        "centroid_hz", "centroid", "Hz"
    )
    assert jump == Metric("largest_jump_centroid_hz", "largest jump, centroid", "Hz", "lower")


def test_unlabelled_or_undeclared_baselines_are_refused() -> None:
    odd = Metric("x", "x", baselines=("unlabelled",)).measured(1.0, unlabelled=2.0)
    with pytest.raises(ValueError, match=r"x: baselines \['unlabelled'\] are not in BASELINES"):
        Evaluation(by_name(odd))
    with pytest.raises(ValueError, match=r"declares the baselines.*got also \['chance'\]"):
        COVERAGE.measured(0.5, chance=0.1)
    with pytest.raises(ValueError, match="twice"):
        by_name(RATE.measured(1.0), RATE.measured(2.0))

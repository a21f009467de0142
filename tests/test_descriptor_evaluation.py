"""Evaluation of descriptors: finds what follows, leaves few loops undefined, refuses a mix."""

import numpy as np
import pandas as pd
import pytest

from techloop.audio.descriptors import FRAME_DESCRIPTORS
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.evaluation.descriptors import evaluate_descriptors
from techloop.metric import flat_metrics, read_metrics
from tests.helpers.datasets import GRID, contents, kicks, write_latents, write_loops


def test_the_dimension_that_follows_a_descriptor_is_found(tmp_path):
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
        evaluation = evaluate_descriptors(loops, latents, loops_used=200, bootstrap=100, seed=0)
        evaluation.write(tmp_path / name, GRID)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    metrics = flat_metrics(evaluation.metrics)
    assert metrics["spearman_low_db"] < -0.8
    assert metrics["probe_r2_low_db"] > 0.5
    table = pd.read_csv(tmp_path / "a" / "correlations.csv").set_index(["dimension", "descriptor"])
    assert len(table) == 30
    assert table.loc[(2, "low_db"), "q"] < 0.001
    assert table.loc[(2, "low_db"), "spearman"] == pytest.approx(metrics["spearman_low_db"], 1e-5)
    files = {"metrics.json", "arrays.npz", "facts.json", "sounds.json"}
    assert set(contents(tmp_path / "a")) == files | {"correlations.csv", "probes.csv"}
    assert set(pd.read_csv(tmp_path / "a" / "probes.csv")["kind"]) == {"descriptor", "factor"}
    low = FRAME_DESCRIPTORS.index("low_db")
    spearman, significant = (evaluation.arrays[name] for name in ("spearman", "significant"))
    assert spearman[2, low] == metrics["spearman_low_db"]
    assert significant[2, low]
    assert significant.mean() == metrics["significant_share"]


def test_only_what_is_better_one_way_has_a_direction(tmp_path):
    evaluation = evaluate_few_loops(tmp_path, 6)
    directions = {name: m.metric.better for name, m in evaluation.metrics.items()}
    undirected = {f"spearman_{name}" for name in FRAME_DESCRIPTORS}
    undirected |= {"loops", "significant_share"}
    assert {name for name, better in directions.items() if not better} == undirected
    assert {directions[name] for name in directions.keys() - undirected} == {"higher"}
    assert {m.metric.unit for m in evaluation.metrics.values()} == {""}
    labels = [m.metric.label for m in evaluation.metrics.values()]
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("n", [2, 6])
def test_few_loops_leave_some_numbers_undefined(tmp_path, n):
    evaluation = evaluate_few_loops(tmp_path, n)
    metrics = flat_metrics(evaluation.metrics)
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    factors = {"mean_factor_r2", "factor_r2_hiss"}
    factors |= {name for name in metrics if "dci" in name or "mig" in name}
    assert len(factors) == 10, "mig and three of dci, each with a rotated baseline"
    probes = {name for name in metrics if "probe" in name} | {"significant_share"}
    assert undefined == (factors | probes if n == 2 else factors)
    evaluation.write(tmp_path / "a", GRID)
    again = flat_metrics(read_metrics(tmp_path / "a" / "metrics.json"))
    assert again == pytest.approx(metrics, nan_ok=True, abs=0)


def test_latents_of_other_loops_are_refused(tmp_path):
    six = write_loops(tmp_path / "six", kicks(6), ["test"] * 6)
    five = write_loops(tmp_path / "five", kicks(5), ["test"] * 5)
    mu = np.zeros((5, 1, GRID.frames), np.float32)
    latents = LatentDataset(write_latents(tmp_path / "latents", five, mu), "test")
    with pytest.raises(ValueError, match="indices differ"):
        evaluate_descriptors(LoopDataset(six, "test"), latents, loops_used=9, bootstrap=9, seed=0)


def evaluate_few_loops(folder, n):
    draw = np.random.default_rng(11)
    loops = write_loops(folder / "loops", kicks(n), ["test"] * n, hiss=draw.uniform(size=n))
    mu = draw.standard_normal((n, 3, GRID.frames)).astype(np.float32)
    return evaluate_descriptors(
        LoopDataset(loops, "test"),
        LatentDataset(write_latents(folder / "latents", loops, mu), "test"),
        loops_used=200,
        bootstrap=50,
        seed=0,
    )

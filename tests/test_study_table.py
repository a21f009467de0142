"""The table and the figure of the study, from runs whose numbers are chosen."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from techloop.artifacts import read_json, write_json
from techloop.evaluation.baselines import BASELINES
from techloop.evaluation.comparison import compared
from techloop.evaluation.interpolation import INTERPOLATIONS
from techloop.evaluation.study import GENERATION_METRICS, SMOOTHNESS_METRICS
from techloop.metric import Metric, as_json
from techloop.reporting.study_table import report_study
from tests.helpers.figures import capture_figures, legend_texts, panel_titles

LENGTHS = (1, 16)


def write_run(folder: Path, objective: str, length: int, seed: int) -> Path:
    """A run with numbers that follow from its name."""
    rng = np.random.default_rng(seed)

    def values(names: list[str], offset: float) -> dict[Metric, float]:
        metrics = [Metric(name, name, baselines=tuple(BASELINES)) for name in names]
        return {metric: offset + float(rng.uniform()) for metric in metrics}

    distances = ["rate_nats_per_loop", "decoded_log_distance", "decoded_linear_distance"]
    smooth = list(SMOOTHNESS_METRICS)
    shares = [metric.name for metric in GENERATION_METRICS]
    metrics = {
        **compared(values(distances, length)),
        **compared(
            values(smooth, length),
            {name: values(smooth[:-1], 2 * length) for name in INTERPOLATIONS[1:]},
        ),
        **compared(values(shares, 0), {k: values(shares, 0) for k in ("standard_normal", "real")}),
    }
    path = folder / f"kl-{objective}-{length}-{seed}.json"
    cell = {"regulariser": "kl", "objective": objective, "length": length, "seed": seed}
    write_json(path, {**cell, "metrics": as_json(metrics)})
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two objectives, two lengths, three seeds."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder, objective, length, seed)
        for objective in ("posterior", "trajectory-mean")
        for length in LENGTHS
        for seed in (0, 1, 2)
    ]


def test_the_table_has_means_and_intervals_over_seeds(runs: list[Path], tmp_path: Path) -> None:
    table = report_study(runs, tmp_path / "a")
    assert len(table) == 4
    every = pd.read_csv(tmp_path / "a" / "runs.csv")
    values = every[(every["objective"] == "posterior") & (every["length"] == 16)]["coverage"]
    row = table[(table["objective"] == "posterior") & (table["length"] == 16)].iloc[0]
    assert row["coverage"] == pytest.approx(values.mean())
    ends = (values.min(), values.max())
    assert (row["coverage_low"], row["coverage_high"]) == pytest.approx(ends)
    total = row["decoded_log_distance"] + row["decoded_linear_distance"]
    assert row["decoded_distance"] == pytest.approx(total)
    report_study(runs[::-1], tmp_path / "b")
    for file in ("study.csv", "runs.csv", "study.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_figure_is_of_the_table(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = capture_figures(monkeypatch)
    table = report_study(runs, tmp_path / "a")
    every = pd.read_csv(tmp_path / "a" / "runs.csv")
    figure = figures["study.png"]
    assert panel_titles(figure) == [
        "What compression costs",
        "Straightness of paths",
        "Midpoints of paths",
        "Loops from the prior",
    ]
    assert legend_texts(figure) == ["kl, posterior", "kl, trajectory-mean"]
    cost, smoothness, midpoint, coverage = figure.axes
    rows = table[table["objective"] == "posterior"].sort_values("length")
    curve = cost.containers[0].lines[0]
    np.testing.assert_allclose(curve.get_xdata(), rows["rate_nats_per_loop"])
    np.testing.assert_allclose(curve.get_ydata(), rows["decoded_distance"])
    assert {text.get_text() for text in cost.texts} == {"1", "16"}
    for ax, name in (
        (smoothness, "perceptual_path_ratio"),
        (midpoint, "midpoint_nearest_ratio"),
        (coverage, "coverage"),
    ):
        np.testing.assert_allclose(ax.containers[0].lines[0].get_ydata(), rows[name])
    labels = [[text.get_text() for text in ax.texts] for ax in (smoothness, midpoint, coverage)]
    assert labels == [
        ["line in the audio VAE", "cross-fade"],
        ["cross-fade", "the ends themselves"],
        ["real loops"],
    ]
    band = every.groupby("length")["audio_vae_perceptual_path_ratio"]
    edges = smoothness.collections[-2].get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(band.quantile(0.25).min())
    assert edges.max() == pytest.approx(band.quantile(0.75).max())


def test_a_study_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`make study` makes them"):
        report_study([], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_run_of_an_older_version_is_named(runs: list[Path], tmp_path: Path) -> None:
    run = read_json(runs[0])
    path = tmp_path / "old.json"
    write_json(path, {key: value for key, value in run.items() if key != "metrics"})
    with pytest.raises(ValueError, match=r"old\.json lacks metrics: .* older version"):
        report_study([path], tmp_path / "a")

"""The page's pictures and tables of descriptors show what the evaluation left."""

import numpy as np
import pytest

from techloop.reporting.exhibits.descriptors import exhibits, readable_order
from tests.helpers.datasets import GRID, contents
from tests.helpers.figures import capture_figures, new_folder, panels, tick_labels
from tests.test_descriptor_evaluation import evaluate_few_loops


def test_readable_order_puts_followers_of_one_descriptor_together():
    values = np.array([[0.1, 0.5], [-0.9, 0.2], [0.2, -0.7], [np.nan, np.nan]])
    assert readable_order(values) == [1, 3, 2, 0]


@pytest.mark.parametrize("n", [2, 6])
def test_two_figures_and_two_tables(tmp_path, n):
    evaluate_few_loops(tmp_path, n).write(tmp_path / "cell", GRID)
    before = contents(tmp_path / "cell")
    shown = exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures"))
    assert contents(tmp_path / "cell") == before
    assert [exhibit.kind for exhibit in shown] == ["figure", "figure", "table", "table"]
    assert all(exhibit.file.is_file() for exhibit in shown)
    assert {exhibit.file.name for exhibit in shown[:2]} == set(contents(tmp_path / "pictures"))
    correlations, probes = (exhibit.caption for exhibit in shown[:2])
    assert ("too few" in correlations) == ("too few" in probes) == (n == 2)
    assert ("false discovery rate of 5 %" in correlations) == (n == 6)
    assert "(5 folds)" in probes
    assert "synthesiser" in probes


def test_pictures_show_the_numbers(tmp_path, monkeypatch):
    figures = capture_figures(monkeypatch)
    evaluation = evaluate_few_loops(tmp_path, 6)
    evaluation.write(tmp_path / "cell", GRID)
    exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures"))
    spearman, significant = evaluation.arrays["spearman"], evaluation.arrays["significant"]
    order = readable_order(spearman)

    (ax,) = panels(figures["correlations.png"])
    np.testing.assert_array_equal(ax.images[0].get_array(), spearman[order])
    descriptors, dimensions = tick_labels(ax)
    assert dimensions == [f"z{d}" for d in order]
    assert descriptors == list(evaluation.facts["descriptors"].values())
    texts = np.array([text.get_text() for text in ax.texts]).reshape(spearman.shape)
    np.testing.assert_array_equal(texts == "·", ~significant[order])

    frames, factors = panels(figures["probes.png"])
    r2 = {
        evaluation.facts["descriptors"][name.removeprefix("probe_r2_")]: m.value
        for name, m in evaluation.metrics.items()
        if name.startswith("probe_r2_")
    }
    names = tick_labels(frames)[1]
    assert sorted(names) == sorted(r2)
    widths = dict(zip(names, (bar.get_width() for bar in frames.patches), strict=True))
    assert widths == pytest.approx({name: max(value, 0) for name, value in r2.items()})
    assert list(widths.values()) == sorted(widths.values()), "the highest on top"
    assert tick_labels(factors)[1] == ["hiss"]
    assert [text.get_text() for text in factors.texts] == ["undefined"]

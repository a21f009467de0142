"""The page's picture of controls shows what the evaluation left."""

from pathlib import Path

import numpy as np
import pytest

from techloop.evaluation.result import Evaluation
from techloop.reporting.exhibits.controls import exhibits
from tests.helpers.datasets import GRID, contents
from tests.helpers.figures import capture_figures, new_folder, panels, tick_labels

LABELS = {"loudness_db": "loudness", "centroid_hz": "centroid", "flatness": "flatness"}


def write_cell(folder: Path, controls: dict[str, str], gains: np.ndarray) -> None:
    facts = {"loops": 96, "probes": 8, "controls": controls, "descriptors": LABELS}
    Evaluation({}, {"relative_gains": gains}, facts).write(folder, GRID)


def test_one_figure_of_the_gains_with_the_own_descriptor_framed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = capture_figures(monkeypatch)
    gains = np.array([[0.1, 1.5, -0.2], [0.9, 0.3, np.nan]])
    write_cell(tmp_path / "cell", {"brighter": "centroid_hz", "louder": "loudness_db"}, gains)
    before = contents(tmp_path / "cell")
    (shown,) = exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures" / "cell"))
    assert contents(tmp_path / "cell") == before
    assert (shown.kind, shown.file) == ("figure", tmp_path / "pictures" / "cell" / "controls.png")
    assert shown.file.is_file()
    assert "96 loops of the prior, measured on 8 others" in shown.caption
    (ax,) = panels(figures["controls.png"])
    np.testing.assert_array_equal(ax.images[0].get_array(), np.nan_to_num(gains))
    assert tick_labels(ax) == (list(LABELS.values()), ["brighter", "louder"])
    assert [patch.get_xy() for patch in ax.patches] == [(0.5, -0.5), (-0.5, 0.5)]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["+0.10", "+1.50", "\N{MINUS SIGN}0.20", "+0.90", "+0.30", "–"]


def test_no_control_no_figure(tmp_path: Path) -> None:
    write_cell(tmp_path / "cell", {}, np.zeros((0, 3)))
    assert exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures")) == []

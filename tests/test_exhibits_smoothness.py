"""Exhibits of smoothness: what the pictures show and what the captions say of them."""

from pathlib import Path

import numpy as np
import pytest

from techloop.evaluation.interpolation import INTERPOLATIONS
from techloop.evaluation.result import Evaluation, Sound
from techloop.reporting.exhibits.smoothness import LABELS, exhibits
from tests.helpers.datasets import GRID, contents
from tests.helpers.figures import capture_figures, legend_texts, new_folder, panel_titles

RNG = np.random.default_rng(0)
PATHS, POINTS = 5, 7
ARRAYS = {
    **{f"path_{name}": RNG.uniform(size=(PATHS, POINTS, 2)) for name in INTERPOLATIONS},
    "walks": RNG.uniform(size=(3, 14, 2)),
    "levels_db": RNG.uniform(-80, -10, (2, 64, 70)).astype(np.float32),
}
FACTS = {
    "paths": PATHS,
    "points": POINTS,
    "walk_loops": 14,
    "interpolations": list(INTERPOLATIONS),
    "descriptors": [{"label": "loudness", "unit": "LUFS"}, {"label": "centroid", "unit": "Hz"}],
    "mel_range_hz": (30.0, 8000.0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an evaluation of five paths left."""
    silence = np.zeros(GRID.samples, np.float32)
    sounds = tuple(Sound(f"{name}.wav", silence) for name in ("morph", "crossfade", "walk"))
    place = tmp_path_factory.mktemp("smoothness") / "cell"
    Evaluation({}, ARRAYS, FACTS, sounds=sounds).write(place, GRID)
    return place


def test_the_exhibits_are_complete_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    shown = exhibits(folder, new_folder(tmp_path / "a"))
    assert [(e.kind, e.file.name, e.loop) for e in shown] == [
        ("figure", "paths.png", False),
        ("figure", "morph.png", False),
        ("figure", "walks.png", False),
        ("audio", "morph.wav", False),
        ("audio", "crossfade.wav", False),
        ("audio", "walk.wav", True),
    ]
    assert all(exhibit.file.is_file() for exhibit in shown)
    captions = {exhibit.file.name: exhibit.caption for exhibit in shown}
    assert "the first of 5 random pairs" in captions["paths.png"]
    assert "7 loops, decoded as one piece" in captions["morph.wav"]
    assert "14 loops of 3 smooth" in captions["walks.png"]
    exhibits(folder, new_folder(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 3


def test_each_interpolation_has_a_label() -> None:
    assert tuple(LABELS) == INTERPOLATIONS


def test_the_pictures_are_of_the_arrays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = capture_figures(monkeypatch)
    exhibits(folder, tmp_path)
    paths = figures["paths.png"]
    assert panel_titles(paths) == ["pair 1", "pair 2", "pair 3", "pair 4"]
    assert legend_texts(paths) == list(LABELS.values())
    for row, label in enumerate(("loudness (LUFS)", "centroid (Hz)")):
        assert paths.axes[4 * row].get_ylabel() == label
        for pair in range(4):
            lines = paths.axes[4 * row + pair].lines
            for line, name in zip(lines, INTERPOLATIONS, strict=True):
                expected = ARRAYS[f"path_{name}"][pair, :, row]
                np.testing.assert_array_equal(line.get_ydata(), expected)
    for row, ax in enumerate(figures["walks.png"].axes):
        for walk, line in enumerate(ax.lines):
            expected = ARRAYS["walks"][walk, :, row]
            np.testing.assert_array_equal(line.get_ydata(), [*expected, expected[0]])
    morph = figures["morph.png"]
    assert "latent space" in panel_titles(morph)[0]
    assert "cross-fade" in panel_titles(morph)[1]
    panels = np.stack([ax.images[0].get_array() for ax in morph.axes[:2]])
    np.testing.assert_array_equal(panels, ARRAYS["levels_db"])

"""Exhibits of generation: what the pictures show and what the captions say of them."""

from pathlib import Path

import numpy as np
import pytest

from techloop.evaluation.result import Evaluation, Sound
from techloop.reporting.exhibits.generation import exhibits
from tests.helpers.datasets import GRID, contents
from tests.helpers.figures import capture_figures, legend_texts, new_folder, panel_titles

RNG = np.random.default_rng(0)
ARRAYS = {
    "levels_db": RNG.uniform(-80, -10, (6 + 4 + 4, 64, 60)).astype(np.float32),
    "nearest_generated": RNG.uniform(0.3, 0.9, 20),
    "nearest_real": RNG.uniform(0.4, 1, 20),
    "plane_training": RNG.standard_normal((20, 2)),
    "plane_held_out": RNG.standard_normal((20, 2)) + 1,
    "plane_generated": RNG.standard_normal((20, 2)) + 2,
}
FACTS = {
    "loops": 20,
    "real_loops": 18,
    "training_loops": 55,
    "generated_shown": 6,
    "real_shown": 4,
    "beats": GRID.beats,
    "mel_range_hz": (30.0, 8000.0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an evaluation of six examples left."""
    silence = np.zeros(GRID.samples, np.float32)
    sounds = tuple(Sound(f"generated-{i}.wav", silence, {"number": i}) for i in range(1, 7))
    place = tmp_path_factory.mktemp("generation") / "cell"
    Evaluation({}, ARRAYS, FACTS, sounds=sounds).write(place, GRID)
    return place


def test_the_exhibits_are_complete_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    shown = exhibits(folder, new_folder(tmp_path / "a"))
    assert [(e.kind, e.file.name, e.loop) for e in shown] == [
        ("figure", "spectrograms.png", False),
        ("figure", "nearest.png", False),
        ("figure", "plane.png", False),
        *(("audio", f"generated-{i}.wav", True) for i in range(1, 7)),
    ]
    assert all(exhibit.file.is_file() for exhibit in shown)
    assert shown[3].title == "Generated 1"
    exhibits(folder, new_folder(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 3


def test_the_caption_says_where_real_loops_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many examples there are: as the titles of the panels say."""
    figures = capture_figures(monkeypatch)
    spectrograms, nearest, _ = exhibits(folder, tmp_path)[:3]
    titles = panel_titles(figures["spectrograms.png"])
    assert [title.split()[0] for title in titles] == ["generated"] * 6 + ["real"] * 8
    assert titles[-4:] == [f"real {i}, through both VAEs" for i in (1, 2, 3, 4)]
    assert "first 6 loops drawn from the prior, none chosen; after them 4 real" in (
        spectrograms.caption
    )
    assert "20 generated and 18 real held-out loops to the nearest of 55" in nearest.caption


def test_the_pictures_are_of_the_arrays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = capture_figures(monkeypatch)
    exhibits(folder, tmp_path)
    panels = [ax.images[0].get_array() for ax in figures["spectrograms.png"].axes[:14]]
    np.testing.assert_array_equal(np.stack(panels), ARRAYS["levels_db"])
    (plane,) = figures["plane.png"].axes
    for points, name in zip(plane.collections, ("training", "held_out", "generated"), strict=True):
        np.testing.assert_allclose(points.get_offsets(), ARRAYS[f"plane_{name}"])
        assert points.get_label() == name.replace("_", " ")
    (histogram,) = figures["nearest.png"].axes
    medians = sorted(line.get_xdata()[0] for line in histogram.lines)
    expected = [np.median(ARRAYS[f"nearest_{name}"]) for name in ("generated", "real")]
    assert medians == pytest.approx(sorted(expected))
    assert [text.split(" (")[0] for text in legend_texts(histogram)] == [
        "generated",
        "real held-out loops",
    ]


def test_a_damaged_folder_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing or damaged"):
        exhibits(tmp_path, new_folder(tmp_path / "pictures"))

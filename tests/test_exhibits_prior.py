"""Exhibits of the audio VAE alone."""

from pathlib import Path

import numpy as np
import pytest

from techloop.evaluation.result import Evaluation, Sound
from techloop.reporting.exhibits.prior import exhibits
from tests.helpers.datasets import GRID, contents
from tests.helpers.figures import capture_figures, new_folder, panel_titles

LEVELS = np.random.default_rng(0).uniform(-80, -10, (4, 64, 60)).astype(np.float32)
FACTS = {
    "kinds": ["smooth", "white"],
    "examples": 2,
    "beats": GRID.beats,
    "mel_range_hz": (30.0, 8000.0),
}
NAMES = [(kind, number) for kind in ("smooth", "white") for number in (1, 2)]


def test_smooth_and_white_frames_are_shown_and_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = np.zeros(GRID.samples, np.float32)
    sounds = tuple(Sound(f"{k}-{i}.wav", silence, {"kind": k, "number": i}) for k, i in NAMES)
    folder = tmp_path / "cell"
    Evaluation({}, {"levels_db": LEVELS}, FACTS, sounds=sounds).write(folder, GRID)
    figures = capture_figures(monkeypatch)
    shown = exhibits(folder, new_folder(tmp_path / "a"))
    assert [(e.kind, e.file.name, e.title, e.loop) for e in shown] == [
        ("figure", "spectrograms.png", "The audio VAE alone", False),
        *(("audio", f"{k}-{i}.wav", f"{k.capitalize()} {i}", True) for k, i in NAMES),
    ]
    assert all(exhibit.file.is_file() for exhibit in shown)
    assert "first 2 loops drawn of each kind" in shown[0].caption
    assert "white frames" in shown[-1].caption
    spectrograms = figures["spectrograms.png"]
    assert panel_titles(spectrograms) == [f"{kind} frames {number}" for kind, number in NAMES]
    panels = np.stack([ax.images[0].get_array() for ax in spectrograms.axes[:4]])
    np.testing.assert_array_equal(panels, LEVELS)
    exhibits(folder, new_folder(tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")

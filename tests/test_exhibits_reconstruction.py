"""The page's pictures and sounds of reconstructions show what the evaluation left."""

import numpy as np
import pytest
import torch

from techloop.data.datasets import LoopDataset
from techloop.evaluation.reconstruction import evaluate_reconstruction
from techloop.models.audio_vae import AudioVAE
from techloop.reporting.exhibits.reconstruction import exhibits
from tests.helpers.datasets import GRID, contents, kicks, write_loops
from tests.helpers.figures import capture_figures, new_folder, panels


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reconstruction")
    torch.manual_seed(0)
    vae = AudioVAE(GRID, latent_dim=4, channels=16, blocks=1).eval()
    loops = LoopDataset(write_loops(folder / "loops", kicks(7), ["test"] * 7), "test")
    return evaluate_reconstruction(vae, loops, loops_used=6, examples=3, seed=0)


def test_figures_then_both_sounds_of_each_example(tmp_path, evaluation):
    evaluation.write(tmp_path / "cell", GRID)
    before = contents(tmp_path / "cell")
    shown = exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures" / "cell"))
    assert contents(tmp_path / "cell") == before
    assert [exhibit.kind for exhibit in shown] == ["figure"] * 2 + ["audio"] * 6
    assert all(exhibit.file.is_file() for exhibit in shown)
    assert {e.file.name for e in shown if e.kind == "figure"} == set(
        contents(tmp_path / "pictures" / "cell")
    )
    assert [exhibit.title for exhibit in shown[2:]] == [
        f"{rank}: {kind}"
        for rank in ("Best", "Median", "Worst")
        for kind in ("original", "reconstruction")
    ]
    assert all(exhibit.loop for exhibit in shown[2:])
    assert "3 of 6 test loops" in shown[0].caption
    names = {exhibit.caption.split(",")[0] for exhibit in shown[2:]}
    assert names == {sound.facts["name"] for sound in evaluation.sounds}


def test_pictures_show_the_arrays(tmp_path, evaluation, monkeypatch):
    figures = capture_figures(monkeypatch)
    evaluation.write(tmp_path / "cell", GRID)
    exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures"))
    arrays = evaluation.arrays

    shown = panels(figures["spectrograms.png"])
    levels = [np.asarray(ax.images[0].get_array()) for ax in shown]
    np.testing.assert_array_equal(levels[:3], arrays["original_db"])
    np.testing.assert_array_equal(levels[3:], arrays["reconstruction_db"])
    errors = [sound.facts["log_mel_l1_db"] for sound in evaluation.sounds[::2]]
    assert [ax.get_title() for ax in shown[:3]] == [
        f"{rank} ({error:.1f} dB)"
        for rank, error in zip(("best", "median", "worst"), errors, strict=True)
    ]
    assert shown[3].get_ylabel().startswith("reconstruction")

    (ax,) = panels(figures["bands.png"])
    sources = {
        "reconstruction": "reconstruction",
        "another loop": "other_loop",
        "noise of the average spectrum": "noise",
    }
    assert [line.get_label() for line in ax.lines] == list(sources)
    for line in ax.lines:
        np.testing.assert_array_equal(
            line.get_ydata(), arrays[f"band_error_{sources[line.get_label()]}_db"]
        )

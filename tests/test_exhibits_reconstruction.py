"""The page's pictures and sounds of reconstructions show what the evaluation left."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from techloop.data.columns import HELD_OUT
from techloop.data.datasets import LoopDataset
from techloop.evaluation.metrics.tonality import TONALITY_CORRELATION
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
    splits = ["train"] * 4 + ["validation"] * 2 + ["test"] * 6
    loops = write_loops(folder / "loops", kicks(12), splits)
    train, held_out = LoopDataset(loops, "train"), LoopDataset(loops, HELD_OUT)
    measured = evaluate_reconstruction(vae, train, held_out, loops_used=8, examples=3, seed=0)
    # Kicks have nothing above 3 kHz.
    tonal = dict(zip(TONALITY, np.random.default_rng(0).uniform(-0.1, 1, (2, 6)), strict=True))
    return replace(measured, arrays={**measured.arrays, **tonal})


TONALITY = ("tonality_original", "tonality_reconstruction")


def test_figures_then_both_sounds_of_each_example(tmp_path, evaluation):
    evaluation.write(tmp_path / "cell", GRID)
    before = contents(tmp_path / "cell")
    shown = exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures" / "cell"))
    assert contents(tmp_path / "cell") == before
    assert [exhibit.kind for exhibit in shown] == ["figure"] * 3 + ["audio"] * 6
    assert all(exhibit.file.is_file() for exhibit in shown)
    assert {e.file.name for e in shown if e.kind == "figure"} == set(
        contents(tmp_path / "pictures" / "cell")
    )
    assert [exhibit.title for exhibit in shown[3:]] == [
        f"{rank}: {kind}"
        for rank in ("Best", "Median", "Worst")
        for kind in ("original", "reconstruction")
    ]
    assert all(exhibit.loop for exhibit in shown[3:])
    assert "3 of 6 test loops" in shown[0].caption
    names = {exhibit.caption.split(",")[0].rstrip(".") for exhibit in shown[3:]}
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
    errors = [sound.facts["log_mel_l1_db"] for sound in evaluation.sounds[1::2]]
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

    (ax,) = panels(figures["tonality.png"])
    (points,) = ax.collections
    expected = np.stack([arrays["tonality_original"], arrays["tonality_reconstruction"]], 1)
    np.testing.assert_allclose(np.ma.filled(points.get_offsets(), np.nan), expected)
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_aspect() == 1
    (diagonal,) = ax.lines
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())


def test_the_caption_says_how_many_points_there_are_and_their_correlation(tmp_path, evaluation):
    undefined = evaluation.arrays["tonality_original"].copy()
    undefined[1] = np.nan
    metrics = evaluation.metrics | {
        TONALITY_CORRELATION.name: TONALITY_CORRELATION.measured(0.6126, (0.5, 0.75))
    }
    arrays = {**evaluation.arrays, "tonality_original": undefined}
    replace(evaluation, metrics=metrics, arrays=arrays).write(tmp_path / "cell", GRID)
    shown = exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures"))
    (tonal,) = (exhibit for exhibit in shown if exhibit.file.name == "tonality.png")
    assert "of 5 test loops" in tonal.caption
    assert "The correlation is 0.61." in tonal.caption

"""Evaluation of reconstructions: complete, reproducible, with guesses that know less."""

import numpy as np
import pytest
import torch

from techloop.audio.io import read_audio
from techloop.data.datasets import LoopDataset
from techloop.evaluation.metrics.fidelity import METRICS
from techloop.evaluation.reconstruction import (
    evaluate_reconstruction,
    rank_names,
    spectrum_noise,
)
from techloop.grid import Grid
from techloop.metric import flat_metrics, read_metrics
from techloop.models.audio_vae import AudioVAE
from tests.helpers.datasets import GRID, contents, kicks, write_loops


def test_spectrum_noise_has_the_mean_spectrum_and_nothing_else():
    audio = torch.from_numpy(kicks(4))
    noise = spectrum_noise(audio, np.random.default_rng(0))
    expected = torch.fft.rfft(audio).abs().square().mean(0).sqrt()
    got = torch.fft.rfft(noise).abs()
    torch.testing.assert_close(got[:, 1:-1], expected[1:-1].expand(4, -1), rtol=1e-3, atol=1e-2)
    assert not torch.allclose(noise[0], noise[1], atol=1e-3)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AudioVAE(GRID, latent_dim=4, channels=16, blocks=1).eval()


def test_the_folder_is_complete_and_the_same_again(tmp_path, vae):
    loops = LoopDataset(write_loops(tmp_path / "loops", kicks(7), ["test"] * 7), "test")
    for name in "ab":
        evaluation = evaluate_reconstruction(vae, loops, loops_used=6, examples=3, seed=0)
        evaluation.write(tmp_path / name, GRID)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    metrics = flat_metrics(evaluation.metrics)
    assert metrics["loops"] == 6
    assert metrics["silence_fine_structure"] == 0
    baselines = ("silence", "noise", "other_loop")
    names = {m.name for m in METRICS} | {f"{b}_{m.name}" for b in baselines for m in METRICS}
    assert set(metrics) == {"loops"} | names
    assert flat_metrics(read_metrics(tmp_path / "a" / "metrics.json")) == metrics
    wavs = [
        f"{rank}-{kind}.wav"
        for rank in ("best", "median", "worst")
        for kind in ("original", "reconstruction")
    ]
    assert [sound.file for sound in evaluation.sounds] == wavs
    files = {"metrics.json", "arrays.npz", "facts.json", "sounds.json"}
    assert set(contents(tmp_path / "a")) == files | set(wavs)
    sound = read_audio(tmp_path / "a" / "worst-original.wav")
    assert (sound.samples.shape, sound.rate_hz) == ((GRID.samples,), GRID.sample_rate_hz)
    assert sound.tags.loop == (0, GRID.samples)


def test_arrays_are_levels_of_the_examples_and_errors_per_band(tmp_path, vae):
    loops = LoopDataset(write_loops(tmp_path / "loops", kicks(6), ["test"] * 6), "test")
    evaluation = evaluate_reconstruction(vae, loops, loops_used=6, examples=6, seed=0)
    original, reconstruction = (
        evaluation.arrays[f"{kind}_db"] for kind in ("original", "reconstruction")
    )
    errors_db = np.abs(original - reconstruction).mean((1, 2))
    assert errors_db == pytest.approx(
        [sound.facts["log_mel_l1_db"] for sound in evaluation.sounds[::2]], rel=1e-5
    )
    assert (np.diff(errors_db) >= 0).all(), "from the best to the worst"
    log_mel = evaluation.metrics["log_mel_l1_db"]
    assert errors_db.mean() == pytest.approx(log_mel.value, rel=1e-5)
    for source, value in (("reconstruction", log_mel.value), *log_mel.baselines.items()):
        band_error_db = evaluation.arrays[f"band_error_{source}_db"]
        assert band_error_db.shape == original.shape[1:2]
        assert band_error_db.mean() == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("n", [2, 6])
def test_each_of_few_loops_is_an_example_once(tmp_path, vae, n):
    loops = LoopDataset(write_loops(tmp_path / "loops", kicks(n), ["test"] * n), "test")
    evaluation = evaluate_reconstruction(vae, loops, loops_used=200, examples=8, seed=0)
    metrics = flat_metrics(evaluation.metrics)
    assert metrics["loops"] == n
    assert np.isfinite(list(metrics.values())).all()
    files = [sound.file for sound in evaluation.sounds]
    assert len(files) == len(set(files)) == 2 * n
    originals = [s for s in evaluation.sounds if s.facts["kind"] == "original"]
    assert len({sound.facts["name"] for sound in originals}) == n


@pytest.mark.parametrize("n", range(2, 12))
def test_ranks_have_different_names(n):
    ranks = np.arange(n)
    names = rank_names(ranks, n)
    assert len(set(names)) == n
    assert (names[0], names[-1]) == ("best", "worst")
    assert ("median" in names) == (n > 2)


def test_one_loop_or_another_grid_is_refused(tmp_path, vae):
    loops = LoopDataset(write_loops(tmp_path / "loops", kicks(1), ["test"]), "test")
    with pytest.raises(ValueError, match="takes two"):
        evaluate_reconstruction(vae, loops, loops_used=6, examples=3, seed=0)
    two = LoopDataset(write_loops(tmp_path / "two", kicks(2), ["test"] * 2), "test")
    with pytest.raises(ValueError, match="1 are asked for"):
        evaluate_reconstruction(vae, two, loops_used=1, examples=3, seed=0)
    other = AudioVAE(Grid(bpm=120.0), latent_dim=4, channels=16, blocks=1)
    with pytest.raises(ValueError, match="the loops are on"):
        evaluate_reconstruction(other, two, loops_used=6, examples=3, seed=0)

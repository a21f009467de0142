"""Evaluation of reconstructions: complete, reproducible, with guesses that know less."""

import copy

import numpy as np
import pytest
import torch

from techloop.audio.io import read_audio
from techloop.data.columns import HELD_OUT
from techloop.data.datasets import LoopDataset
from techloop.evaluation.decoded_loops import rank_names, spectrum_noise
from techloop.evaluation.metrics import tonality
from techloop.evaluation.metrics.fidelity import METRICS
from techloop.evaluation.reconstruction import evaluate_reconstruction
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


SPLITS = ["train"] * 10 + ["validation"] * 4 + ["test"] * 6


def evaluated(vae, folder, *, loops_used=10, examples=3):
    """What is measured with the loops in a folder."""
    return evaluate_reconstruction(
        vae,
        LoopDataset(folder, "train"),
        LoopDataset(folder, HELD_OUT),
        loops_used=loops_used,
        examples=examples,
        seed=0,
    )


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AudioVAE(GRID, latent_dim=4, channels=16, blocks=1).eval()


def test_the_folder_is_complete_and_the_same_again(tmp_path, vae):
    folder = write_loops(tmp_path / "loops", kicks(20), SPLITS)
    for name in "ab":
        evaluation = evaluated(vae, folder)
        evaluation.write(tmp_path / name, GRID)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    metrics = flat_metrics(evaluation.metrics)
    assert (metrics["loops"], metrics["held_out_loops"]) == (6, 10)
    assert metrics["silence_fine_structure"] == 0
    baselines = ("silence", "noise", "other_loop")
    names = {m.name for m in METRICS} | {f"{b}_{m.name}" for b in baselines for m in METRICS}
    for name in ("frechet_log_mel", "kernel_log_mel"):
        assert metrics[f"real_{name}"] < metrics[f"{name}_low"] < metrics[name]
        names |= {name, f"{name}_low", f"{name}_high", f"real_{name}"}
    for metric in tonality.METRICS:
        names |= {f"{metric.name}{end}" for end in ("", "_low", "_high")}
        names |= {f"{b}_{metric.name}" for b in metric.baselines if b != "before"}
    assert set(metrics) == {"loops", "held_out_loops"} | names
    written = flat_metrics(read_metrics(tmp_path / "a" / "metrics.json"))
    assert written == pytest.approx(metrics, nan_ok=True)
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
    evaluation = evaluated(vae, write_loops(tmp_path / "loops", kicks(20), SPLITS), examples=6)
    original, reconstruction = (
        evaluation.arrays[f"{kind}_db"] for kind in ("original", "reconstruction")
    )
    errors_db = np.abs(original - reconstruction).mean((1, 2))
    assert errors_db == pytest.approx(
        [sound.facts["log_mel_l1_db"] for sound in evaluation.sounds[1::2]], rel=1e-5
    )
    assert (np.diff(errors_db) >= 0).all(), "from the best to the worst"
    log_mel = evaluation.metrics["log_mel_l1_db"]
    assert errors_db.mean() == pytest.approx(log_mel.value, rel=1e-5)
    for source, value in (("reconstruction", log_mel.value), *log_mel.baselines.items()):
        band_error_db = evaluation.arrays[f"band_error_{source}_db"]
        assert band_error_db.shape == original.shape[1:2]
        assert band_error_db.mean() == pytest.approx(value, rel=1e-4)


def test_tonality_is_that_of_each_test_loop_and_of_its_reconstruction(tmp_path, vae):
    """Loops of hiss and of chords through a decoder that plays both as they are."""
    t, rng = np.arange(GRID.samples) / GRID.sample_rate_hz, np.random.default_rng(0)
    chord = sum(np.sin(2 * np.pi * hz * t + hz) for hz in (3125, 4375, 5625))
    loops = [0.1 * (rng.standard_normal(GRID.samples) if i % 2 else chord) for i in range(24)]
    splits = ["train"] * 4 + ["validation"] * 8 + ["test"] * 12
    folder = write_loops(tmp_path / "loops", np.stack(loops).astype(np.float32), splits)
    perfect = copy.deepcopy(vae)
    perfect.encode = lambda x: (x, x)
    perfect.draw_noise = lambda z, generator: z
    perfect.decode = lambda z, noise: z
    evaluation = evaluated(perfect, folder, loops_used=24)
    original, reconstruction = (
        evaluation.arrays[f"tonality_{kind}"] for kind in ("original", "reconstruction")
    )
    np.testing.assert_array_equal(original, reconstruction)
    assert sorted(original.round()) == [0] * 6 + [1] * 6
    correlation, noisy, tonal = (evaluation.metrics[m.name] for m in tonality.METRICS)
    assert correlation.value == pytest.approx(1)
    assert noisy.value == noisy.baselines["original"] < 0.05
    assert tonal.value == tonal.baselines["original"] > 0.9
    assert max(m.baselines["noise"] for m in (noisy, tonal)) < 0.4
    for name in ("frechet_log_mel", "kernel_log_mel"):
        measured = evaluation.metrics[name]
        assert measured.value == measured.baselines["real"]


@pytest.mark.parametrize("n", [2, 6])
def test_each_of_few_loops_is_an_example_once(tmp_path, vae, n):
    folder = write_loops(tmp_path / "loops", kicks(2 * n), ["train", "test"] * n)
    evaluation = evaluated(vae, folder, loops_used=200, examples=8)
    metrics = flat_metrics(evaluation.metrics)
    assert metrics["loops"] == n
    undefined = {name for name, value in metrics.items() if not np.isfinite(value)}
    assert all("tonality" in name for name in undefined)  # takes five loops
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
    one = write_loops(tmp_path / "one", kicks(4), ["train", "train", "validation", "test"])
    with pytest.raises(ValueError, match=r"takes two or more; 1 of the 2 loops .* and 2 in the"):
        evaluated(vae, one)
    two = write_loops(tmp_path / "two", kicks(4), ["train", "test"] * 2)
    with pytest.raises(ValueError, match="1 of the 1 loops that are asked for"):
        evaluated(vae, two, loops_used=1)
    alone = write_loops(tmp_path / "alone", kicks(4), ["train", "test", "test", "test"])
    with pytest.raises(ValueError, match="and 1 in the training split"):
        evaluated(vae, alone)
    other = AudioVAE(Grid(bpm=120.0), latent_dim=4, channels=16, blocks=1)
    with pytest.raises(ValueError, match="the loops are on"):
        evaluated(other, two)

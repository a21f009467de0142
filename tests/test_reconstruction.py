"""Reconstruction: perfect, degenerate, formulas as oracles, more noise is never better."""

import json

import numpy as np
import pytest
import torch

from techloop.audio.io import read_audio
from techloop.data.datasets import LoopDataset
from techloop.evaluation.reconstruction import (
    evaluate_reconstruction,
    reconstruction_metrics,
    spectrum_noise,
)
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from techloop.training.losses import spectral_distance
from tests.helpers.datasets import GRID, contents, kicks, write_loops

CENTS = (0, 100, 300, 1200)


@pytest.fixture(scope="module")
def audio():
    return torch.from_numpy(kicks(4))


def test_the_same_is_perfect(audio):
    metrics = reconstruction_metrics(audio, audio, GRID)
    assert metrics.pop("fine_structure") == pytest.approx(1)
    assert metrics.pop("chroma_similarity") == pytest.approx(1)
    assert metrics == pytest.approx(dict.fromkeys(metrics, 0), abs=1e-6)


def test_silence_against_loops_and_against_itself(audio):
    silence = torch.zeros_like(audio)
    metrics = reconstruction_metrics(audio, silence, GRID)
    assert metrics["multi_lin"] == pytest.approx(1, abs=1e-4)
    assert metrics["fine_structure"] == metrics["chroma_similarity"] == 0
    nothing = reconstruction_metrics(silence, silence, GRID)
    assert nothing["spectral_distance"] == nothing["multi_lin"] == nothing["fine_structure"] == 0
    assert np.isnan([nothing["error_centroid_hz"], nothing["chroma_similarity"]]).all()


def test_the_brief_formula_of_a_gain_is_its_logarithm(audio):
    noisy = audio + 0.1 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    metrics = reconstruction_metrics(noisy, noisy * 0.5, GRID)
    assert metrics["spectral_distance"] == pytest.approx(np.log(2), abs=0.001)
    assert metrics["error_loudness_db"] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert metrics["error_centroid_hz"] == pytest.approx(0, abs=0.5)


def test_distances_are_those_of_losses(audio):
    other = audio.roll(1, 0)
    metrics = reconstruction_metrics(audio, other, GRID)
    per_loop = [spectral_distance(a[None], b[None]) for a, b in zip(audio, other, strict=True)]
    assert metrics["multi_log"] == pytest.approx(float(np.mean([p[0] for p in per_loop])), 1e-4)
    assert metrics["multi_lin"] == pytest.approx(float(np.mean([p[1] for p in per_loop])), 1e-4)
    brief = spectral_distance(audio, other, [2048])[0]
    assert metrics["spectral_distance"] == pytest.approx(float(brief), 1e-4)


def test_fine_structure_is_the_correlation_of_details(audio):
    """The definition, in NumPy: running mean over 31 bins, bins 5 to 499."""
    other = audio + 0.05 * torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))

    def detail(x):
        padded = np.concatenate([x[:, -1024:], x, x[:, :1024]], 1)
        frames = np.lib.stride_tricks.sliding_window_view(padded, 2048, 1)[:, ::512][:, :60]
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
        log = np.log(np.abs(np.fft.rfft(frames * window)) + 1e-3)
        smooth = np.stack(
            [log[..., max(k - 15, 0) : k + 16].mean(-1) for k in range(log.shape[-1])], -1
        )
        return (log - smooth)[..., 5:500].ravel()

    a, b = detail(audio.double().numpy()), detail(other.double().numpy())
    expected = a @ b / np.sqrt((a @ a) * (b @ b))
    assert reconstruction_metrics(audio, other, GRID)["fine_structure"] == pytest.approx(
        expected, abs=2e-3
    )


def test_chroma_knows_a_semitone_from_an_octave():
    t = torch.arange(GRID.samples) / GRID.sample_rate_hz
    tone = {cents: 0.3 * torch.sin(2 * torch.pi * 220 * 2 ** (cents / 1200) * t) for cents in CENTS}
    same = {
        cents: reconstruction_metrics(tone[0][None], tone[cents][None], GRID)["chroma_similarity"]
        for cents in CENTS
    }
    assert same[0] == pytest.approx(1)
    assert same[1200] > 0.95
    assert same[100] < 0.3
    assert same[300] < 0.05
    # It does not know loudness.
    quiet = reconstruction_metrics(tone[0][None], 0.01 * tone[0][None], GRID)
    assert quiet["chroma_similarity"] == pytest.approx(1, abs=1e-3)


def test_more_noise_is_never_better(audio):
    noise = torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    steps = [reconstruction_metrics(audio, audio + g * noise, GRID) for g in (0.003, 0.03, 0.3)]
    for name in ("spectral_distance", "multi_log", "multi_lin", "log_mel_l1_db", "error_flatness"):
        values = [step[name] for step in steps]
        assert values == sorted(values), name
        assert values[0] < values[-1], name
    for name in ("fine_structure", "chroma_similarity"):
        values = [step[name] for step in steps]
        assert values == sorted(values, reverse=True), name


def test_shapes_that_differ_are_refused(audio):
    with pytest.raises(ValueError, match="against"):
        reconstruction_metrics(audio, audio[:1], GRID)


def test_spectrum_noise_has_the_mean_spectrum_and_nothing_else(audio):
    noise = spectrum_noise(audio, np.random.default_rng(0))
    expected = torch.fft.rfft(audio).abs().square().mean(0).sqrt()
    got = torch.fft.rfft(noise).abs()
    torch.testing.assert_close(got[:, 1:-1], expected[1:-1].expand(4, -1), rtol=1e-3, atol=1e-2)
    assert not torch.allclose(noise[0], noise[1], atol=1e-3)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return AudioVAE(GRID, latent_dim=4, channels=16, blocks=1).eval()


def test_the_folder_is_whole_and_the_same_again(tmp_path, vae):
    loops = LoopDataset(write_loops(tmp_path / "loops", kicks(7), ["test"] * 7), "test")
    metrics = evaluate_reconstruction(vae, loops, tmp_path / "a", loops_used=6, examples=3, seed=0)
    again = evaluate_reconstruction(vae, loops, tmp_path / "b", loops_used=6, examples=3, seed=0)
    assert metrics == again
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert metrics["loops"] == 6
    assert metrics["silence_fine_structure"] == 0
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == metrics
    items = json.loads((tmp_path / "a" / "items.json").read_text())
    files = {item["file"] for item in items} | {"items.json", "metrics.json"}
    assert files == set(contents(tmp_path / "a"))
    assert [i["title"] for i in items if i["kind"] == "audio"] == [
        f"{rank}: {kind}"
        for rank in ("Best", "Median", "Worst")
        for kind in ("original", "reconstruction")
    ]
    sound = read_audio(tmp_path / "a" / "worst-original.wav")
    assert (sound.samples.shape, sound.rate_hz) == ((GRID.samples,), GRID.sample_rate_hz)
    assert sound.tags.loop == (0, GRID.samples)


@pytest.mark.parametrize("n", [2, 6])
def test_of_few_loops_each_is_shown_once(tmp_path, vae, n):
    loops = LoopDataset(write_loops(tmp_path / "loops", kicks(n), ["test"] * n), "test")
    metrics = evaluate_reconstruction(
        vae, loops, tmp_path / "a", loops_used=200, examples=8, seed=0
    )
    assert metrics["loops"] == n
    assert np.isfinite(list(metrics.values())).all()
    items = json.loads((tmp_path / "a" / "items.json").read_text())
    files = [item["file"] for item in items]
    assert len(files) == len(set(files)) == 2 + 2 * n
    assert {*files, "items.json", "metrics.json"} == set(contents(tmp_path / "a"))
    captions = [i["caption"] for i in items if i["file"].endswith("-original.wav")]
    assert len({caption.split(",")[0] for caption in captions}) == n


def test_one_loop_or_another_grid_is_refused(tmp_path, vae):
    loops = LoopDataset(write_loops(tmp_path / "loops", kicks(1), ["test"]), "test")
    with pytest.raises(ValueError, match="takes two"):
        evaluate_reconstruction(vae, loops, tmp_path / "a", loops_used=6, examples=3, seed=0)
    two = LoopDataset(write_loops(tmp_path / "two", kicks(2), ["test"] * 2), "test")
    with pytest.raises(ValueError, match="1 are asked for"):
        evaluate_reconstruction(vae, two, tmp_path / "a", loops_used=1, examples=3, seed=0)
    other = AudioVAE(Grid(bpm=120.0), latent_dim=4, channels=16, blocks=1)
    with pytest.raises(ValueError, match="the loops are on"):
        evaluate_reconstruction(other, two, tmp_path / "a", loops_used=6, examples=3, seed=0)
    assert not (tmp_path / "a").exists()

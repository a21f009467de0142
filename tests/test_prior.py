"""The audio VAE alone: a process with a known spectrum, and the folder of a small model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from techloop.data.columns import HELD_OUT
from techloop.data.datasets import LoopDataset
from techloop.evaluation.prior import evaluate_prior, smooth_frames
from techloop.grid import Grid
from techloop.metric import flat_metrics
from techloop.models.audio_vae import AudioVAE
from tests.helpers.datasets import GRID, contents, kicks, write_loops


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_smooth_frames_have_the_moments_and_the_correlation_of_real_ones() -> None:
    """One dimension has waves of period 60 and any phase around 3, the other noise around -1."""
    t = torch.arange(240)
    phase = torch.rand(500, 1, generator=generator()) * 2 * torch.pi
    waves = 3 + 2**0.5 * torch.sin(2 * torch.pi * t / 60 + phase)
    latents = torch.stack([waves, torch.randn(500, 240, generator=generator()) - 1], 1)
    z = smooth_frames(latents, 2000, generator())
    assert z.mean((0, 2)).tolist() == pytest.approx([3, -1], abs=0.05)
    assert z.std((0, 2)).tolist() == pytest.approx([1, 1], abs=0.05)
    centred = z - z.mean((0, 2))[:, None]
    for lag in (1, 15, 30, 60):
        correlation = (centred * centred.roll(lag, -1)).mean((0, 2)).tolist()
        expected = [np.cos(2 * np.pi * lag / 60), 0]
        assert correlation == pytest.approx(expected, abs=0.06)
    # A new draw: dimensions are independent of one another.
    assert abs(float((centred[:, 0] * centred[:, 1]).mean())) < 0.02
    with pytest.raises(ValueError, match="no loops"):
        smooth_frames(latents[:0], 1, generator())


def test_constant_latents_give_constant_frames() -> None:
    z = smooth_frames(torch.full((4, 2, 60), 5.0), 3, generator())
    torch.testing.assert_close(z, torch.full((3, 2, 60), 5.0))


def test_the_folder_is_whole_and_real_loops_win(audio_vae_folder: Path, tmp_path: Path) -> None:
    folder = write_loops(tmp_path / "loops", kicks(48), ["train", "test"] * 24)
    train, held_out = LoopDataset(folder, "train"), LoopDataset(folder, HELD_OUT)
    vae = AudioVAE.load(audio_vae_folder, GRID)
    for name in ("a", "b"):
        evaluation = evaluate_prior(vae, train, held_out, loops_used=30, examples=2, seed=0)
        evaluation.write(tmp_path / name, GRID)
    metrics = flat_metrics(evaluation.metrics)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert metrics["real_frechet_log_mel"] < metrics["frechet_log_mel"]
    assert metrics["frechet_log_mel"] < metrics["white_frechet_log_mel"]
    assert (metrics["loops"], metrics["real_loops"]) == (30, 24)
    for name in ("frechet_log_mel", "kernel_log_mel", "onset_density"):
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]
    files = {"metrics.json", "arrays.npz", "facts.json", "sounds.json"}
    files |= {f"{kind}-{i}.wav" for kind in ("smooth", "white") for i in (1, 2)}
    assert files == set(contents(tmp_path / "a"))
    assert evaluation.arrays["levels_db"].shape == (4, 64, GRID.frames)
    assert evaluation.metrics["coverage"].baselines.keys() == {"white", "real"}


def test_loops_of_another_grid_are_refused(audio_vae_folder: Path, tmp_path: Path) -> None:
    folder = write_loops(tmp_path / "loops", kicks(4), ["train", "test"] * 2)
    train, test = LoopDataset(folder, "train"), LoopDataset(folder, "test")
    vae = AudioVAE.load(audio_vae_folder, GRID)
    vae.grid = Grid(bars=2)
    with pytest.raises(ValueError, match="the audio VAE on"):
        evaluate_prior(vae, train, test, loops_used=9, examples=1, seed=0)

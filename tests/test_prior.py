"""VAE 1 alone: a process with a known spectrum, and the folder of a (hardly trained) model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from techloop.artifacts import read_json
from techloop.data.datasets import LoopDataset
from techloop.evaluation.prior import evaluate_prior, smooth_frames
from techloop.grid import Grid
from techloop.models.audio_vae import AudioVAE
from tests.helpers.datasets import GRID, contents, kicks, write_loops


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_smooth_frames_have_the_moments_and_the_correlation_of_real_ones() -> None:
    """Of loops that are waves of period 60 of any phase, around 3, and white, around -1."""
    t = torch.arange(240)
    phase = torch.rand(500, 1, generator=draw()) * 2 * torch.pi
    waves = 3 + 2**0.5 * torch.sin(2 * torch.pi * t / 60 + phase)
    known = torch.stack([waves, torch.randn(500, 240, generator=draw()) - 1], 1)
    z = smooth_frames(known, 2000, draw())
    assert z.mean((0, 2)).tolist() == pytest.approx([3, -1], abs=0.05)
    assert z.std((0, 2)).tolist() == pytest.approx([1, 1], abs=0.05)
    centred = z - z.mean((0, 2))[:, None]
    for lag in (1, 15, 30, 60):
        found = (centred * centred.roll(lag, -1)).mean((0, 2)).tolist()
        expected = [np.cos(2 * np.pi * lag / 60), 0]
        assert found == pytest.approx(expected, abs=0.06)
    # A draw, no copy: dimensions are independent of one another and of what is known.
    assert abs(float((centred[:, 0] * centred[:, 1]).mean())) < 0.02
    with pytest.raises(ValueError, match="no loops"):
        smooth_frames(known[:0], 1, draw())


def test_constant_latents_give_constant_frames() -> None:
    z = smooth_frames(torch.full((4, 2, 60), 5.0), 3, draw())
    torch.testing.assert_close(z, torch.full((3, 2, 60), 5.0))


def test_the_folder_is_whole_and_real_loops_win(audio_vae_folder: Path, tmp_path: Path) -> None:
    folder = write_loops(tmp_path / "loops", kicks(48), ["train", "test"] * 24)
    train, test = LoopDataset(folder, "train"), LoopDataset(folder, "test")
    vae = AudioVAE.load(audio_vae_folder, GRID)
    for name in ("a", "b"):
        metrics = evaluate_prior(
            vae, train, test, tmp_path / name, loops_used=200, examples=2, seed=0
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert metrics["real_frechet_log_mel"] < metrics["frechet_log_mel"]
    assert metrics["frechet_log_mel"] < metrics["white_frechet_log_mel"]
    items = read_json(tmp_path / "a" / "items.json")
    files = {item["file"] for item in items} | {"items.json", "metrics.json"}
    assert files == set(contents(tmp_path / "a"))
    assert len([item for item in items if item["kind"] == "audio"]) == 4


def test_loops_of_another_grid_are_refused(audio_vae_folder: Path, tmp_path: Path) -> None:
    folder = write_loops(tmp_path / "loops", kicks(4), ["train", "test"] * 2)
    train, test = LoopDataset(folder, "train"), LoopDataset(folder, "test")
    vae = AudioVAE.load(audio_vae_folder, GRID)
    vae.grid = Grid(bars=2)
    with pytest.raises(ValueError, match="the audio VAE on"):
        evaluate_prior(vae, train, test, tmp_path / "a", loops_used=9, examples=1, seed=0)

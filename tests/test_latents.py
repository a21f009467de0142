import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from techloop.artifacts import read_json, write_json
from techloop.datasets import LatentDataset, LoopDataset
from techloop.latents import extract_latents
from techloop.models.audio_vae import AudioVAE
from techloop.params import ExtractLatents


def test_loops_open_again(loops_folder: Path) -> None:
    everything = LoopDataset(loops_folder)
    parts = [LoopDataset(loops_folder, split) for split in ("train", "validation", "test")]
    assert len(everything) == sum(map(len, parts)) == 60
    assert everything.index["shard"].nunique() > 1
    audio = everything.audio()
    assert audio.dtype == np.float32
    assert audio.shape == (60, 30_720)
    assert 0.1 < np.abs(audio).max() <= 1
    rows = everything.index.index[everything.index["split"] == "test"]
    np.testing.assert_array_equal(parts[2].audio(), audio[rows])
    np.testing.assert_array_equal(everything[7].numpy(), audio[7])


def test_latents_are_the_encoders_row_by_row(
    loops_folder: Path, audio_vae_folder: Path, latents_folder: Path
) -> None:
    vae = AudioVAE.load(audio_vae_folder)
    for split in ("train", "test"):
        latents, loops = LatentDataset(latents_folder, split), LoopDataset(loops_folder, split)
        assert latents.index["loop_id"].tolist() == loops.index["loop_id"].tolist()
        with torch.no_grad():
            mu, sigma = vae.encode(torch.from_numpy(loops.audio()))
        torch.testing.assert_close(latents.mu, mu, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(latents.sigma, sigma, atol=1e-5, rtol=1e-4)


def test_whitening_is_of_the_training_split(latents_folder: Path) -> None:
    white = LatentDataset(latents_folder, "train").whitened()
    torch.testing.assert_close(white.mean((0, 2)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(white.std((0, 2)), torch.ones(4), atol=1e-4, rtol=0)


def test_the_folder_carries_its_model_and_two_extractions_are_equal(
    loops_folder: Path, audio_vae_folder: Path, latents_folder: Path, tmp_path: Path
) -> None:
    extract_latents(
        latents_folder / "audio_vae",
        loops_folder,
        tmp_path / "l",
        ExtractLatents(batch_size=7, shard_mb=1),
    )
    assert len(list((tmp_path / "l").glob("*.safetensors"))) == 1
    a, b = LatentDataset(tmp_path / "l"), LatentDataset(latents_folder)
    torch.testing.assert_close(a.mu, b.mu, atol=1e-5, rtol=1e-4)
    assert a.card["model"] == b.card["model"]


def test_several_shards(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("techloop.latents.MEGABYTE", 2**17)
    extract_latents(
        audio_vae_folder, loops_folder, tmp_path / "l", ExtractLatents(batch_size=4, shard_mb=1)
    )
    assert len(list((tmp_path / "l").glob("*.safetensors"))) > 3
    whole = LatentDataset(tmp_path / "l")
    with torch.no_grad():
        mu, _ = AudioVAE.load(audio_vae_folder).encode(LoopDataset(loops_folder)[41][None])
    torch.testing.assert_close(whole.mu[41], mu[0], atol=1e-5, rtol=1e-4)


def damaged(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "damaged"))


def test_a_truncated_shard_of_loops(loops_folder: Path, tmp_path: Path) -> None:
    folder = damaged(loops_folder, tmp_path)
    shard = folder / "audio-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"audio-00000\.npy is truncated or damaged"):
        LoopDataset(folder).audio()


def test_a_truncated_shard_of_latents(latents_folder: Path, tmp_path: Path) -> None:
    folder = damaged(latents_folder, tmp_path)
    shard = folder / "latents-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        LatentDataset(folder).mu  # noqa: B018


def test_nan_in_a_shard(latents_folder: Path, tmp_path: Path) -> None:
    folder = damaged(latents_folder, tmp_path)
    shard = folder / "latents-00000.safetensors"
    tensors = load_file(shard)
    tensors["mu"][3, 1, 5] = torch.nan
    save_file(tensors, shard, {"model": read_json(folder / "card.json")["model"]})
    with pytest.raises(ValueError, match="NaN or infinity"):
        LatentDataset(folder).mu  # noqa: B018


def test_shards_of_another_model(latents_folder: Path, tmp_path: Path) -> None:
    folder = damaged(latents_folder, tmp_path)
    card = read_json(folder / "card.json")
    write_json(folder / "card.json", {**card, "model": "0123456789abcdef"})
    with pytest.raises(ValueError, match="files of two runs are mixed"):
        LatentDataset(folder).mu  # noqa: B018


def test_splits_that_are_not_there(loops_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'all' is none of train, validation, test"):
        LoopDataset(loops_folder, "all")
    folder = damaged(loops_folder, tmp_path)
    index = LoopDataset(folder).index
    index[index["split"] != "test"].to_parquet(folder / "index.parquet")
    with pytest.raises(ValueError, match="no loop is in split 'test'"):
        LoopDataset(folder, "test")
    with pytest.raises(ValueError, match="no complete artifact"):
        LoopDataset(tmp_path / "nowhere")


def test_a_model_of_another_grid(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path
) -> None:
    folder = damaged(audio_vae_folder, tmp_path)
    config = read_json(folder / "config.json")
    config["grid"]["bars"] = 2
    write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match="another grid"):
        extract_latents(
            folder, loops_folder, tmp_path / "l", ExtractLatents(batch_size=4, shard_mb=1)
        )
    assert not (tmp_path / "l").exists()

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from techloop.artifacts import read_json, write_json
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.metric import Measurement, flat_metrics
from techloop.models.audio_vae import AudioVAE
from techloop.params import ExtractLatents
from techloop.training.latent_summary import LatentSummary, latent_summary, read_dimensions
from techloop.training.latents import extract_latents
from techloop.training.losses import mmd
from tests.helpers.datasets import contents


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
    white, raw = (LatentDataset(latents_folder, "train", whitened=w) for w in (True, False))
    torch.testing.assert_close(white.mu.mean((0, 2)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(white.mu.std((0, 2)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(raw.mean, raw.mu.mean((0, 2)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(white.sigma * raw.std[:, None], raw.sigma)


def test_some_dimensions_alone(latents_folder: Path) -> None:
    whole = LatentDataset(latents_folder, "test", whitened=True)
    some = LatentDataset(latents_folder, "test", dims=[3, 1], whitened=True)
    torch.testing.assert_close(some.mu, whole.mu[:, [3, 1]])
    torch.testing.assert_close(some[2][1], whole[2][1][[3, 1]])
    torch.testing.assert_close(some.std, whole.std[[3, 1]])
    for wrong in ([], [4], [-1]):
        with pytest.raises(ValueError, match="not among the dimensions 0 to 3"):
            LatentDataset(latents_folder, dims=wrong)


def test_a_loader_gives_every_loop_once(latents_folder: Path) -> None:
    latents = LatentDataset(latents_folder, "train")
    batches = list(DataLoader(latents, batch_size=16, num_workers=1))
    for at, whole in enumerate((latents.mu, latents.sigma)):
        torch.testing.assert_close(torch.cat([batch[at] for batch in batches]), whole)


def extract(vae: Path, loops: Path, to: Path, batch_size: int = 4) -> dict[str, Measurement]:
    params = ExtractLatents(batch_size=batch_size, shard_mb=1)
    return extract_latents(vae, loops, to, params, checkpoints=to.parent / "checkpoints")


def test_the_folder_carries_its_model_and_two_extractions_are_equal(
    loops_folder: Path, latents_folder: Path, tmp_path: Path
) -> None:
    extract(latents_folder / "audio_vae", loops_folder, tmp_path / "l", 7)
    assert len(list((tmp_path / "l").glob("*.safetensors"))) == 1
    a, b = LatentDataset(tmp_path / "l"), LatentDataset(latents_folder)
    torch.testing.assert_close(a.mu, b.mu, atol=1e-5, rtol=1e-4)
    assert a.card["model"] == b.card["model"]
    assert {k: v for k, v in a.card["metrics"].items() if "dim" in k} == read_dimensions(a.folder)


def test_several_shards_and_an_interruption(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("techloop.training.latents.MEGABYTE", 2**17)
    undisturbed = extract(audio_vae_folder, loops_folder, tmp_path / "a")
    whole = LatentDataset(tmp_path / "a")
    assert len(whole.card["shards"]) > 3
    with torch.no_grad():
        mu, _ = AudioVAE.load(audio_vae_folder).encode(LoopDataset(loops_folder)[41][None])
    torch.testing.assert_close(whole.mu[41], mu[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(whole[41][0], whole.mu[41])

    read, left = LoopDataset.audio, 8  # in the second shard

    def fails(self: LoopDataset, rows: range) -> np.ndarray:
        nonlocal left
        left -= 1
        if not left:
            raise OSError("the disk is full")
        return read(self, rows)

    def full(*_: object) -> None:
        raise OSError("the disk is full at the end")

    encoded: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(LoopDataset, "audio", fails)
        with pytest.raises(OSError, match="the disk is full"):
            extract(audio_vae_folder, loops_folder, tmp_path / "b")
        assert not (tmp_path / "b").exists()
        patch.setattr(LoopDataset, "audio", lambda s, rows: encoded.extend(rows) or read(s, rows))
        patch.setattr("techloop.training.latents.write_json", full)
        with pytest.raises(OSError, match="full at the end"):
            extract(audio_vae_folder, loops_folder, tmp_path / "b")
    assert 0 < min(encoded) < max(encoded) == 59  # the first shards are not encoded again
    with monkeypatch.context() as patch:
        patch.setattr(LoopDataset, "audio", None)  # and now all of them
        assert extract(audio_vae_folder, loops_folder, tmp_path / "b") == undisturbed
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_summary_does_not_depend_on_how_it_is_cut() -> None:
    torch.manual_seed(0)
    mu, sigma = (
        torch.randn(40, 3, 200) * torch.tensor([1, 0.5, 0.05])[:, None],
        torch.rand(40, 3, 200),
    )
    whole, parts = LatentSummary(), LatentSummary()
    whole.add(mu, sigma)
    for at in (slice(0, 7), slice(7, 7), slice(7, 40)):
        parts.add(mu[at], sigma[at])
    torch.testing.assert_close(whole.mean, mu.mean((0, 2)), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(whole.std, mu.std((0, 2)), atol=1e-6, rtol=1e-3)
    a, b = (flat_metrics(summary.metrics(125.0)) for summary in (whole, parts))
    assert a.pop("mmd") == pytest.approx(b.pop("mmd"), abs=0.02)  # of other frames
    assert a == pytest.approx(b)
    assert a["active_units"] == 2
    assert whole.kl_per_dimension == pytest.approx(parts.kl_per_dimension)


def test_latents_imported_into_another_repository(latents_folder: Path, tmp_path: Path) -> None:
    """`dvc import` copies the folder of one repository into another repository."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"

    def dvc(folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def git(folder: Path, *arguments: str) -> None:
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    for folder in (ours, theirs):
        folder.mkdir()
        git(folder, "init")
        dvc(folder, "init")
    shutil.copytree(latents_folder, ours / "data" / "latents" / "kl")
    dvc(ours, "add", "data/latents/kl")
    git(ours, "add", "-A")
    git(ours, "commit", "-m", "latents")
    dvc(theirs, "import", str(ours), "data/latents/kl", "-o", "kl")
    here, there = LatentDataset(latents_folder, "test"), LatentDataset(theirs / "kl", "test")
    torch.testing.assert_close(here.mu, there.mu, rtol=0, atol=0)
    assert AudioVAE.load(theirs / "kl" / "audio_vae").latent_dim == 4


def copy_to_damage(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "damaged"))


def test_a_truncated_shard_of_loops(loops_folder: Path, tmp_path: Path) -> None:
    folder = copy_to_damage(loops_folder, tmp_path)
    shard = folder / "audio-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"audio-00000\.npy is truncated or damaged"):
        LoopDataset(folder).audio()


def test_a_truncated_shard_of_latents(latents_folder: Path, tmp_path: Path) -> None:
    folder = copy_to_damage(latents_folder, tmp_path)
    shard = folder / "latents-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        LatentDataset(folder).mu  # noqa: B018


def rewrite_shard(
    folder: Path, entries: dict[str, str] | None = None, **values: torch.Tensor
) -> None:
    """Give the first shard other tensors, or other entries in its header."""
    path = folder / "latents-00000.safetensors"
    with safe_open(path, framework="pt") as shard:
        header = json.loads(shard.metadata()["techloop"])
    header = {"techloop": json.dumps(header | (entries or {}))}
    save_file(load_file(path) | values, path, header)


def test_the_prior_is_not_drawn_with_the_noise_of_the_posteriors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[torch.Tensor] = []
    monkeypatch.setattr(
        "techloop.training.latent_summary.mmd", lambda *v: compared.extend(v) or mmd(*v)
    )
    with pytest.warns(UserWarning, match="only 0 of 32"):
        metrics = latent_summary(torch.zeros(64, 32, 240), torch.ones(64, 32, 240)).metrics(125.0)
    z, prior = compared
    assert z.shape == prior.shape == (2048, 32)
    assert metrics["mmd"].value == pytest.approx(0, abs=1e-3)  # -0.005 with the same noise
    assert torch.isin(z, prior).float().mean() < 0.05  # a few floats are equal by chance


def test_changing_an_item_does_not_change_the_data_set(latents_folder: Path) -> None:
    latents = LatentDataset(latents_folder)
    mu, before = latents[0][0], latents[0][0].clone()
    mu.zero_()
    assert torch.equal(latents[0][0], before)


def test_a_folder_of_another_kind_or_version(loops_folder: Path) -> None:
    with pytest.raises(ValueError, match="holds no latents of format 2: it is another stage"):
        LatentDataset(loops_folder)


def test_nan_in_a_shard(latents_folder: Path, tmp_path: Path) -> None:
    folder = copy_to_damage(latents_folder, tmp_path)
    mu = load_file(folder / "latents-00000.safetensors")["mu"].clone()
    mu[3, 1, 5] = torch.nan
    rewrite_shard(folder, mu=mu)
    latents = LatentDataset(folder)
    with pytest.raises(ValueError, match=r"00000\.safetensors is .* NaN or infinity"):
        latents.mu  # noqa: B018
    latents[2]
    with pytest.raises(ValueError, match="NaN or infinity"):
        latents[3]


def test_a_shard_of_another_length_or_type(latents_folder: Path, tmp_path: Path) -> None:
    folder = copy_to_damage(latents_folder, tmp_path)
    mu = load_file(folder / "latents-00000.safetensors")["mu"].clone()
    for wrong in (mu[:-1], mu[..., :-1].contiguous(), mu.half()):
        rewrite_shard(folder, mu=wrong)
        with pytest.raises(ValueError, match=r"instead of float32 \(60, 4, 240\)"):
            LatentDataset(folder)[0]
    rewrite_shard(folder, mu=mu)
    LatentDataset(folder)[0]


@pytest.mark.parametrize("key", ["model", "grid", "format"])
def test_shards_of_another_model_or_grid_or_version(
    latents_folder: Path, tmp_path: Path, key: str
) -> None:
    folder = copy_to_damage(latents_folder, tmp_path)
    rewrite_shard(folder, {key: "another"})
    with pytest.raises(ValueError, match=f"has {key} another but .* files of two runs are mixed"):
        LatentDataset(folder)[0]


def test_splits_that_are_not_there(loops_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'all' is none of train, validation, test"):
        LoopDataset(loops_folder, "all")
    folder = copy_to_damage(loops_folder, tmp_path)
    index = LoopDataset(folder).index
    index[index["split"] != "test"].to_parquet(folder / "index.parquet")
    with pytest.raises(ValueError, match="no loop is in split 'test'"):
        LoopDataset(folder, "test")
    with pytest.raises(ValueError, match="'all' is none of train, validation, test"):
        LoopDataset(loops_folder, ["test", "all"])
    several = LoopDataset(folder, ["validation", "test"])  # one of them is enough
    assert set(several.index["split"]) == {"validation"}
    with pytest.raises(ValueError, match="not a complete artifact"):
        LoopDataset(tmp_path / "nowhere")


def test_a_model_of_another_grid(
    loops_folder: Path, audio_vae_folder: Path, tmp_path: Path
) -> None:
    folder = copy_to_damage(audio_vae_folder, tmp_path)
    config = read_json(folder / "config.json")
    config["grid"]["bars"] = 2
    write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match="another grid"):
        extract(folder, loops_folder, tmp_path / "l")
    assert not (tmp_path / "l").exists()

"""Latents of every loop, cached for whatever trains on them next."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm import tqdm

from techloop.artifacts import atomic_folder, atomic_write, fingerprint, write_json
from techloop.closure import code_fingerprint
from techloop.data.datasets import LATENTS_FORMAT, LoopDataset, latents_header
from techloop.metric import Measurement, flat_metrics
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint, pick_device
from techloop.params import ExtractLatents
from techloop.training.latent_summary import (
    LatentSummary,
    read_dimensions,
    write_dimensions,
)

MEGABYTE = 2**20


def extract_latents(
    audio_vae_folder: str | Path,
    loops_folder: str | Path,
    folder: str | Path,
    params: ExtractLatents,
    checkpoints: Path = Path("checkpoints"),
) -> dict[str, Measurement]:
    """Write the posteriors of all loops to `folder`, together with the audio VAE that made them.

    Shards of `mu` and `sigma`, `(n, latent_dim, frames)` float32, hold the loops in the order of
    the index. The card has mean and deviation of each dimension over the training split.
    `dimensions.json` has the rate of each dimension. Memory is that of a few shards, however many
    there are.

    Args:
        audio_vae_folder: of a trained `AudioVAE`.
        loops_folder: of a prepared data set.
        folder: is replaced.
        params: loops per batch, and size of a shard.
        checkpoints: holds finished shards, so that the same call resumes an interrupted one.

    Returns:
        Metrics of the training split's latents, see `LatentSummary.metrics`.

    Raises:
        ValueError: a damaged folder, or an audio VAE of another grid than the loops'.
    """
    loops, device = LoopDataset(loops_folder), pick_device()
    vae = AudioVAE.load(audio_vae_folder, loops.grid).to(device)
    model, data = model_fingerprint(audio_vae_folder), loops.card["fingerprint"]
    bytes_per_loop = 2 * vae.latent_dim * loops.grid.frames * 4
    per_shard = max(1, params.shard_mb * MEGABYTE // bytes_per_loop)
    sizes = f"{per_shard}-{params.batch_size}-{device.type}"
    finished = checkpoints / f"latents-{model}-{data}-{code_fingerprint(__name__)}-{sizes}"
    header = latents_header(model, loops.grid)
    index, shards, summary = loops.index.copy(), [], LatentSummary()
    train = torch.from_numpy((index["split"] == "train").to_numpy(copy=True))
    bar = tqdm(total=len(loops), unit=" loops", mininterval=1)
    for number, start in enumerate(range(0, len(loops), per_shard)):
        rows = range(start, min(start + per_shard, len(loops)))
        name = f"latents-{number:05d}.safetensors"
        shards.append({"file": name, "loops": len(rows)})
        index.loc[rows.start : rows.stop - 1, "shard"] = number
        index.loc[rows.start : rows.stop - 1, "row"] = range(len(rows))
        if not (finished / name).exists():
            shard = _encode(vae, loops, rows, params.batch_size, bar.update)
            atomic_write(finished / name, to_bytes(shard, header))
        bar.update(rows.stop - bar.n)
        shard = load_file(finished / name)  # memory-mapped
        in_train = train[rows.start : rows.stop]
        summary.add(shard["mu"][in_train], shard["sigma"][in_train])
    bar.close()
    metrics = summary.metrics(loops.grid.frame_rate_hz)
    with atomic_folder(folder) as new:
        for entry in shards:
            _link(finished / str(entry["file"]), new / str(entry["file"]))
        index.to_parquet(new / "index.parquet")
        shutil.copytree(audio_vae_folder, new / "audio_vae")
        data_fingerprint = fingerprint(new)
        write_dimensions(new, summary.kl_per_dimension)
        card = {
            "format": LATENTS_FORMAT,
            "grid": asdict(loops.grid),
            "model": model,
            "loops_fingerprint": data,
            "loops": len(loops),
            "splits": loops.card["splits"],
            "shards": shards,
            "fingerprint": data_fingerprint,
            "mean": summary.mean.tolist(),
            "std": summary.std.clamp_min(1e-6).tolist(),
            "metrics": {**flat_metrics(metrics), **read_dimensions(new)},
        }
        write_json(new / "card.json", card)
    shutil.rmtree(finished, ignore_errors=True)
    return metrics


def _link(file: Path, to: Path) -> None:
    """Give a file a second place, without a copy where the file system can."""
    try:
        to.hardlink_to(file)
    except (OSError, NotImplementedError):
        shutil.copyfile(file, to)


@torch.inference_mode()
def _encode(
    vae: AudioVAE,
    loops: LoopDataset,
    rows: range,
    batch_size: int,
    advance: Callable[[int], object],
) -> dict[str, Tensor]:
    """A shard: the posteriors of these rows; `advance` is called with the loops of each batch."""
    device = next(vae.parameters()).device
    mu, sigma = torch.empty(2, len(rows), vae.latent_dim, loops.grid.frames)
    for at in range(0, len(rows), batch_size):
        batch = rows[at : at + batch_size]
        x = torch.from_numpy(loops.audio(batch)).to(device)
        mu[at : at + len(batch)], sigma[at : at + len(batch)] = vae.encode(x)
        advance(len(batch))
    return {"mu": mu, "sigma": sigma}

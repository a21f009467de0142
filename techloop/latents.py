"""Latents of every loop, cached for whatever trains on them next."""

import json
import math
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from techloop.artifacts import fingerprint, whole_folder, write_json
from techloop.datasets import LoopDataset
from techloop.losses import active_units, gaussian_kl, mmd
from techloop.models.audio_vae import AudioVAE
from techloop.models.blocks import sample
from techloop.models.model import model_fingerprint, pick_device
from techloop.params import ExtractLatents

FORMAT = 1
MEGABYTE = 2**20


def extract_latents(
    audio_vae_folder: str | Path,
    loops_folder: str | Path,
    folder: str | Path,
    params: ExtractLatents,
) -> dict[str, float]:
    """Write posteriors of all loops to `folder`, with the VAE that made them in it.

    Shards of `mu` and `sigma`, `(n, latent_dim, frames)` float32, hold the loops in the order of
    the index. The card has mean and deviation of each dimension over the training split.

    Returns:
        Metrics of the training split's latents.

    Raises:
        ValueError: a damaged folder, or a VAE of another grid than the loops'.
    """
    loops = LoopDataset(loops_folder)
    vae = AudioVAE.load(audio_vae_folder, loops.grid).to(pick_device())
    model = model_fingerprint(audio_vae_folder)
    bytes_per_loop = 2 * vae.latent_dim * loops.grid.frames * 4
    per_shard = max(1, params.shard_mb * MEGABYTE // bytes_per_loop)
    index = loops.index.copy()
    header = {
        "format": str(FORMAT),
        "model": model,
        "grid": json.dumps(asdict(loops.grid)),
        "dtype": "float32",
    }
    with whole_folder(folder) as new:
        shards, parts = [], []
        bar = tqdm(total=len(loops), unit=" loops", mininterval=1)
        for number, start in enumerate(range(0, len(loops), per_shard)):
            rows = range(start, min(start + per_shard, len(loops)))
            posteriors = []
            for at in range(rows.start, rows.stop, params.batch_size):
                batch = range(at, min(at + params.batch_size, rows.stop))
                x = torch.from_numpy(loops.audio(batch)).to(pick_device())
                with torch.inference_mode():
                    posteriors.append([v.float().cpu() for v in vae.encode(x)])
                bar.update(len(batch))
            mu, sigma = (torch.cat(v) for v in zip(*posteriors, strict=True))
            name = f"latents-{number:05d}.safetensors"
            save_file({"mu": mu, "sigma": sigma}, new / name, header)
            shards.append({"file": name, "loops": len(rows)})
            index.loc[rows.start : rows.stop - 1, "shard"] = number
            index.loc[rows.start : rows.stop - 1, "row"] = range(len(rows))
            split = index["split"].iloc[rows.start : rows.stop]
            train = torch.tensor((split == "train").tolist())
            parts.append((mu[train], sigma[train]))
        bar.close()
        mu, sigma = (torch.cat(v) for v in zip(*parts, strict=True))
        metrics = latent_metrics(mu, sigma, loops.grid.frame_rate_hz)
        index.to_parquet(new / "index.parquet")
        shutil.copytree(audio_vae_folder, new / "audio_vae")
        card = {
            "format": FORMAT,
            "grid": asdict(loops.grid),
            "model": model,
            "loops_fingerprint": loops.card["fingerprint"],
            "loops": len(loops),
            "splits": loops.card["splits"],
            "shards": shards,
            "mean": mu.mean((0, 2)).tolist(),
            "std": mu.std((0, 2)).clamp_min(1e-6).tolist(),
            "metrics": metrics,
            "fingerprint": fingerprint(new),
        }
        write_json(new / "card.json", card)
    return metrics


def latent_metrics(
    mu: Float[Tensor, "n c frames"], sigma: Float[Tensor, "n c frames"], frame_rate_hz: float
) -> dict[str, float]:
    """Rate in nats a frame and bits a second, active units, MMD of frames to the prior.

    Args:
        mu, sigma: posteriors `(n, c, frames)`.

    Returns:
        Also `kl_nats_dim_<i>`, the rate of each dimension in nats a frame.
    """
    kl = gaussian_kl(mu, sigma).mean((0, 2))
    active = active_units(mu)
    if 2 * active < mu.shape[1]:
        warnings.warn(
            f"only {active} of {mu.shape[1]} latent dimensions are active: the posterior is "
            "collapsing. Lower the regulariser's weight, or raise warmup_loops or free_nats.",
            stacklevel=2,
        )
    draw = torch.Generator().manual_seed(0)
    z = sample(mu.cpu(), sigma.cpu(), draw).mT.flatten(0, 1)
    z = z[torch.randperm(len(z), generator=draw)[:2048]]
    nats = float(kl.sum())
    return {
        "kl_nats_per_frame": nats,
        "bits_per_second": nats / math.log(2) * frame_rate_hz,
        "active_units": float(active),
        "mmd": float(mmd(z, torch.randn(z.shape, generator=draw))),
        **{f"kl_nats_dim_{i:02d}": v for i, v in enumerate(kl.tolist())},
    }

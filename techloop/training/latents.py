"""Latents of every loop, cached for whatever trains on them next."""

import math
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from safetensors.torch import save as saved
from torch import Tensor
from tqdm import tqdm

from techloop.artifacts import (
    atomic_folder,
    atomic_write,
    fingerprint,
    write_json,
)
from techloop.closure import code_fingerprint
from techloop.data.datasets import LATENTS_FORMAT, LoopDataset, latents_header
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint, pick_device
from techloop.models.sampling import sample
from techloop.params import ExtractLatents
from techloop.training.losses import ACTIVE_VARIANCE, gaussian_kl, mmd

MEGABYTE = 2**20
MMD_FRAMES = 2048


def extract_latents(
    audio_vae_folder: str | Path,
    loops_folder: str | Path,
    folder: str | Path,
    params: ExtractLatents,
    checkpoints: Path = Path("checkpoints"),
) -> dict[str, float]:
    """Write posteriors of all loops to `folder`, with the VAE that made them in it.

    Shards of `mu` and `sigma`, `(n, latent_dim, frames)` float32, hold the loops in the order of
    the index. The card has mean and deviation of each dimension over the training split. Memory is
    that of a few shards, however many there are.

    Args:
        audio_vae_folder: of a trained `AudioVAE`.
        loops_folder: of a prepared data set.
        folder: is replaced.
        params: sizes of a batch and a shard.
        checkpoints: keeps whole shards, so that the same call goes on where another one stopped.

    Returns:
        Metrics of the training split's latents, see `LatentSummary.metrics`.

    Raises:
        ValueError: a damaged folder, or a VAE of another grid than the loops'.
    """
    loops, device = LoopDataset(loops_folder), pick_device()
    vae = AudioVAE.load(audio_vae_folder, loops.grid).to(device)
    model, made_of = model_fingerprint(audio_vae_folder), loops.card["fingerprint"]
    bytes_per_loop = 2 * vae.latent_dim * loops.grid.frames * 4
    per_shard = max(1, params.shard_mb * MEGABYTE // bytes_per_loop)
    sizes = f"{per_shard}-{params.batch_size}-{device.type}"
    done = checkpoints / f"latents-{model}-{made_of}-{code_fingerprint(__name__)}-{sizes}"
    header = latents_header(model, loops.grid)
    index, shards, known = loops.index.copy(), [], LatentSummary()
    train = torch.from_numpy((index["split"] == "train").to_numpy(copy=True))
    bar = tqdm(total=len(loops), unit=" loops", mininterval=1)
    for number, start in enumerate(range(0, len(loops), per_shard)):
        rows = range(start, min(start + per_shard, len(loops)))
        name = f"latents-{number:05d}.safetensors"
        shards.append({"file": name, "loops": len(rows)})
        index.loc[rows.start : rows.stop - 1, "shard"] = number
        index.loc[rows.start : rows.stop - 1, "row"] = range(len(rows))
        if not (done / name).exists():
            made = _encoded(vae, loops, rows, params.batch_size, bar)
            atomic_write(done / name, saved(made, header))
        bar.update(rows.stop - bar.n)
        made = load_file(done / name)  # mapped, not read
        chosen = train[rows.start : rows.stop]
        known.add(made["mu"][chosen], made["sigma"][chosen])
    bar.close()
    with atomic_folder(folder) as new:
        for shard in shards:
            _linked(done / str(shard["file"]), new / str(shard["file"]))
        index.to_parquet(new / "index.parquet")
        shutil.copytree(audio_vae_folder, new / "audio_vae")
        card = {
            "format": LATENTS_FORMAT,
            "grid": asdict(loops.grid),
            "model": model,
            "loops_fingerprint": made_of,
            "loops": len(loops),
            "splits": loops.card["splits"],
            "shards": shards,
            "fingerprint": fingerprint(new),
            "mean": known.mean.tolist(),
            "std": known.std.clamp_min(1e-6).tolist(),
            "metrics": known.metrics(loops.grid.frame_rate_hz),
        }
        write_json(new / "card.json", card)
    shutil.rmtree(done, ignore_errors=True)
    return card["metrics"]


def _linked(file: Path, to: Path) -> None:
    """A file at a second place, without a copy where the file system can."""
    try:
        to.hardlink_to(file)
    except (OSError, NotImplementedError):
        shutil.copyfile(file, to)


@torch.inference_mode()
def _encoded(
    vae: AudioVAE, loops: LoopDataset, rows: range, batch_size: int, bar: tqdm
) -> dict[str, Tensor]:
    """A shard: posteriors of these rows."""
    device = next(vae.parameters()).device
    mu, sigma = torch.empty(2, len(rows), vae.latent_dim, loops.grid.frames)
    for at in range(0, len(rows), batch_size):
        batch = rows[at : at + batch_size]
        x = torch.from_numpy(loops.audio(batch)).to(device)
        mu[at : at + len(batch)], sigma[at : at + len(batch)] = vae.encode(x)
        bar.update(len(batch))
    return {"mu": mu, "sigma": sigma}


class LatentSummary:
    """How much posteriors say, of any number of loops that need not be in memory together.

    Attributes:
        mean, std: `(latent_dim,)`, of the posterior means over loops and frames.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._sums: Tensor = torch.zeros(())  # of means, their squares, and KLs, by dimension
        self._draw = torch.Generator().manual_seed(0)
        self._keys, self._drawn = torch.empty(0), torch.empty(0)

    def add(self, mu: Float[Tensor, "n c frames"], sigma: Float[Tensor, "n c frames"]) -> None:
        """Count these posteriors in."""
        mu, sigma = mu.cpu(), sigma.cpu()
        self._frames += mu.shape[0] * mu.shape[2]
        values = (mu, mu.square(), gaussian_kl(mu, sigma))
        self._sums = self._sums + torch.stack([v.sum((0, 2), dtype=torch.double) for v in values])
        # A sample of all frames, each as likely: those with the lowest of random keys.
        keys = torch.rand(mu.shape[0] * mu.shape[2], generator=self._draw)
        at = keys.argsort()[:MMD_FRAMES]
        loop, frame = at // mu.shape[2], at % mu.shape[2]
        z = sample(mu[loop, :, frame], sigma[loop, :, frame], self._draw)
        keys = torch.cat([self._keys, keys[at]])
        kept = keys.argsort()[:MMD_FRAMES]
        self._keys, self._drawn = keys[kept], torch.cat([self._drawn.view(-1, z.shape[1]), z])[kept]

    @property
    def mean(self) -> Float[Tensor, " c"]:  # noqa: D102
        return (self._sums[0] / self._frames).float()

    @property
    def std(self) -> Float[Tensor, " c"]:  # noqa: D102
        mean, square = self._sums[:2] / self._frames
        return (square - mean.square()).clamp_min(0).sqrt().float()

    def metrics(self, frame_rate_hz: float) -> dict[str, float]:
        """Rate in nats a frame and bits a second, active units, MMD of frames to the prior.

        Returns:
            Also `kl_nats_dim_<i>`, the rate of each dimension in nats a frame.
        """
        kl = self._sums[2] / self._frames
        active = int((self.std.square() > ACTIVE_VARIANCE).sum())
        if 2 * active < len(kl):
            warnings.warn(
                f"only {active} of {len(kl)} latent dimensions are active: the posterior is "
                "collapsing. Lower the regulariser's weight, or raise warmup_loops or free_nats.",
                stacklevel=2,
            )
        draw = torch.Generator().manual_seed(1)  # not the posteriors' own noise once more
        prior = torch.randn(self._drawn.shape, generator=draw)
        nats = float(kl.sum())
        return {
            "kl_nats_per_frame": nats,
            "bits_per_second": nats / math.log(2) * frame_rate_hz,
            "active_units": float(active),
            "mmd": float(mmd(self._drawn, prior)),
            **{f"kl_nats_dim_{i:02d}": v for i, v in enumerate(kl.tolist())},
        }


def latent_metrics(
    mu: Float[Tensor, "n c frames"], sigma: Float[Tensor, "n c frames"], frame_rate_hz: float
) -> dict[str, float]:
    """`LatentSummary.metrics` of posteriors at hand."""
    known = LatentSummary()
    known.add(mu, sigma)
    return known.metrics(frame_rate_hz)

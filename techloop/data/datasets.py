"""Loops and latents, opened again from the folders that the stages wrote."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from techloop.artifacts import read_json
from techloop.grid import Grid

SPLITS = ("train", "validation", "test")
INT16_SCALE = 32_768.0
LATENTS_FORMAT, HEADER = 2, "techloop"


class _IndexedFolder(Dataset):
    """A folder with a card, an index and shards: its rows of one split, or all of them."""

    def __init__(self, folder: str | Path, split: str | None = None) -> None:
        self.folder = Path(folder)
        self.card = read_json(self.folder / "card.json")
        self.grid = Grid(**self.card["grid"])
        try:
            index = pd.read_parquet(self.folder / "index.parquet")
        except (OSError, ValueError) as error:
            raise _damaged(self.folder / "index.parquet", str(error)) from None
        if split is not None:
            if split not in SPLITS:
                raise ValueError(f"split: {split!r} is none of {', '.join(SPLITS)}")
            index = index[index["split"] == split]
            if index.empty:
                raise ValueError(
                    f"{self.folder}: no loop is in split {split!r} (sizes: {self.card['splits']}). "
                    "Too few groups to fill every split is the usual cause: add audio, or change "
                    "the fractions of prepare_loops."
                )
        self.index = index.reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.index)


class LoopDataset(_IndexedFolder):
    """Loops of `data/loops`, memory-mapped.

    Raises:
        ValueError: the folder is no loops artifact, the split is empty or unknown, or a shard is
            truncated.
    """

    @cached_property
    def _shards(self) -> list[np.ndarray]:
        shards = []
        for entry in self.card["shards"]:
            path, shape = self.folder / entry["file"], (entry["loops"], self.grid.samples)
            try:
                shard = np.load(path, mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                raise _damaged(path, str(error)) from None
            if shard.shape != shape or shard.dtype != np.int16:
                raise _damaged(path, f"{shard.dtype} {shard.shape} instead of int16 {shape}")
            shards.append(shard)
        return shards

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        return self.index["shard"].to_numpy(), self.index["row"].to_numpy()

    def __getitem__(self, i: int) -> Float[Tensor, " samples"]:
        return torch.from_numpy(self.audio([i])[0])

    def audio(
        self, rows: Sequence[int] | np.ndarray | None = None
    ) -> Float[np.ndarray, "n samples"]:
        """The loops of these rows of `index` (all by default), float32 in [-1, 1)."""
        shards, places = self._places
        rows = range(len(self)) if rows is None else rows
        out = np.empty((len(rows), self.grid.samples), np.float32)
        for i, row in enumerate(rows):
            out[i] = self._shards[shards[row]][places[row]]
        return out / np.float32(INT16_SCALE)

    def reader(self, device: torch.device) -> Callable[[Sequence[int]], Float[Tensor, "n samples"]]:
        """Loops of given rows on a device, float32, without waiting for it.

        On a GPU the data set is kept there where that takes less than a quarter of its free
        memory; else each batch is read from the files and copied.
        """

        def sent(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(array)
            if device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True)

        size = len(self) * self.grid.samples * np.dtype(np.int16).itemsize
        if device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 4:
            return lambda rows: sent(self.audio(rows))
        rows_of = zip(*self._places, strict=True)
        kept = torch.from_numpy(np.stack([self._shards[s][row] for s, row in rows_of])).to(device)
        return lambda rows: kept[sent(np.asarray(rows))] / INT16_SCALE


class LatentDataset(_IndexedFolder):
    """Posteriors of VAE 1 for every loop, of `data/latents/R`; rows as in its loops' index.

    Shards are memory-mapped. Item i is the posterior of loop i, `(mu, sigma)`, each
    `(latent_dim, frames)` float32, as a DataLoader takes it.

    Args:
        folder: of the latents, here or copied or imported from anywhere.
        split: train, validation or test; everything by default.
        dims: the dimensions wanted, in this order; all of them by default.
        whitened: whether values are on one scale: the mean over the training split taken out and
            divided by its deviation, by dimension (`sigma` only divided).

    Attributes:
        mean, std: `(latent_dim,)`, of the means over the training split.
        index: a row a loop.
        card: grid, model, sizes of the splits, metrics.

    Raises:
        ValueError: the folder is no latents artifact, the split is empty or unknown, there is no
            such dimension, a shard is truncated, of another grid or model than the card says, or
            (when read) holds NaN.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        *,
        dims: Sequence[int] | None = None,
        whitened: bool = False,
    ) -> None:
        super().__init__(folder, split)
        if self.card.get("format") != LATENTS_FORMAT or "mean" not in self.card:
            raise ValueError(
                f"{folder} holds no latents of format {LATENTS_FORMAT}: it is another stage's "
                "folder, or was written by another version of techloop, which "
                "`dvc repro extract_latents` makes anew."
            )
        every = len(self.card["mean"])
        self._dims = list(range(every) if dims is None else dims)
        wrong = [d for d in self._dims if not 0 <= d < every]
        if wrong or not self._dims:
            raise ValueError(f"dims: {wrong} is not among the dimensions 0 to {every - 1}")
        self.mean, self.std = (torch.tensor(self.card[k])[self._dims] for k in ("mean", "std"))
        self._whitened, self._all_dims = whitened, self._dims == list(range(every))
        self._places = list(self.index[["shard", "row"]].itertuples(index=False, name=None))

    @cached_property
    def _shards(self) -> list[tuple[Tensor, Tensor]]:
        """Means and deviations of each shard, mapped."""
        shards = []
        expected = json.loads(latents_header(self.card["model"], self.grid)[HEADER])
        for entry in self.card["shards"]:
            path = self.folder / entry["file"]
            try:
                with safe_open(path, framework="pt") as shard:
                    told = json.loads((shard.metadata() or {}).get(HEADER, "{}"))
                    mu, sigma = shard.get_tensor("mu"), shard.get_tensor("sigma")
            except (OSError, ValueError, SafetensorError) as error:
                raise _damaged(path, str(error)) from None
            shape = (entry["loops"], len(self.card["mean"]), self.grid.frames)
            for values in (mu, sigma):
                if values.shape != shape or values.dtype != torch.float32:
                    found = f"{values.dtype} {tuple(values.shape)}"
                    raise _damaged(path, f"{found} instead of float32 {shape}")
            for key, value in expected.items():
                if told.get(key) != value:
                    raise ValueError(
                        f"{path} has {key} {told.get(key)} but {self.folder / 'card.json'} speaks "
                        f"of {value}: files of two runs are mixed. `dvc checkout dvc.yaml` or "
                        "`dvc repro` makes the folder whole again."
                    )
            shards.append((mu, sigma))
        return shards

    def _checked(self, mu: Tensor, sigma: Tensor, shard: int) -> tuple[Tensor, Tensor]:
        """As wanted, if finite."""
        # One pass each: any NaN or infinity makes the sum so.
        if not math.isfinite(mu.sum() + sigma.sum()):
            path = self.folder / self.card["shards"][shard]["file"]
            raise _damaged(path, "NaN or infinity among its values")
        if not self._all_dims:
            mu, sigma = mu[..., self._dims, :], sigma[..., self._dims, :]
        if self._whitened:
            mean, std = self.mean[:, None], self.std[:, None]
            mu, sigma = (mu - mean) / std, sigma / std
        return mu, sigma

    def __getitem__(self, i: int) -> tuple[Float[Tensor, "c frames"], Float[Tensor, "c frames"]]:
        shard, row = self._places[i]
        mu, sigma = self._shards[shard]
        return self._checked(mu[row].clone(), sigma[row].clone(), shard)

    @cached_property
    def _posteriors(self) -> tuple[Tensor, Tensor]:
        parts = []
        for number, (mu, sigma) in enumerate(self._shards):
            rows = torch.tensor([row for shard, row in self._places if shard == number])
            if len(rows):
                parts.append(self._checked(mu[rows], sigma[rows], number))
        mu, sigma = (torch.cat(v) for v in zip(*parts, strict=True))
        return mu, sigma

    @property
    def mu(self) -> Float[Tensor, "n c frames"]:
        """Posterior means of all loops, in memory."""
        return self._posteriors[0]

    @property
    def sigma(self) -> Float[Tensor, "n c frames"]:
        """Posterior standard deviations of all loops, in memory."""
        return self._posteriors[1]


def latents_header(model: str, grid: Grid) -> dict[str, str]:
    """What a shard of latents says of itself: one entry, as several are written in any order.

    Args:
        model: fingerprint of the audio VAE.
        grid: of the loops.
    """
    told = {"format": LATENTS_FORMAT, "model": model, "grid": asdict(grid), "dtype": "float32"}
    return {HEADER: json.dumps(told)}


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is truncated or damaged: {what}. It was probably copied or written only in part; "
        "`dvc checkout dvc.yaml` restores it from the cache, `dvc repro` makes it anew."
    )

"""Datasets of loops and of latents, read from the folders that the stages wrote."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from techloop.artifacts import read_json
from techloop.audio.wav import INT16_SCALE
from techloop.data.columns import SPLITS
from techloop.grid import Grid

LATENTS_FORMAT = 2
HEADER = "techloop"  # key of our metadata in the header of a safetensors file

T_co = TypeVar("T_co", covariant=True)


class _IndexedFolder(Dataset[T_co]):
    """A folder with a card, an index and shards; its rows of some splits, or all."""

    def __init__(self, folder: str | Path, split: str | Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        self.card = read_json(self.folder / "card.json")
        self.grid = Grid(**self.card["grid"])
        try:
            index = pd.read_parquet(self.folder / "index.parquet")
        except (OSError, ValueError) as error:
            raise _damaged(self.folder / "index.parquet", str(error)) from None
        if split is not None:
            splits = [split] if isinstance(split, str) else list(split)
            if unknown := [name for name in splits if name not in SPLITS]:
                raise ValueError(f"split: {unknown[0]!r} is none of {', '.join(SPLITS)}")
            index = index[index["split"].isin(splits)]
            if index.empty:
                names = " or ".join(map(repr, splits))
                raise ValueError(
                    f"{self.folder}: no loop is in split {names} (sizes: {self.card['splits']}). "
                    "The usual cause is that there are fewer groups than splits: add audio, or "
                    "change the fractions of prepare_loops."
                )
        self.index = index.reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.index)


class LoopDataset(_IndexedFolder[Tensor]):
    """Loops of `data/loops`, memory-mapped. Item i is loop i, `(samples,)`, float32 in [-1, 1).

    Args:
        folder: of the loops, here or copied from anywhere.
        split: train, validation or test, or several of them; all by default.

    Attributes:
        index: one row per loop.
        card: grid, sizes of the splits, licences.

    Raises:
        ValueError: the folder does not hold loops, the split is empty or unknown, or a shard is
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
        """The shard of each loop, and its row there."""
        return self.index["shard"].to_numpy(), self.index["row"].to_numpy()

    def __getitem__(self, i: int) -> Float[Tensor, " samples"]:
        return torch.from_numpy(self.audio([i])[0])

    def audio(
        self, rows: Sequence[int] | np.ndarray | None = None
    ) -> Float[np.ndarray, "n samples"]:
        """The loops of these rows of `index` (all by default), float32 in [-1, 1)."""
        shards, rows_in_shard = self._places
        rows = range(len(self)) if rows is None else rows
        out = np.empty((len(rows), self.grid.samples), np.float32)
        for i, row in enumerate(rows):
            out[i] = self._shards[shards[row]][rows_in_shard[row]]
        return out / np.float32(INT16_SCALE)

    def reader(self, device: torch.device) -> Callable[[Sequence[int]], Float[Tensor, "n samples"]]:
        """A function from rows to their loops on a device, float32; it does not wait for the copy.

        The whole dataset is kept on a GPU where it takes less than a quarter of its free memory.
        Otherwise each batch is read from the files and copied.
        """

        def send(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(array)
            if device.type == "cuda":
                tensor = tensor.pin_memory()
            return tensor.to(device, non_blocking=True)

        size = len(self) * self.grid.samples * np.dtype(np.int16).itemsize
        if device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] / 4:
            return lambda rows: send(self.audio(rows))
        loops = [self._shards[shard][row] for shard, row in zip(*self._places, strict=True)]
        on_device = torch.from_numpy(np.stack(loops)).to(device)
        return lambda rows: on_device[send(np.asarray(rows))] / float(INT16_SCALE)


class LatentDataset(_IndexedFolder[tuple[Tensor, Tensor]]):
    """Posteriors of the audio VAE for every loop, of `data/latents/R`; rows as in the loops' index.

    Shards are memory-mapped. Item i is the posterior of loop i, `(mu, sigma)`, each
    `(latent_dim, frames)` float32, as a DataLoader takes it.

    Args:
        folder: of the latents, here or copied or imported from anywhere.
        split: train, validation or test; all by default.
        dims: the dimensions to read, in this order; all by default.
        whitened: whether each dimension is standardised with the statistics of the training split:
            `mu` minus its mean, over its standard deviation; `sigma` over the same.

    Attributes:
        mean, std: `(latent_dim,)`, of `mu` over the training split.
        index: one row per loop.
        card: grid, model, sizes of the splits, metrics.

    Raises:
        ValueError: the folder does not hold latents, the split is empty or unknown, a dimension
            does not exist, a shard is truncated, has another grid or model than the card, or (when
            read) holds NaN.
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
                "folder, or another version of techloop wrote it. `dvc repro extract_latents` "
                "writes it again."
            )
        latent_dim = len(self.card["mean"])
        self._dims = list(range(latent_dim) if dims is None else dims)
        wrong = [d for d in self._dims if not 0 <= d < latent_dim]
        if wrong or not self._dims:
            raise ValueError(f"dims: {wrong} is not among the dimensions 0 to {latent_dim - 1}")
        self.mean, self.std = (torch.tensor(self.card[k])[self._dims] for k in ("mean", "std"))
        self._whitened, self._all_dims = whitened, self._dims == list(range(latent_dim))
        self._places = list(self.index[["shard", "row"]].itertuples(index=False, name=None))

    @cached_property
    def _shards(self) -> list[tuple[Tensor, Tensor]]:
        """Means and standard deviations of each shard, memory-mapped."""
        shards = []
        expected = json.loads(latents_header(self.card["model"], self.grid)[HEADER])
        for entry in self.card["shards"]:
            path = self.folder / entry["file"]
            try:
                with safe_open(path, framework="pt") as shard:
                    header = json.loads((shard.metadata() or {}).get(HEADER, "{}"))
                    mu, sigma = shard.get_tensor("mu"), shard.get_tensor("sigma")
            except (OSError, ValueError, SafetensorError) as error:
                raise _damaged(path, str(error)) from None
            shape = (entry["loops"], len(self.card["mean"]), self.grid.frames)
            for values in (mu, sigma):
                if values.shape != shape or values.dtype != torch.float32:
                    actual = f"{values.dtype} {tuple(values.shape)}"
                    raise _damaged(path, f"{actual} instead of float32 {shape}")
            for key, value in expected.items():
                if header.get(key) != value:
                    raise ValueError(
                        f"{path} has {key} {header.get(key)} but {self.folder / 'card.json'} has "
                        f"{value}: files of two runs are mixed. `dvc checkout dvc.yaml` restores "
                        "the folder, `dvc repro` writes it again."
                    )
            shards.append((mu, sigma))
        return shards

    def _selected(self, mu: Tensor, sigma: Tensor, shard: int) -> tuple[Tensor, Tensor]:
        """The chosen dimensions of posteriors, whitened if asked; checked to be finite."""
        # A sum takes one pass, and NaN or infinity in it stays.
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
        return self._selected(mu[row].clone(), sigma[row].clone(), shard)

    @cached_property
    def _posteriors(self) -> tuple[Tensor, Tensor]:
        parts = []
        for number, (mu, sigma) in enumerate(self._shards):
            rows = torch.tensor([row for shard, row in self._places if shard == number])
            if len(rows):
                parts.append(self._selected(mu[rows], sigma[rows], number))
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
    """The header of a shard of latents.

    It is one entry, as safetensors writes several in any order.

    Args:
        model: fingerprint of the audio VAE.
        grid: of the loops.
    """
    entry = {"format": LATENTS_FORMAT, "model": model, "grid": asdict(grid), "dtype": "float32"}
    return {HEADER: json.dumps(entry)}


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is truncated or damaged: {what}. It was probably copied or written only in part; "
        "`dvc checkout dvc.yaml` restores it from the cache, `dvc repro` writes it again."
    )

"""Loops and latents, opened again from the folders that the stages wrote."""

from collections.abc import Callable, Sequence
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

    def __getitem__(self, i: int) -> Float[Tensor, "samples"]:
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

    Attributes:
        mean, std: `(latent_dim,)`, of the means over the training split.

    Raises:
        ValueError: the folder is no latents artifact, the split is empty or unknown, a shard is
            truncated, holds NaN, or was made by another model than the card says.
    """

    def __init__(self, folder: str | Path, split: str | None = None) -> None:
        super().__init__(folder, split)
        self.mean = torch.tensor(self.card["mean"], dtype=torch.float32)
        self.std = torch.tensor(self.card["std"], dtype=torch.float32)

    @cached_property
    def _posteriors(self) -> tuple[Tensor, Tensor]:
        mus, sigmas = [], []
        for entry in self.card["shards"]:
            path = self.folder / entry["file"]
            try:
                with safe_open(path, framework="pt") as shard:
                    model = shard.metadata()["model"]
                    mu, sigma = shard.get_tensor("mu"), shard.get_tensor("sigma")
            except (OSError, SafetensorError, KeyError, TypeError) as error:
                raise _damaged(path, str(error)) from None
            shape = (entry["loops"], len(self.mean), self.grid.frames)
            if tuple(mu.shape) != shape or tuple(sigma.shape) != shape:
                raise _damaged(path, f"shape {tuple(mu.shape)} instead of {shape}")
            if model != self.card["model"]:
                raise ValueError(
                    f"{path} was made by model {model} but {self.folder / 'card.json'} speaks of "
                    f"{self.card['model']}: files of two runs are mixed. `dvc checkout` or "
                    "`dvc repro` makes the folder whole again."
                )
            if not (mu.isfinite().all() and sigma.isfinite().all()):
                raise _damaged(path, "NaN or infinity among its values")
            mus.append(mu)
            sigmas.append(sigma)
        rows = self.index["shard"].map(
            dict(enumerate(np.cumsum([0, *(len(m) for m in mus)]).tolist()))
        )
        chosen = torch.from_numpy((rows + self.index["row"]).to_numpy(np.int64, copy=True))
        return torch.cat(mus)[chosen], torch.cat(sigmas)[chosen]

    @property
    def mu(self) -> Float[Tensor, "n c frames"]:
        """Posterior means, in VAE 1's units."""
        return self._posteriors[0]

    @property
    def sigma(self) -> Float[Tensor, "n c frames"]:
        """Posterior standard deviations, in VAE 1's units."""
        return self._posteriors[1]

    def whitened(self) -> Float[Tensor, "n c frames"]:
        """Posterior means with the training split's mean and deviation taken out, by dimension."""
        return (self.mu - self.mean[:, None]) / self.std[:, None]

    def __getitem__(self, i: int) -> tuple[Float[Tensor, "c frames"], Float[Tensor, "c frames"]]:
        return self.mu[i], self.sigma[i]


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(
        f"{path} is truncated or damaged: {what}. It was probably copied or written only in part; "
        "`dvc checkout` restores it from the cache, `dvc repro` makes it anew."
    )

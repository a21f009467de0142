"""Which loops a step sees, and the seed of its other randomness."""

import functools
import hashlib
from collections.abc import Callable

import torch

Sampler = Callable[[int, int, int, int], list[int]]
"""`(step, loops, batch_size, seed)` to the rows of the step's batch, see `shuffled_rows`."""


def shuffled_rows(step: int, loops: int, batch_size: int, seed: int) -> list[int]:
    """Rows of a step's batch: one fresh permutation of all loops after another.

    They follow from the number of the step, so a resumed training sees the same rows.
    """
    epoch, position = divmod(step, loops // batch_size)
    order = _permutation(epoch, loops, seed)
    return order[position * batch_size : (position + 1) * batch_size]


@functools.lru_cache(maxsize=1)
def _permutation(epoch: int, loops: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(mix_seeds(seed, epoch, 1_000_003))
    rows: list[int] = torch.randperm(loops, generator=generator).tolist()
    return rows


def mix_seeds(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1

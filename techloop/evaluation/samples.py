"""Samples of loops that are compared with one another: real ones, and generated ones."""

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.instrument import Instrument
from techloop.metric import Metric

LOOPS = Metric("loops", "loops drawn")
REAL_LOOPS = Metric("real_loops", "real held-out loops")

HELD_OUT_LOOPS = 2000  # real loops that others are compared with, at most
BATCH = 50  # loops generated at a time, each batch by a seed of its own


def smallest_sample(train: LoopDataset, held_out: LoopDataset, loops_used: int) -> int:
    """Size of the smallest of three samples: training loops, held-out ones, and those drawn.

    Raises:
        ValueError: fewer than two.
    """
    n = min(len(train), len(held_out), loops_used)
    if n < 2:
        raise ValueError(
            f"a comparison of samples takes two loops of each or more; there are {len(train)} "
            f"training loops and {len(held_out)} held-out ones, and {loops_used} are asked for. "
            "Prepare more audio."
        )
    return n


def real_loops(held_out: LoopDataset, seed: int) -> Float[np.ndarray, "n samples"]:
    """All held-out loops in random order; 2,000 of them, where there are more."""
    rows = np.random.default_rng([seed, 1]).permutation(len(held_out))
    return held_out.audio(rows[:HELD_OUT_LOOPS])


def generated(instrument: Instrument, n: int, seed: int) -> Float[np.ndarray, "n samples"]:
    """Loops from the learned prior."""
    starts = tqdm(range(0, n, BATCH), "generate", leave=False)
    return np.concatenate([instrument.generate(min(BATCH, n - i), seed + i) for i in starts])


def sample_standard_normal(
    instrument: Instrument, n: int, seed: int
) -> Float[np.ndarray, "n samples"]:
    """Loops whose points are independent draws from N(0, 1), without the learned prior."""
    generator = torch.Generator().manual_seed(seed)
    return instrument.render(torch.randn(n, *instrument.point_shape, generator=generator))

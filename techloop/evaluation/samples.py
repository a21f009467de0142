"""Samples of loops that are compared with one another: real ones, and generated ones."""

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.instrument import Instrument
from techloop.metric import Metric

LOOPS = Metric("loops", "loops per sample")

BATCH = 50  # loops generated at a time, each batch by a seed of its own


def sample_size(train: LoopDataset, test: LoopDataset, most: int) -> int:
    """How many loops a sample can have: as many as either split, at most `most`.

    Raises:
        ValueError: fewer than two.
    """
    n = min(len(train), len(test), most)
    if n < 2:
        raise ValueError(
            f"generation is evaluated on two loops per split or more; train has {len(train)}, test "
            f"{len(test)}, and {most} are asked for. Prepare more audio."
        )
    return n


def real_loops(test: LoopDataset, n: int, seed: int) -> Float[np.ndarray, "n samples"]:
    """Loops of the test split, drawn without replacement."""
    return test.audio(np.sort(np.random.default_rng([seed, 1]).permutation(len(test))[:n]))


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

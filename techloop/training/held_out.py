"""Loops that trainings of a decoder are validated on, and how far it reconstructs them."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from techloop.data.datasets import LoopDataset
from techloop.models.audio_vae import AudioVAE
from techloop.training.losses import LINEAR_DISTANCE, LOG_DISTANCE, mean_spectral_distance

VALIDATION_LOOPS = 64
BATCH = 16  # loops encoded or decoded together


def validation_loops(loops_folder: str | Path) -> Float[Tensor, "n samples"]:
    """Up to 64 loops, evenly spaced over the validation split."""
    loops = LoopDataset(loops_folder, "validation")
    return torch.from_numpy(loops.audio(evenly_spaced(len(loops), VALIDATION_LOOPS)))


def reconstruction_distances(
    vae: AudioVAE, x: Float[Tensor, "n samples"], seed: int
) -> dict[str, float]:
    """Both terms of the spectral distance of loops to their reconstructions, by metric's name.

    Args:
        vae: reconstructs on its own device.
        x: the loops.
        seed: of the noise.
    """
    device = next(vae.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    parts = (part.to(device) for part in x.split(BATCH))
    log_term, linear_term = mean_spectral_distance(
        (part, vae.reconstruct(part, generator)) for part in parts
    )
    return {LOG_DISTANCE.name: log_term, LINEAR_DISTANCE.name: linear_term}


def evenly_spaced(size: int, most: int) -> np.ndarray:
    """Up to `most` row numbers, evenly spaced from 0 to `size - 1`."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int))

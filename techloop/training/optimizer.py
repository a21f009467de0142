"""The optimiser of every training, and the schedule of its learning rate."""

import math

import torch
from torch import nn

from techloop.training.distributed import precision_from_environment

WARMUP_SHARE = 0.02  # of a training, in which the learning rate rises
MAX_GRADIENT_NORM = 1.0


def make_optimizer(module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW over all parameters of a module."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        # A fused step unscales gradients itself, after they were to be clipped.
        fused=precision_from_environment() != "16-mixed",
    )


def learning_rate_share(progress: float) -> float:
    """Share of the full learning rate: a short rise, then a cosine down to zero.

    Args:
        progress: share of the training that is done.
    """
    rise = min(1.0, (progress + 1e-3) / WARMUP_SHARE)
    return rise * 0.5 * (1 + math.cos(math.pi * progress))

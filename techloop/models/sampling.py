"""Random numbers of a batch that several processes share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed


def processes() -> tuple[int, int]:
    """The number of this process, from 0 on, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def draw_shard(
    random: Callable[..., Tensor], *arguments: Any, size: tuple[int, ...], draw: torch.Generator
) -> Tensor:
    """This process's share, of shape `size`, of what `random` draws for the whole batch.

    Args:
        random: `torch.rand`, `torch.randn` or `torch.randint`.
        arguments: what it takes before the size.
        draw: in the same state in every process.
    """
    rank, count = processes()
    whole = (size[0] * count, *size[1:])
    return random(*arguments, whole, generator=draw, device=draw.device)[rank::count]


def sample_shard(mu: Tensor, sigma: Tensor, draw: torch.Generator) -> Tensor:
    """This process's share of a draw of N(mu, sigma^2), as `blocks.sample` makes of a whole."""
    return mu + sigma * draw_shard(torch.randn, size=mu.shape, draw=draw)


def sample(mu: Tensor, sigma: Tensor, draw: torch.Generator) -> Tensor:
    """A draw of N(mu, sigma^2) that lets gradients through (Kingma & Welling, 2014, 2.4)."""
    return mu + sigma * torch.randn(mu.shape, generator=draw, device=mu.device)

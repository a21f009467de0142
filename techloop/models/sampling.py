"""Random numbers of a batch that several processes share."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed


def rank_and_world_size() -> tuple[int, int]:
    """The number of this process, counted from 0, and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def draw_shard(
    random: Callable[..., Tensor],
    *arguments: int,
    size: tuple[int, ...],
    generator: torch.Generator,
) -> Tensor:
    """This process's rows, of shape `size`, of what `random` draws for the whole batch.

    Every process draws for the whole batch, so that its numbers do not depend on how many
    processes share it.

    Args:
        random: `torch.rand`, `torch.randn` or `torch.randint`.
        arguments: what it takes before the size.
        size: of this process's share; the first number counts rows.
        generator: in the same state in every process.
    """
    rank, count = rank_and_world_size()
    whole = (size[0] * count, *size[1:])
    return random(*arguments, whole, generator=generator, device=generator.device)[rank::count]


def sample_shard(mu: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """This process's rows of a `sample` of the whole batch's N(mu, sigma^2)."""
    return mu + sigma * draw_shard(torch.randn, size=mu.shape, generator=generator)


def sample(mu: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of N(mu, sigma^2) that lets gradients through (Kingma & Welling, 2014, 2.4)."""
    return mu + sigma * torch.randn(mu.shape, generator=generator, device=mu.device)

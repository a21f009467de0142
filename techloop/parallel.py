"""Training in several processes as if it were one: each has its share of every batch.

A batch is the same whatever their number. Random numbers are drawn for all of it in every process,
which keeps its own rows; what the loss looks at is gathered, so that terms over a whole batch (a
norm, a discrepancy, free nats) are what they would be in one process.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from techloop.models.model import pick_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def precision_from_environment() -> str:
    """`TECHLOOP_PRECISION`, as Lightning names them; environment, not a parameter.

    By default bf16-mixed on a GPU and on a CPU that multiplies bfloat16 itself, 32-true elsewhere.
    """
    cpu = torch.cpu.get_capabilities()
    fast = pick_device().type == "cuda" or cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    return os.environ.get("TECHLOOP_PRECISION") or ("bf16-mixed" if fast else "32-true")


def fabric_from_environment() -> "Fabric":
    """The devices of `TECHLOOP_DEVICES` (a number, or `auto` for all GPUs; by default one).

    `TECHLOOP_STRATEGY` is how they work together, as Lightning names it (by default `ddp` for more
    than one), `TECHLOOP_NODES` on how many machines. The first call starts the other processes,
    unless `torchrun` or Slurm has: each runs the same command, and the numbers are theirs.

    Raises:
        ValueError: a number of devices or machines that is none.
    """
    numbers = {}
    for name, started in zip(("TECHLOOP_DEVICES", "TECHLOOP_NODES"), _started(), strict=True):
        given = os.environ.get(name) or started
        automatic = given == "auto" and name == "TECHLOOP_DEVICES"
        if not automatic and not (given.isdecimal() and int(given)):
            raise ValueError(f"{name}={given} is no number of 1 or more")
        numbers[name] = given
    return _fabric(
        pick_device().type,
        numbers["TECHLOOP_DEVICES"],
        int(numbers["TECHLOOP_NODES"]),
        os.environ.get("TECHLOOP_STRATEGY") or "auto",
        precision_from_environment(),
    )


def _started() -> tuple[str, str]:
    """Processes a machine, and machines, that torchrun or Slurm has started; else one."""
    told = os.environ
    if here := told.get("LOCAL_WORLD_SIZE"):  # torchrun
        return here, str(int(told["WORLD_SIZE"]) // int(here))
    if "SLURM_PROCID" in told:
        return told.get("SLURM_NTASKS_PER_NODE", "1"), told.get("SLURM_NNODES", "1")
    return "1", "1"


@lru_cache(maxsize=1)
def _fabric(device: str, devices: str, nodes: int, strategy: str, precision: Any) -> "Fabric":
    from lightning_fabric import Fabric  # takes a second

    fabric = Fabric(
        accelerator=device,
        devices=devices if devices == "auto" else int(devices),
        num_nodes=nodes,
        strategy=strategy,
        precision=precision,
    )
    fabric.launch()
    return fabric


def processes() -> tuple[int, int]:
    """The number of this process, from 0 on, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def drawn(
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


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes in the order of the batch; gradients find back to each.

    For losses that every process computes alike, of gathered values alone.
    """
    return x if processes()[1] == 1 else _Gathered.apply(x)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [x.new_empty(x.shape) for _ in range(processes()[1])]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Each process has the whole gradient; DDP will take the mean of what each makes of its own.
        rank, count = processes()
        return count * gradients[0][rank::count]

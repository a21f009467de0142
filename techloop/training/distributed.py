"""Training in several processes as if it were one: each has its share of every batch.

A batch is the same whatever their number. Random numbers are drawn for all of it in every process,
which keeps its own rows; what the loss looks at is all_gather, so that terms over a whole batch (a
norm, a discrepancy, free nats) are what they would be in one process.
"""

import os
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from techloop.models.base import pick_device
from techloop.models.sampling import processes

if TYPE_CHECKING:
    from lightning_fabric import Fabric

FIRST = "_FIRST_OF_SEVERAL"  # in the environment of those that it starts: its number


def precision_from_environment() -> str:
    """`TECHLOOP_PRECISION`: 32-true, bf16-mixed or 16-mixed; environment, not a parameter.

    By default bf16-mixed on a GPU and on a CPU that multiplies bfloat16 itself, 32-true elsewhere.

    Raises:
        ValueError: another one.
    """
    cpu = torch.cpu.get_capabilities()
    fast = pick_device().type == "cuda" or cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    given = _one_of("TECHLOOP_PRECISION", ("32-true", "bf16-mixed", "16-mixed"))
    return given or ("bf16-mixed" if fast else "32-true")


def fabric_from_environment() -> "Fabric":
    """The devices of `TECHLOOP_DEVICES` (a number, or `auto` for all GPUs; by default one).

    `TECHLOOP_STRATEGY` is how they work together (`ddp`, which is the default for more than one).
    The first call starts the other processes, unless `torchrun` or Slurm has, on one machine or
    several: each runs the same command.

    Raises:
        ValueError: a number of devices that is none, or another one than was started; an unknown
            strategy.
    """
    given = os.environ.get("TECHLOOP_DEVICES", "")
    if given not in ("", "auto") and not (given.isdecimal() and int(given)):
        raise ValueError(f"TECHLOOP_DEVICES={given} is no number of 1 or more")
    strategy = _one_of("TECHLOOP_STRATEGY", ("auto", "ddp")) or "auto"
    if started := _started():
        count, nodes = started
        if given not in ("", "auto", str(count)):
            raise ValueError(
                f"TECHLOOP_DEVICES={given}, but torchrun or Slurm has started {count} on this "
                f"machine. Have it start {given} (--nproc-per-node, --ntasks-per-node), or unset "
                "TECHLOOP_DEVICES."
            )
    else:
        count = max(1, torch.cuda.device_count()) if given == "auto" else int(given or "1")
        nodes = 1
    return _fabric(pick_device().type, count, nodes, strategy, precision_from_environment())


def _one_of(name: str, known: tuple[str, ...]) -> str:
    """A variable's value, or nothing; others than these are refused."""
    given = os.environ.get(name, "")
    if given and given not in known:
        raise ValueError(f"{name}={given} is none of {', '.join(known)}")
    return given


def _started() -> tuple[int, int] | None:
    """Processes a machine, and machines, that torchrun or Slurm has started."""
    told = os.environ
    if here := told.get("LOCAL_WORLD_SIZE"):  # torchrun
        return int(here), int(told["WORLD_SIZE"]) // int(here)
    if "SLURM_PROCID" in told:
        return int(told.get("SLURM_NTASKS_PER_NODE", "1")), int(told.get("SLURM_NNODES", "1"))
    return None


@lru_cache(maxsize=1)
def _fabric(device: str, devices: int, nodes: int, strategy: str, precision: Any) -> "Fabric":
    from lightning_fabric import Fabric  # takes a second
    from lightning_fabric.strategies import DDPStrategy

    if device == "cuda":  # two runs are to end with the same bytes
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    several = devices * nodes > 1 or strategy == "ddp"
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        # Buffers are constants of a training: each process has them as they are.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        precision=precision,
    )
    if several and not _started():
        # The first starts the others and looks after them, but nobody after the first.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.environ[FIRST] = str(os.getpid())
        else:
            first = int(os.environ.get(FIRST, os.getppid()))
            threading.Thread(target=_end_with, args=(first,), daemon=True).start()
    fabric.launch()
    return fabric


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def all_gather(x: Tensor) -> Tensor:
    """The rows of all processes in the order of the batch; gradients find back to each.

    For losses that every process computes alike, of all_gather values alone.
    """
    return x if processes()[1] == 1 else _AllGather.apply(x)


class _AllGather(torch.autograd.Function):
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

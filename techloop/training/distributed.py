"""Several processes train as if they were one: each computes its share of every batch.

A batch is the same whatever their number is. Every process draws the random numbers of the whole
batch and keeps its own rows. What the loss is computed from is gathered, so that terms over a whole
batch (a norm, a discrepancy, free nats) are what they would be in one process.
"""

import os
import threading
import time
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx

from techloop.models.base import pick_device
from techloop.models.sampling import rank_and_world_size
from techloop.rank import is_rank_zero

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Strategy = Literal["auto", "ddp"]
Choice = TypeVar("Choice", bound=str)

PARENT = "_RANK0_PROCESS_ID"  # in the environment of the processes that rank 0 starts: its id


def precision_from_environment() -> Precision:
    """`TECHLOOP_PRECISION`: 32-true, bf16-mixed or 16-mixed; environment, not a parameter.

    The default is bf16-mixed on a GPU and on a CPU that multiplies bfloat16 itself, else 32-true.

    Raises:
        ValueError: another value.
    """
    cpu = torch.cpu.get_capabilities()
    fast = pick_device().type == "cuda" or cpu.get("avx512_bf16") or cpu.get("amx_bf16")
    default: Precision = "bf16-mixed" if fast else "32-true"
    return _from_environment("TECHLOOP_PRECISION", get_args(Precision), default)


def launch_fabric() -> "Fabric":
    """Fabric on the devices of `TECHLOOP_DEVICES`: a number (by default 1), or `auto` for all GPUs.

    `TECHLOOP_STRATEGY` says how they work together (`ddp` is the default for more than one). Unless
    torchrun or Slurm has started all processes, this call starts the others; each runs the same
    command. Call it once per process.

    Raises:
        ValueError: not a number of devices, or another number than was started; an unknown
            strategy; variables of torchrun or Slurm that do not fit each other.
    """
    from lightning_fabric import Fabric  # takes a second
    from lightning_fabric.strategies.ddp import DDPStrategy

    strategy = _from_environment("TECHLOOP_STRATEGY", get_args(Strategy), "auto")
    devices, nodes = _devices()
    device = pick_device().type
    if device == "cuda":  # two runs must end with the same bytes
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    several = devices * nodes > 1 or strategy == "ddp"
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        # Buffers are constants of a training, the same in each process.
        strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
        precision=precision_from_environment(),
    )
    if several and not _started():
        _end_with_parent()
    fabric.launch()
    if fabric.is_global_zero != is_rank_zero():
        raise ValueError(
            f"this process is number {fabric.global_rank} of {fabric.world_size}, but RANK, "
            "LOCAL_RANK, NODE_RANK or SLURM_PROCID says another. Unset them, or start all "
            "processes by torchrun or Slurm."
        )
    return fabric


def all_gather(x: Tensor) -> Tensor:
    """The rows of all processes in the order of the batch; gradients flow back to each.

    It serves losses that every process computes alike, from gathered values only.

    Fabric's `all_gather(sync_grads=True)` and torch's, which it calls, do not replace it: in
    torch 2.11 on CPUs their gradient is wrong where that of the result is not contiguous, as after
    a transposition, and they communicate a second time, in the backward pass.
    """
    if rank_and_world_size()[1] == 1:
        return x
    gathered: Tensor = _AllGather.apply(x)  # type: ignore[no-untyped-call]  # torch's
    return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        parts = [x.new_empty(x.shape) for _ in range(rank_and_world_size()[1])]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        # Each process has the whole gradient. DDP takes the mean over processes, hence the factor.
        rank, count = rank_and_world_size()
        return count * gradients[0][rank::count]


def _from_environment(name: str, allowed: tuple[Choice, ...], default: Choice) -> Choice:
    """The value of a variable; `default` where it is empty or not set."""
    given = os.environ.get(name)
    if not given:
        return default
    for value in allowed:
        if value == given:
            return value
    raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {given!r}")


def _devices() -> tuple[int, int]:
    """Devices per machine, and machines."""
    given = os.environ.get("TECHLOOP_DEVICES", "")
    if given not in ("", "auto") and not (given.isdecimal() and int(given)):
        raise ValueError(f"TECHLOOP_DEVICES must be a positive integer or 'auto', got {given!r}")
    if started := _started():
        if given not in ("", "auto", str(started[0])):
            raise ValueError(
                f"TECHLOOP_DEVICES={given}, but torchrun or Slurm has started {started[0]} "
                f"processes on this machine. Have it start {given} (--nproc-per-node, "
                "--ntasks-per-node), or unset TECHLOOP_DEVICES."
            )
        return started
    if given == "auto":
        return max(1, torch.cuda.device_count()), 1
    return int(given or "1"), 1


def _started() -> tuple[int, int] | None:
    """Processes per machine, and machines, if torchrun or Slurm has started them."""
    variables = os.environ
    if local := variables.get("LOCAL_WORLD_SIZE"):  # torchrun
        return int(local), int(variables["WORLD_SIZE"]) // int(local)
    if "SLURM_PROCID" in variables:
        tasks, nodes = variables.get("SLURM_NTASKS_PER_NODE", "1"), variables.get("SLURM_NNODES")
        return int(tasks), int(nodes or "1")
    return None


def _end_with_parent() -> None:
    """Rank 0 ends the processes that it started; have them also end when rank 0 is killed."""
    if is_rank_zero():
        os.environ[PARENT] = str(os.getpid())
        return
    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

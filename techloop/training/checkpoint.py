"""The state of a training on disk: where it lies, what it holds, and who reads it."""

import hashlib
import io
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from techloop.artifacts import atomic_write
from techloop.closure import code_fingerprint
from techloop.rank import is_rank_zero
from techloop.training.distributed import precision_from_environment
from techloop.training.task import Batch, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

History = list[dict[str, int | float | str]]
"""One row per log: `loops_seen`, `split`, then the numbers by name."""

FINISHED_LIFETIME_S = 86_400  # lets a stage that failed after its training end without another one


@dataclass(frozen=True)
class Checkpoint:
    """The files of one training in its own folder.

    Attributes:
        folder: `<checkpoints>/<hash of identity>`, see `checkpoint_folder`.
    """

    folder: Path

    @property
    def last(self) -> Path:
        """The state of an interrupted training: weights, optimiser, step and history."""
        return self.folder / "last.pt"

    @property
    def finished(self) -> Path:
        """Weights and history of a finished training; the same call then returns at once."""
        return self.folder / "finished.pt"

    def restore(
        self, fabric: "Fabric", module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[int, History]:
        """Load the state, if there is one, in every process.

        Rank 0 reads it for all: other ranks may be on machines with other disks.

        Returns:
            The number of steps done, and the history up to there.
        """
        paths = [p for p in (self.finished, self.last) if p.exists()] if is_rank_zero() else []
        content = fabric.broadcast(paths[0].read_bytes() if paths else b"")
        if not content:
            return 0, []
        state = torch.load(io.BytesIO(content), map_location=fabric.device, weights_only=True)
        module.load_state_dict(state["model"])
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
            fabric.strategy.precision.load_state_dict(state["precision"])
        return state["step"], state["history"]

    def save(
        self,
        fabric: "Fabric",
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        step: int,
        history: History,
        is_last_step: bool,
    ) -> None:
        """Write the state after some steps; only rank 0 writes."""
        if not is_rank_zero():
            return
        state: dict[str, object] = {"model": module.state_dict(), "step": step, "history": history}
        if not is_last_step:
            state["optimizer"] = optimizer.state_dict()
            state["precision"] = fabric.strategy.precision.state_dict()
        # To memory first: torch.save reports a full disk as another error.
        torch.save(state, content := io.BytesIO())
        atomic_write(self.finished if is_last_step else self.last, content.getvalue())

    def end(self) -> None:
        """Remove the state that a finished training no longer needs."""
        if is_rank_zero():
            self.last.unlink(missing_ok=True)


def checkpoint_folder(
    identity: Mapping[str, object], code: str, device: str, checkpoints: Path
) -> Path:
    """The folder of a training of this identity, code, kind of device and precision.

    Args:
        identity: see `Task.identity`.
        code: module whose closure computes the result (`techloop.closure.code_fingerprint`).
        device: its type, since each kind of device has random numbers of its own.
        checkpoints: folder of all checkpoints.
    """
    environment = {
        "code": code_fingerprint(code),
        "device": device,
        "precision": precision_from_environment(),
    }
    text = json.dumps({**identity, **environment}, sort_keys=True, default=str)
    return checkpoints / hashlib.sha256(text.encode()).hexdigest()[:16]


def checkpoint_of(task: Task[Batch], fabric: "Fabric", checkpoints: Path) -> Checkpoint:
    """The checkpoint of a task; its code is the closure of the task's own module."""
    code, device = type(task).__module__, fabric.device.type
    return Checkpoint(checkpoint_folder(task.identity, code, device, checkpoints))


def remove_outdated(checkpoints: Path, current: Checkpoint) -> None:
    """Delete finished trainings older than a day, except the current one."""
    for finished in checkpoints.glob("*/finished.pt"):
        with suppress(FileNotFoundError):  # another process may delete it at the same time
            age_s = time.time() - finished.stat().st_mtime
            if age_s > FINISHED_LIFETIME_S and finished != current.finished:
                shutil.rmtree(finished.parent)

"""The optimiser of every training, and the schedule of its learning rate."""

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from techloop.training.distributed import precision_from_environment

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.wrappers import _FabricOptimizer

WARMUP_SHARE = 0.02  # of a training, in which the learning rate rises
MAX_GRADIENT_NORM = 1.0


class ParameterGroup(NamedTuple):
    """Parameters that are updated alike, and whose gradients are clipped together.

    Attributes:
        parameters: of a module.
        learning_rate: its highest value, see `learning_rate_share`.
        betas: decay of Adam's moments.
        name: the norm of the gradients is logged as `gradient_norm_<name>`; without a name it is
            not.
    """

    parameters: Iterable[nn.Parameter]
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    name: str = ""


def make_optimizer(groups: Iterable[ParameterGroup]) -> torch.optim.Optimizer:
    """AdamW over some groups of parameters; each keeps its learning rate as `peak_lr`."""
    return torch.optim.AdamW(
        [
            {
                "params": list(group.parameters),
                "lr": group.learning_rate,
                "peak_lr": group.learning_rate,
                "betas": group.betas,
                "name": group.name,
            }
            for group in groups
        ],
        weight_decay=0.01,
        # A fused step unscales gradients itself, after they were to be clipped.
        fused=precision_from_environment() != "16-mixed",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """The learning rate of every group, when so large a share of the training is done."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * learning_rate_share(progress)


def clip_gradients(
    fabric: "Fabric", optimizer: "_FabricOptimizer", resting: Collection[str] = ()
) -> dict[str, Tensor]:
    """Clip the gradients of each group to `MAX_GRADIENT_NORM`.

    Args:
        fabric: of the training.
        optimizer: as `fabric` wrapped it.
        resting: names of groups that are not updated in this step. Their gradients are dropped:
            zeros would count as steps, and the first real ones would be far too large.

    Returns:
        Norms before clipping, `gradient_norm_<name>`, of the other groups that have a name.
    """
    # Fabric's own `clip_gradients` takes all groups together.
    fabric.strategy.precision.unscale_gradients(optimizer.optimizer)
    norms = {
        f"gradient_norm_{group['name']}": nn.utils.clip_grad_norm_(
            group["params"], MAX_GRADIENT_NORM
        )
        for group in optimizer.param_groups
        if group["name"] not in resting
    }
    for group in optimizer.param_groups:
        if group["name"] in resting:
            for parameter in group["params"]:
                parameter.grad = None
    norms.pop("gradient_norm_", None)
    return norms


def learning_rate_share(progress: float) -> float:
    """Share of the full learning rate: a short rise, then a cosine down to zero.

    Args:
        progress: share of the training that is done.
    """
    rise = min(1.0, (progress + 1e-3) / WARMUP_SHARE)
    return rise * 0.5 * (1 + math.cos(math.pi * progress))

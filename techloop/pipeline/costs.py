"""What computing costs, counted while it is done small: FLOPs, memory, time on a graphics card.

A training step is counted at a few batch sizes. What it takes grows with the batch `b` as
`fixed + linear b + quadratic b^2` (a discrepancy looks at pairs), which three sizes determine, and
which tells what it takes at any other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BYTES_A_WEIGHT = 16  # float32: itself, its gradient, the two moments of Adam
UPDATE_BYTES_A_WEIGHT = 28  # all four read, all but the gradient written
# What is kept for the backward pass, with what passes beside it: 1.0 to 1.7 times as much, most of
# pairs of frames, by PyTorch's profiler.
PASSING = 1.7


@dataclass(frozen=True)
class Card:
    """A graphics card, and how much of it is made use of.

    The defaults are the slowest cards with 24 GB that calculate in bfloat16 (RTX 3090, A10G).

    Attributes:
        memory_gb: GB of 1e9 bytes.
        peak_flops: a second, of dense products in bfloat16.
        peak_bytes: a second, of its memory.
        used_flops, used_bytes: shares of the two that are reached, as an assumption.
        launch_s: seconds an operation takes at least.
    """

    memory_gb: float = 24.0
    peak_flops: float = 70e12
    peak_bytes: float = 600e9
    used_flops: float = 0.3
    used_bytes: float = 0.7
    launch_s: float = 10e-6

    def seconds(self, cost: "Cost") -> float:
        """How long it would take: products, then traffic, but no less than to start each."""
        products = cost.flops / (self.used_flops * self.peak_flops)
        traffic = cost.moved / (self.used_bytes * self.peak_bytes)
        return max(products + traffic, cost.operations * self.launch_s)


@dataclass
class Cost:
    """What was done.

    Attributes:
        flops: of products and convolutions, two a multiplication with its addition.
        moved: bytes read and written by operations, each by itself.
        operations: how many.
    """

    flops: float = 0.0
    moved: float = 0.0
    operations: float = 0.0

    def since(self, before: "Cost") -> "Cost":
        """What was done after `before`."""
        return Cost(*(getattr(self, n) - getattr(before, n) for n in self.__dataclass_fields__))


@dataclass
class Step:
    """A training step.

    Attributes:
        cost: from the first product of the network to the update of its weights.
        parameters: trained numbers.
        saved: bytes kept from the forward for the backward pass, weights aside.
    """

    cost: Cost
    parameters: int
    saved: float

    @property
    def memory(self) -> float:
        """Bytes of it at its highest: weights and what belongs to each, and what passes."""
        return BYTES_A_WEIGHT * self.parameters + PASSING * self.saved


@dataclass
class Meter:
    """What is counted inside of `metered`.

    Attributes:
        cost: of everything.
        steps: of training, in order.
    """

    cost: Cost = field(default_factory=Cost)
    steps: list[Step] = field(default_factory=list)


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what PyTorch does in the block, in this process."""
    meter, began = Meter(), list[Cost]()
    saved: dict[int, int] = {}  # bytes by their place in memory, where many tensors may look at one

    def keep(x: Tensor) -> Tensor:
        if not began:
            began.append(meter.cost.since(Cost()))
        storage = x.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return x.detach()

    def stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [w for group in optimizer.param_groups for w in group["params"]]
        for weight in weights:
            saved.pop(weight.untyped_storage().data_ptr(), None)
        parameters = sum(weight.numel() for weight in weights)
        cost = meter.cost.since(began.pop())
        # The update is not counted but known: the first one also makes the moments.
        cost.moved += UPDATE_BYTES_A_WEIGHT * parameters
        meter.steps.append(Step(cost, parameters, float(sum(saved.values()))))
        saved.clear()

    hook = register_optimizer_step_pre_hook(stepped)
    try:
        with saved_tensors_hooks(keep, lambda x: x), _Counter(meter.cost):
            yield meter
    finally:
        hook.remove()


def at_batch(steps: Sequence[Step], sizes: Sequence[int], batch: int) -> Step:
    """A step at another batch size than those three that were counted, see above."""

    def there(values: Sequence[float]) -> float:
        return float(np.polyval(np.polyfit(sizes, values, 2), batch))

    costs = [step.cost for step in steps]
    cost = Cost(
        there([c.flops for c in costs]),
        there([c.moved for c in costs]),
        max(c.operations for c in costs),
    )
    return Step(cost, steps[0].parameters, there([step.saved for step in steps]))


class _Counter(TorchDispatchMode):
    """Adds every operation to a cost."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()
        self.cost = cost

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:  # one of several operations, as there are without gradients?
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if formula is not None:
            self.cost.flops += formula(*args, **kwargs, out_val=out)
        if not func.is_view:
            self.cost.operations += 1
            tensors = (x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
            self.cost.moved += sum(x.numel() * x.element_size() for x in tensors)
        return out

"""What a computation costs, counted while it runs small: FLOPs, memory, time on a graphics card.

A training step is counted at three batch sizes. Its cost grows with the batch size `b` as
`fixed + linear b + quadratic b^2` (a discrepancy compares pairs), so three sizes determine the cost
at any other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

BYTES_PER_WEIGHT = 16  # float32: itself, its gradient, the two moments of Adam
UPDATE_BYTES_PER_WEIGHT = 28  # all four read, all but the gradient written
# Peak memory over the bytes saved for the backward pass: 1.0 to 1.7 by PyTorch's profiler, largest
# where pairs of frames are compared.
PEAK_OVER_SAVED = 1.7


@dataclass(frozen=True)
class Card:
    """A graphics card, and how much of its speed is used.

    The defaults are the slowest cards with 24 GB that compute in bfloat16 (RTX 3090, A10G).

    Attributes:
        memory_gb: GB of 1e9 bytes.
        peak_flops: per second, for dense products in bfloat16.
        peak_bytes: per second, of its memory.
        used_flops, used_bytes: shares of the two that are reached, as an assumption.
        launch_s: least seconds per operation.
    """

    memory_gb: float = 24.0
    peak_flops: float = 70e12
    peak_bytes: float = 600e9
    used_flops: float = 0.3
    used_bytes: float = 0.7
    launch_s: float = 10e-6

    def seconds(self, cost: "Cost") -> float:
        """Time for products plus memory traffic; at least the time to launch every operation."""
        products = cost.flops / (self.used_flops * self.peak_flops)
        traffic = cost.moved / (self.used_bytes * self.peak_bytes)
        return max(products + traffic, cost.operations * self.launch_s)


@dataclass
class Cost:
    """What some operations cost.

    Attributes:
        flops: of products and convolutions; a multiplication with its addition counts two.
        moved: bytes read and written, summed over operations.
        operations: their number.
    """

    flops: float = 0.0
    moved: float = 0.0
    operations: float = 0.0

    def since(self, before: "Cost") -> "Cost":
        """The cost added after `before`."""
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
        """Peak bytes: weights with gradients and moments, and intermediate values."""
        return BYTES_PER_WEIGHT * self.parameters + PEAK_OVER_SAVED * self.saved


@dataclass
class Meter:
    """What `metered` counts.

    Attributes:
        cost: of everything.
        steps: of training, in order.
    """

    cost: Cost = field(default_factory=Cost)
    steps: list[Step] = field(default_factory=list)


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what PyTorch computes in the block, in this process."""
    meter, starts = Meter(), list[Cost]()
    saved: dict[int, int] = {}  # bytes by address, since many tensors may share one storage

    def keep(x: Tensor) -> Tensor:
        if not starts:
            starts.append(meter.cost.since(Cost()))
        storage = x.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return x.detach()

    def before_update(optimizer: torch.optim.Optimizer, *_: object) -> None:
        weights = [w for group in optimizer.param_groups for w in group["params"]]
        for weight in weights:
            saved.pop(weight.untyped_storage().data_ptr(), None)
        parameters = sum(weight.numel() for weight in weights)
        cost = meter.cost.since(starts.pop())
        # The update's cost is added by hand: the first update also creates the moments.
        cost.moved += UPDATE_BYTES_PER_WEIGHT * parameters
        meter.steps.append(Step(cost, parameters, float(sum(saved.values()))))
        saved.clear()

    hook = register_optimizer_step_pre_hook(before_update)
    try:
        with saved_tensors_hooks(keep, lambda x: x), _Counter(meter.cost):
            yield meter
    finally:
        hook.remove()


def at_batch(steps: Sequence[Step], sizes: Sequence[int], batch: int) -> Step:
    """A step at any batch size, from steps at three sizes, see the module's docstring."""

    def extrapolate(values: Sequence[float]) -> float:
        return float(np.polyval(np.polyfit(sizes, values, 2), batch))

    costs = [step.cost for step in steps]
    cost = Cost(
        extrapolate([c.flops for c in costs]),
        extrapolate([c.moved for c in costs]),
        max(c.operations for c in costs),
    )
    return Step(cost, steps[0].parameters, extrapolate([step.saved for step in steps]))


class _Counter(TorchDispatchMode):
    """Adds every operation to a cost."""

    def __init__(self, cost: Cost) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.cost = cost

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:  # it may consist of several operations, as without gradients
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        out = func(*args, **kwargs)
        if formula is not None:
            self.cost.flops += formula(*args, **kwargs, out_val=out)
        if not func.is_view:
            self.cost.operations += 1
            tensors = (x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
            self.cost.moved += sum(x.numel() * x.element_size() for x in tensors)
        return out

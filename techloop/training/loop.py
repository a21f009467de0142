"""The one training loop: resuming, learning rate, logs, validation, checkpoints.

What a step computes is the task's business (`techloop.training.task`).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from techloop.params import Training
from techloop.rank import is_rank_zero
from techloop.training.checkpoint import History, checkpoint_of
from techloop.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from techloop.training.sampler import Sampler, mix_seeds, shuffled_rows
from techloop.training.task import Batch, Task

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Log = Callable[[Mapping[str, float], int], None]
"""Takes numbers by name, each prefixed by its split, and the loops seen."""

LOGS_PER_VALIDATION = 5


def fit(
    task: Task[Batch],
    fabric: "Fabric",
    *,
    training: Training,
    seed: int,
    log: Log,
    checkpoints: Path,
    sampler: Sampler = shuffled_rows,
) -> History:
    """Train `task.module` in place; the same call resumes where an interrupted one stopped.

    All randomness of a step follows from `seed` and the step's number, so an interrupted and
    resumed training ends with the same weights as an uninterrupted one.

    Args:
        task: what to train; every process has its own copy.
        fabric: launched, see `techloop.training.distributed`.
        training: how long, and how often to validate and save; how often to log follows from that.
        seed: of all randomness.
        log: is called in rank 0.
        checkpoints: holds a folder per hash with `last.pt`, or `finished.pt` after the last step.
            With `finished.pt`, `fit` trains nothing and returns the history.
        sampler: which loops a step sees.

    Returns:
        One row per log: `loops_seen`, `split`, then the numbers by name.

    Raises:
        ValueError: a batch cannot be divided equally among the processes.
        FloatingPointError: the loss or a weight is not finite.
    """
    loops = len(task.loop_ids)
    cadence = Cadence.of(training, loops, fabric.world_size)
    optimizer = make_optimizer(task.groups(training.learning_rate))
    module, optimizer = fabric.setup(task.module, optimizer)

    # Resume.
    checkpoint = checkpoint_of(task, fabric, checkpoints)
    first, history = checkpoint.restore(fabric, task.module, optimizer)

    def record(split: str, seen: int, values: Mapping[str, float]) -> None:
        history.append({"loops_seen": seen, "split": split, **values})
        if is_rank_zero():
            log({f"{split}_{name}": value for name, value in values.items()}, seen)

    def diverged(cause: str, step: int) -> FloatingPointError:
        ids = (task.loop_ids[row] for row in sampler(step, loops, cadence.batch_size, seed))
        if checkpoint.last.exists():
            again = f"resumes from the last checkpoint, {checkpoint.last}"
        else:
            again = "starts from the beginning, as no checkpoint has been saved yet"
        return FloatingPointError(
            f"{cause} at step {step} ({step * cadence.batch_size} loops seen), in a batch of the "
            f"loops {', '.join(ids)}. The learning rate {training.learning_rate:g} may be too "
            "high, or one of these loops is damaged. A lower learning rate starts the training "
            f"anew; the same command {again}."
        )

    generator = torch.Generator(fabric.device)
    means = RunningMeans()
    bar = tqdm(
        total=cadence.steps * cadence.batch_size,
        initial=first * cadence.batch_size,
        unit=" loops",
        disable=not is_rank_zero(),
        mininterval=1,
    )
    for step in range(first, cadence.steps):
        # One step.
        generator.manual_seed(mix_seeds(seed, step, 0))
        set_learning_rate(optimizer, step / cadence.steps)
        rows = sampler(step, loops, cadence.batch_size, seed)
        batch = task.batch(rows[fabric.global_rank :: fabric.world_size])
        terms = task.loss(module, batch, generator, step * cadence.batch_size)
        fabric.backward(terms["loss"])
        norms = clip_gradients(fabric, optimizer, task.resting(step * cadence.batch_size))
        optimizer.step()
        optimizer.zero_grad()
        means.add(terms | norms)
        bar.update(cadence.batch_size)

        done = step + 1
        seen, is_last = done * cadence.batch_size, done == cadence.steps

        # Log.
        if is_last or done % cadence.log_every == 0:
            values, losses = means.take()
            for number, loss in enumerate(losses, done - len(losses)):
                if not math.isfinite(loss):
                    raise diverged(f"the loss is {loss}", number)
            record("train", seen, values)
            if is_rank_zero():
                task.inspect(history)
            bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)

        # Validate.
        if is_last or done % cadence.validate_every == 0:
            task.module.eval()
            with torch.no_grad():
                record("validation", seen, task.validate())
            task.module.train()

        # Save.
        if is_last or done % cadence.save_every == 0:
            finite = [weight.isfinite().all() for weight in task.module.parameters()]
            if not torch.stack(finite).all():
                raise diverged("a weight is no longer finite", step)
            checkpoint.save(
                fabric, task.module, optimizer, step=done, history=history, is_last_step=is_last
            )
    checkpoint.end()
    bar.close()
    task.module.eval()
    return history


class Cadence(NamedTuple):
    """Number of steps, and how often to log, validate and save (in steps)."""

    batch_size: int
    steps: int
    log_every: int
    validate_every: int
    save_every: int

    @classmethod
    def of(cls, training: Training, loops: int, processes: int) -> "Cadence":
        """The cadence of a training on so many loops, whose parameters count loops seen.

        Raises:
            ValueError: a batch cannot be divided equally among the processes.
        """
        batch_size = min(training.batch_size, loops)
        if batch_size % processes:
            raise ValueError(
                f"a batch of {batch_size} loops cannot be divided equally among {processes} "
                "processes; set TECHLOOP_DEVICES to a divisor, or batch_size to a multiple"
            )
        validate_every = max(1, training.validate_every_loops // batch_size)
        log_every = max(1, validate_every // LOGS_PER_VALIDATION)
        # Checkpoints are saved right after a log, so that a resumed training never loses part of a
        # mean.
        logs = max(1, training.checkpoint_every_loops // (log_every * batch_size))
        steps = math.ceil(training.loops / batch_size)
        return cls(batch_size, steps, log_every, validate_every, log_every * logs)


class RunningMeans:
    """Means of the steps' numbers. Summed on the device; copied to the CPU only for a log.

    A number that some steps do not have is the mean over the others.
    """

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._counts = Counter[str]()
        self._losses: list[Tensor] = []

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Count a step in."""
        for name, value in terms.items():
            value = value.detach()
            self._totals[name] = self._totals[name] + value if name in self._totals else value
        self._counts.update(terms.keys())
        self._losses.append(terms["loss"].detach())

    def take(self) -> tuple[dict[str, float], list[float]]:
        """The means since the last call, and the loss of each step since then."""
        means = {name: float(total) / self._counts[name] for name, total in self._totals.items()}
        losses: list[float] = torch.stack(self._losses).tolist()
        self._totals, self._counts, self._losses = {}, Counter(), []
        return means, losses

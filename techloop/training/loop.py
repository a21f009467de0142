"""The one training loop: cadence, schedule, resuming. What a step computes is not its business."""

import hashlib
import io
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from techloop.artifacts import atomic_folder, atomic_write, write_json
from techloop.closure import code_fingerprint
from techloop.models.base import Model, parameter_count, pick_device
from techloop.models.sampling import processes
from techloop.params import Training
from techloop.training.distributed import fabric_from_environment, precision_from_environment

Log = Callable[[Mapping[str, float], int], None]
Step = Callable[[nn.Module, list[int], torch.Generator, int], dict[str, Tensor]]
Validate = Callable[[nn.Module], dict[str, float]]

WARMUP_SHARE = 0.02  # of all loops: the learning rate rises, then falls to zero as a cosine
LOGS_PER_VALIDATION = 5
GRADIENT_NORM = 1.0
KEPT_S = 86_400  # what a training came to, in case that what follows it fails


def train_into(
    folder: str | Path,
    model: Model,
    step: Step,
    validate: Validate,
    *,
    ids: Sequence[str],
    training: Training,
    seed: int,
    notes: Mapping[str, Any],
    identity: Mapping[str, Any],
    log: Log,
    checkpoints: Path,
    beside: Mapping[str, Path] | None = None,
    trained: nn.Module | None = None,
    finish: Callable[[], None] | None = None,
) -> dict[str, float]:
    """`fit` a model, then write its folder whole: weights, configuration, history and metrics.

    Args:
        folder: is replaced.
        notes: what `config.json` says besides sizes and grid; part of the identity.
        identity: what else determines the result.
        beside: folders copied into it, by name.
        trained: what `fit` trains, where the model is only a part of it.
        finish: finds, without gradients, what is found once the weights are.

    Returns:
        The numbers of the last validation, and the network's size.
    """
    import pandas as pd

    whole_identity = {"network": type(model).__name__, **identity, **notes}
    for old in checkpoints.glob("*/finished.pt"):
        with suppress(FileNotFoundError):  # another training may be quicker
            outdated = time.time() - old.stat().st_mtime > KEPT_S
            if outdated and old.parent != checkpoint_folder(whole_identity, checkpoints):
                shutil.rmtree(old.parent)
    history = fit(
        trained or model,
        step,
        validate,
        ids=ids,
        training=training,
        seed=seed,
        identity=whole_identity,
        log=log,
        checkpoints=checkpoints,
    )
    if finish:
        with torch.no_grad():
            finish()
    last = next(row for row in reversed(history) if row["split"] == "validation")
    metrics = {name: float(value) for name, value in last.items() if name != "split"}
    metrics["parameters"] = float(parameter_count(model))
    if processes()[0] != 0:  # all know the same, one writes
        return metrics
    with atomic_folder(folder) as new:
        model.save(new, **notes)
        pd.DataFrame(history).to_csv(new / "history.csv", index=False)
        write_json(new / "metrics.json", metrics)
        for name, source in (beside or {}).items():
            shutil.copytree(source, new / name)
    return metrics


def fit(
    model: nn.Module,
    step: Step,
    validate: Validate,
    *,
    ids: Sequence[str],
    training: Training,
    seed: int,
    identity: Mapping[str, Any],
    log: Log,
    checkpoints: Path,
) -> list[dict[str, Any]]:
    """Train `model` in place; the same command resumes where an interrupted one stopped.

    All randomness of a step follows from `seed` and the step's number, so an interrupted and
    resumed run ends with the weights of an undisturbed one.

    Args:
        step: `(model, rows, draw, loops_seen)` to named scalars; `loss` is minimised. `rows` are
            this process's share of the batch, the scalars those of all of it (`techloop.training.distributed`).
        validate: the model's named numbers on held-out loops; called without gradients, in every
            process with all of them.
        ids: of the loops of the training split.
        identity: all that determines the result; a checkpoint of another identity is not resumed.
        log: called with named numbers, prefixed by their split, and the loops seen.
        checkpoints: folder of `<hash of identity>/last.pt`, or of `finished.pt` after the last
            step, with which the same call is done at once.

    Returns:
        The history: one row a log, `loops_seen`, `split`, then the metrics.

    Raises:
        ValueError: the processes cannot have equal shares of a batch.
        FloatingPointError: the loss or a weight is no longer finite.
    """
    fabric = fabric_from_environment()
    optimizer = optimizer_of(model, training.learning_rate)
    wrapped, optimizer = fabric.setup(model, optimizer)
    folder = checkpoint_folder(identity, checkpoints)
    last, finished = folder / "last.pt", folder / "finished.pt"
    first, history = 0, list[dict[str, Any]]()
    # Read by one for all: they may be on machines with folders of their own.
    here = [path for path in (finished, last) if path.exists() and fabric.is_global_zero]
    if kept := fabric.broadcast(here[0].read_bytes() if here else b""):
        saved = torch.load(io.BytesIO(kept), map_location=fabric.device, weights_only=True)
        model.load_state_dict(saved["model"])
        first, history = saved["step"], saved["history"]
        if "optimizer" in saved:
            optimizer.load_state_dict(saved["optimizer"])
            fabric.strategy.precision.load_state_dict(saved["precision"])

    loops = len(ids)
    batch = min(training.batch_size, loops)
    if batch % fabric.world_size:
        raise ValueError(
            f"a batch of {batch} loops cannot be shared by {fabric.world_size} processes; set "
            "TECHLOOP_DEVICES to a divisor, or batch_size to a multiple"
        )
    steps = math.ceil(training.loops / batch)
    validate_every = max(1, training.validate_every_loops // batch)
    log_every = max(1, validate_every // LOGS_PER_VALIDATION)
    # With a log, so that no running mean is cut in two.
    save_every = log_every * max(1, training.checkpoint_every_loops // (log_every * batch))
    draw = torch.Generator(fabric.device)
    totals = _Means()

    def stopped(what: str, step: int) -> FloatingPointError:
        rows = ", ".join(ids[row] for row in batch_rows(step, loops, batch, seed))
        return FloatingPointError(
            f"{what} at step {step} ({step * batch} loops seen), of the loops {rows}. The rate "
            f"{training.learning_rate:g} may be too high, or one of them damaged. The last good "
            f"checkpoint is {last if last.exists() else 'none'}; the same command goes on from "
            "there."
        )

    def record(split: str, seen: int, metrics: Mapping[str, float]) -> None:
        history.append({"loops_seen": seen, "split": split, **metrics})
        if fabric.is_global_zero:
            log({f"{split}_{name}": value for name, value in metrics.items()}, seen)

    bar = tqdm(
        total=steps * batch,
        initial=first * batch,
        unit=" loops",
        disable=not fabric.is_global_zero,
        mininterval=1,
    )
    for i in range(first, steps):
        draw.manual_seed(_mix(seed, i, 0))
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * schedule(i / steps)
        rows = batch_rows(i, loops, batch, seed)[fabric.global_rank :: fabric.world_size]
        metrics = step(wrapped, rows, draw, i * batch)
        fabric.backward(metrics["loss"])
        fabric.clip_gradients(wrapped, optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        totals.add(metrics)
        bar.update(batch)

        seen, ends = (i + 1) * batch, i + 1 == steps
        if ends or (i + 1) % log_every == 0:
            means, losses = totals.take()
            for at, loss in enumerate(losses, i + 1 - len(losses)):
                if not math.isfinite(loss):
                    raise stopped(f"the loss is {loss}", at)
            record("train", seen, means)
            bar.set_postfix(loss=f"{means['loss']:.3f}", refresh=False)
        if ends or (i + 1) % validate_every == 0:
            model.eval()
            with torch.no_grad():
                record("validation", seen, validate(model))
            model.train()
        if ends or (i + 1) % save_every == 0:
            if not torch.stack([weight.isfinite().all() for weight in model.parameters()]).all():
                raise stopped("a weight is no longer finite", i)
            if fabric.is_global_zero:
                state = {"model": model.state_dict(), "step": i + 1, "history": history}
                if not ends:
                    state["optimizer"] = optimizer.state_dict()
                    state["precision"] = fabric.strategy.precision.state_dict()
                # In memory first: of a full disk torch would not say that it is full.
                torch.save(state, content := io.BytesIO())
                atomic_write(finished if ends else last, content.getvalue())
    if fabric.is_global_zero:
        last.unlink(missing_ok=True)
    bar.close()
    model.eval()
    return history


def optimizer_of(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """What every model is trained by."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        # Not where gradients are scaled: they could not be clipped.
        fused=precision_from_environment() != "16-mixed",
    )


def checkpoint_folder(identity: Mapping[str, Any], checkpoints: Path) -> Path:
    """Where a training of this identity, on such a device, keeps its checkpoint."""
    known = {
        "code": code_fingerprint("techloop.training.audio_vae", "techloop.training.latent_vae"),
        "device": pick_device().type,  # which has a random stream of its own
        "precision": precision_from_environment(),
    }
    text = json.dumps({**identity, **known}, sort_keys=True, default=str)
    return checkpoints / hashlib.sha256(text.encode()).hexdigest()[:16]


def warm_up(seen: int, over: int) -> float:
    """Share of a weight that grows linearly to 1 over the first loops."""
    return min(1.0, seen / over) if over else 1.0


def schedule(progress: float) -> float:
    """Share of the full learning rate: a short rise, then a cosine to zero."""
    rise = min(1.0, (progress + 1e-3) / WARMUP_SHARE)
    return rise * 0.5 * (1 + math.cos(math.pi * progress))


def batch_rows(step: int, loops: int, batch: int, seed: int) -> list[int]:
    """Rows of a step's batch: epoch after epoch of fresh permutations, whatever came before."""
    per_epoch = loops // batch
    epoch, position = divmod(step, per_epoch)
    order = _permutation(epoch, loops, seed)
    return order[position * batch : (position + 1) * batch]


_LAST_PERMUTATION: dict[tuple[int, int, int], list[int]] = {}


def _permutation(epoch: int, loops: int, seed: int) -> list[int]:
    key = (epoch, loops, seed)
    if key not in _LAST_PERMUTATION:
        _LAST_PERMUTATION.clear()
        draw = torch.Generator().manual_seed(_mix(seed, epoch, 1_000_003))
        _LAST_PERMUTATION[key] = torch.randperm(loops, generator=draw).tolist()
    return _LAST_PERMUTATION[key]


def _mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class _Means:
    """Running means of a step's numbers, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.losses: list[Tensor] = []

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        for name, value in metrics.items():
            value = value.detach()
            self.totals[name] = self.totals[name] + value if name in self.totals else value
        self.losses.append(metrics["loss"].detach())

    def take(self) -> tuple[dict[str, float], list[float]]:
        """Means since the last time, and each loss."""
        means = {name: float(total) / len(self.losses) for name, total in self.totals.items()}
        losses = torch.stack(self.losses).tolist()
        self.totals, self.losses = {}, []
        return means, losses

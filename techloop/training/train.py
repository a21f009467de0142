"""From a task to a model folder: weights, configuration, history and metrics."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from techloop.artifacts import atomic_folder, write_json
from techloop.metric import Measurement, Metric, write_metrics
from techloop.models.base import parameter_count
from techloop.params import Training
from techloop.rank import is_rank_zero
from techloop.training.checkpoint import History, checkpoint_of, remove_outdated
from techloop.training.latent_summary import write_dimensions
from techloop.training.loop import Log, fit
from techloop.training.sampler import Sampler, shuffled_rows
from techloop.training.task import Batch, ModelTask

if TYPE_CHECKING:
    from lightning_fabric import Fabric


LOOPS_SEEN = Metric("loops_seen", "loops seen")
PARAMETERS = Metric("parameters", "parameters")


def train(
    task: ModelTask[Batch],
    fabric: "Fabric",
    folder: str | Path,
    *,
    training: Training,
    seed: int,
    log: Log,
    checkpoints: Path,
    sampler: Sampler = shuffled_rows,
) -> dict[str, Measurement]:
    """`fit` a task, finish it, then write its model folder whole; only rank 0 writes.

    The folder holds `model.safetensors`, `config.json`, `history.csv` with what its columns mean in
    `history.json`, `metrics.json`, `dimensions.json` where the task has metrics per dimension, and
    the task's `folders`.

    Args:
        task: what to train.
        fabric: launched, see `techloop.training.distributed`.
        folder: is replaced.
        training, seed, log, checkpoints, sampler: see `fit`.

    Returns:
        The last validation, loops seen, and the number of parameters.

    Raises:
        ValueError, FloatingPointError: see `fit`.
    """
    remove_outdated(checkpoints, checkpoint_of(task, fabric, checkpoints))

    def log_declared(values: Mapping[str, float], seen: int) -> None:
        _check_declared(task, (name.partition("_")[2] for name in values))  # without the split
        log(values, seen)

    history = fit(
        task,
        fabric,
        training=training,
        seed=seed,
        log=log_declared,
        checkpoints=checkpoints,
        sampler=sampler,
    )
    with torch.no_grad():
        task.finish()
    metrics, per_dimension = _results(task, history)
    if is_rank_zero():
        with atomic_folder(folder) as new:
            task.model.save(new, **task.notes)
            _write_history(new, task, history)
            write_metrics(new / "metrics.json", metrics)
            if per_dimension:
                write_dimensions(new, per_dimension)
            for name, source in task.folders.items():
                shutil.copytree(source, new / name)
    return metrics


def _results(
    task: ModelTask[Batch], history: History
) -> tuple[dict[str, Measurement], list[float]]:
    """What `metrics.json` and `dimensions.json` hold: the last validation."""
    last = next(row for row in reversed(history) if row["split"] == "validation")
    metrics = {metric.name: metric for metric in (LOOPS_SEEN, *task.metrics)}
    apart = {metric.name for metric in task.dimension_metrics} | {"split"}
    measured = {
        name: metrics[name].measured(float(value))
        for name, value in last.items()
        if name not in apart
    }
    measured[PARAMETERS.name] = PARAMETERS.measured(float(parameter_count(task.model)))
    return measured, [float(last[metric.name]) for metric in task.dimension_metrics]


def _write_history(folder: Path, task: ModelTask[Batch], history: History) -> None:
    """Write history.csv, and what the metrics in its columns mean to history.json."""
    import pandas as pd  # slow to import

    table = pd.DataFrame(history)
    table.to_csv(folder / "history.csv", index=False)
    metrics = {metric.name: metric for metric in task.metrics}
    columns = [metrics[name] for name in table if name in metrics]
    write_json(
        folder / "history.json",
        {m.name: {"label": m.label, "unit": m.unit, "better": m.better} for m in columns},
    )


def _check_declared(task: ModelTask[Batch], names: Iterable[str]) -> None:
    """Refuse numbers that the task logs and does not declare: at the first log, not at the end."""
    declared = {metric.name for metric in (*task.metrics, *task.dimension_metrics)}
    undeclared = sorted(set(names) - declared)
    assert not undeclared, f"{type(task).__name__} logs {undeclared} without a Metric in `metrics`"

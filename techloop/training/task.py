"""A training as an object: what is trained, on what, and by which loss."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from techloop.metric import Metric
from techloop.models.base import Model
from techloop.training.optimizer import ParameterGroup

Batch = TypeVar("Batch")


class Task(ABC, Generic[Batch]):
    """What `loop.fit` needs to know of a training.

    Attributes:
        module: what is trained; a checkpoint holds its state.
        loop_ids: names of the training loops; a row is a position among them.
    """

    module: nn.Module
    loop_ids: Sequence[str]

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """All that determines the result besides code, device and precision, as JSON takes it.

        A checkpoint of another identity is not resumed.
        """

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> Batch:
        """The data of some training loops, on the device of the module."""

    @abstractmethod
    def loss(
        self, module: nn.Module, batch: Batch, generator: torch.Generator, seen: int
    ) -> dict[str, Tensor]:
        """Named scalars of a step; `loss` is minimised, the others are logged.

        Args:
            module: `self.module`, as Fabric wrapped it.
            batch: this process's share; the scalars are those of the batch of all processes.
            generator: of all randomness in the step, in the same state in every process.
            seen: loops seen before this step, in all processes together.
        """

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Named numbers of the module on held-out loops; called without gradients."""

    def groups(self, learning_rate: float) -> Sequence[ParameterGroup]:
        """What the optimiser updates: by default all parameters of the module, alike.

        Args:
            learning_rate: that of the training's parameters.
        """
        return [ParameterGroup(self.module.parameters(), learning_rate)]

    def resting(self, seen: int) -> Collection[str]:
        """Names of the groups that are not updated in a step; by default none.

        Args:
            seen: loops seen before the step.
        """
        return ()

    def inspect(self, history: Sequence[Mapping[str, int | float | str]]) -> None:
        """Warn of what a person should know; called in rank 0 after each log of training.

        Args:
            history: rows of numbers by name, up to this log.
        """


class ModelTask(Task[Batch]):
    """A training whose result is a model folder, see `techloop.training.train`.

    Attributes:
        model: what is saved; `module`, or a part of it.
        notes: what `config.json` says besides sizes and grid; part of the identity.
        settings: parameters of the training; part of the identity.
        metrics: what the numbers of `loss` and `validate` mean.
        dimension_metrics: the same for numbers with one value per latent dimension, in order. Their
            last values go to `dimensions.json` instead of `metrics.json`.
        folders: to copy into the model folder, by their names there.
    """

    model: Model
    notes: Mapping[str, object]
    settings: Mapping[str, object]
    metrics: Sequence[Metric]
    dimension_metrics: Sequence[Metric] = ()
    folders: Mapping[str, Path] = {}

    @property
    def identity(self) -> Mapping[str, object]:
        """The network, and what it is trained on and with."""
        return {"network": type(self.model).__name__, **self.settings, **self.notes}

    def finish(self) -> None:
        """Compute what depends on the trained weights; called once, without gradients."""

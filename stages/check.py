"""`make check`: a short run of every stage, and what all would cost on a graphics card."""

import importlib
import os
from typing import TYPE_CHECKING

from stages import run_stage

if TYPE_CHECKING:
    from techloop.training.sampler import Sampler


def main(memory_gb: str = "24") -> None:
    """Print what params.yaml asks of a graphics card with so many GB.

    Raises:
        ValueError: params.yaml is wrong, a stage would fail, or the memory is not enough.
    """
    if not memory_gb.isdecimal() or not int(memory_gb):
        raise ValueError(
            f"GB must be a positive whole number, as in `make check GB=16`, got {memory_gb!r}"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch is imported
    from techloop.pipeline.check import check
    from techloop.pipeline.costs import Card

    check(Card(memory_gb=float(memory_gb)), run_script)


def run_script(stage: str, cell: tuple[str, ...], sampler: "Sampler") -> None:
    """Run a stage by its script; one that trains takes its batches from the sampler."""
    script = importlib.import_module(f"stages.{stage}")
    if hasattr(script, "train"):
        script.train(*cell, sampler)
    else:
        script.main(*cell)


if __name__ == "__main__":
    run_stage(main)

"""Techloop learns to play techno: from a folder of loops to a space to play in."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from techloop.data.datasets import LatentDataset, LoopDataset
    from techloop.instrument import Instrument

__version__ = "0.1.0"
__all__ = ["Instrument", "LatentDataset", "LoopDataset"]

_HOMES = {"Instrument": "instrument", "LatentDataset": "datasets", "LoopDataset": "datasets"}


def __getattr__(name: str) -> Any:
    """The public classes, imported when first asked for: torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'techloop' has no attribute {name!r}")
    return getattr(import_module(f"techloop.{_HOMES[name]}"), name)

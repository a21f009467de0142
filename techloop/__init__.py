"""Techloop learns to play techno: from a folder of loops to a space to play in."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from techloop.data.datasets import LatentDataset, LoopDataset
    from techloop.instrument import Instrument

__version__ = "0.1.0"
__all__ = ["Instrument", "LatentDataset", "LoopDataset"]

_MODULES = {
    "Instrument": "techloop.instrument",
    "LatentDataset": "techloop.data.datasets",
    "LoopDataset": "techloop.data.datasets",
}


def __getattr__(name: str) -> object:
    """The public classes, imported on first use: importing torch takes seconds."""
    if name not in _MODULES:
        raise AttributeError(f"module 'techloop' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

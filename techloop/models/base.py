"""What both VAEs share: a folder that holds all that rebuilds the model."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from techloop.artifacts import fingerprint, read_json, write_json
from techloop.grid import Grid

M = TypeVar("M", bound="Model")  # typing.Self, which the run-time checks of the tests refuse

MODEL_FILES = ("config.json", "model.safetensors")  # of a model folder; others may be beside them
FORMAT = 3  # of a model folder; 2 renamed the weights, 3 has another decoder


class Model(nn.Module):
    """A network for loops of a grid, saved as `model.safetensors` and `config.json`.

    Attributes:
        grid: the loops' grid.
        sizes: the keyword arguments it was built with.
        notes: what else its `config.json` says, such as the fingerprint of its data.
    """

    def __init__(self, grid: Grid, **sizes: int) -> None:
        super().__init__()
        self.grid, self.sizes = grid, sizes
        self.notes: Mapping[str, Any] = {}

    def save(self, folder: Path, **notes: object) -> None:
        """Write weights and configuration into a folder that exists."""
        weights = {k: v.detach().contiguous().cpu() for k, v in self.state_dict().items()}
        (folder / "model.safetensors").write_bytes(to_bytes(weights))
        config = {
            "format": FORMAT,
            "model": type(self).__name__,
            "grid": asdict(self.grid),
            "sizes": self.sizes,
            **notes,
        }
        write_json(folder / "config.json", config)

    @classmethod
    def load(cls: type[M], folder: str | Path, grid: Grid | None = None) -> M:
        """The model of a folder, ready to use, on the CPU.

        Args:
            folder: as written by `save`.
            grid: the grid of the loops that it will be used on, to be checked against its own.

        Raises:
            ValueError: the folder is damaged, of an older version, of another kind of model, or of
                another grid.
        """
        folder = Path(folder)
        config = read_json(folder / "config.json")
        if config.get("model") != cls.__name__:
            raise ValueError(
                f"{folder} holds a {config.get('model')}, not a {cls.__name__}; give the folder "
                f"of one (data/audio_vae/... or data/instrument/...)"
            )
        if config.get("format") != FORMAT:
            raise ValueError(
                f"{folder} is a model folder of format {config.get('format')}, and this version of "
                f"techloop reads format {FORMAT}: it was written by an older or newer version. "
                "`dvc repro` trains it anew."
            )
        missing = {"grid", "sizes"} - config.keys()
        if missing:
            raise ValueError(f"{folder / 'config.json'} lacks {', '.join(sorted(missing))}")
        own = Grid(**config.pop("grid"))
        if grid is not None and own != grid:
            raise ValueError(
                f"{folder} was trained on another grid than it is used with: {own} against "
                f"{grid}. Train it on these loops (`dvc repro`), or use it with its own."
            )
        model = cls(own, **config.pop("sizes"))
        model.notes = config
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{folder / 'model.safetensors'} is truncated, missing or of another version: "
                f"{' '.join(str(error).split())[:300]}. `dvc checkout dvc.yaml` restores it, "
                "`dvc repro` trains it."
            ) from None
        return model.eval()


def model_fingerprint(folder: str | Path) -> str:
    """Identifies a model folder by its weights and configuration: 16 hexadecimal digits."""
    return fingerprint({n: Path(folder) / n for n in MODEL_FILES})


def parameter_count(model: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def pick_device() -> torch.device:
    """The GPU if PyTorch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

"""Small settings that tests share, and trainings with them."""

import errno
import io
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from techloop.grid import Grid
from techloop.params import AudioVAECell, Params, load_params
from techloop.preparation_config import PreparationConfig

if TYPE_CHECKING:
    from techloop.metric import Measurement

ROOT = Path(__file__).parents[2]
GRID = Grid()


def small_params() -> Params:
    """params.yaml of the repository, with sizes that take seconds."""
    raw: dict[str, Any] = load_params(ROOT / "params.yaml").model_dump()
    raw["prepare_loops"]["synth"]["loops"] = 60
    audio, latent = raw["train_audio_vae"], raw["train_latent_vae"]
    audio["model"] = {"latent_dim": 4, "channels": 32, "blocks": 1}
    # The objective that the study alone has.
    latent["cells"]["kl-sample-4"] = {
        "regulariser": "kl",
        "objective": "trajectory-sample",
        "length": 4,
        "plays": "audio_vae/kl",
    }
    latent["model"] = {"latent_dim": 6, "channels": 32, "blocks": 1}
    raw["finetune_decoder"] |= {"crop_fraction": 0.1, "warmup_loops": 48}
    raw["finetune_decoder"]["cells"]["kl"]["discriminators"] = ["period", "frame"]
    for section in (audio, raw["finetune_decoder"], latent):
        section["training"] |= {
            "loops": 96,
            "batch_size": 4,
            "validate_every_loops": 32,
            "checkpoint_every_loops": 32,
        }
    raw["study"]["loops"] = 96
    return Params.model_validate(raw)


def recipe(**changes: Any) -> PreparationConfig:
    """The configuration in params.yaml, with changes."""
    return replace(small_params().prepare_loops.recipe, **changes)


def preparation() -> dict[str, Any]:
    """Arguments of `prepare_loops` besides source, folder, grid, config and checkpoints."""
    section = small_params().prepare_loops
    shares = section.model_dump(include={"train_fraction", "validation_fraction", "max_similarity"})
    return {**shares, "shard_mb": 1, "seed": 0}


def train_small_audio_vae(
    loops: Path, folder: Path, cell: AudioVAECell | None = None, **kwargs: Any
) -> dict[str, "Measurement"]:
    """Train an audio VAE of the small sizes, `kl` by default; checkpoints beside its folder."""
    from techloop.training.audio_vae import train_audio_vae
    from techloop.training.distributed import launch_fabric

    params = small_params().train_audio_vae
    arguments = {
        "params": params,
        "cell": cell or params.cell("kl"),
        "seed": 0,
        "log": lambda metrics, step: None,
        "checkpoints": folder.parent / "checkpoints",
    } | kwargs
    return train_audio_vae(loops, folder, launch_fabric(), **arguments)


def finetune_small_decoder(
    loops: Path, audio_vae: Path, folder: Path, **kwargs: Any
) -> dict[str, "Measurement"]:
    """Fine-tune a decoder with the small sizes; checkpoints beside its folder."""
    from techloop.training.decoder import finetune_decoder
    from techloop.training.distributed import launch_fabric

    params = small_params().finetune_decoder
    arguments = {
        "params": params,
        "cell": params.cell("kl"),
        "seed": 0,
        "log": lambda metrics, step: None,
        "checkpoints": folder.parent / "checkpoints",
    } | kwargs
    return finetune_decoder(loops, audio_vae, folder, launch_fabric(), **arguments)


def train_small_latent_vae(
    latents: Path, folder: Path, cell: str, **kwargs: Any
) -> dict[str, "Measurement"]:
    """Train a latent VAE of the small sizes; checkpoints beside its folder."""
    from techloop.training.distributed import launch_fabric
    from techloop.training.latent_vae import train_latent_vae

    params = small_params().train_latent_vae
    arguments = {
        "params": params,
        "cell": params.cell(cell),
        "seed": 0,
        "log": lambda metrics, step: None,
        "checkpoints": folder.parent / "checkpoints",
    } | kwargs
    return train_latent_vae(latents, folder, launch_fabric(), **arguments)


def free_port() -> int:
    """A port of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class FullDisk:
    """Opens files as `io.open` does, on a disk with so many free bytes; counts those written."""

    def __init__(self, room: float) -> None:
        self.room, self.written, self.really_open = room, 0, io.open

    def open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "b" not in mode or not set(mode) & {"w", "a", "x"}:
            return self.really_open(file, mode, *args, **kwargs)
        disk = self

        class Tight(io.FileIO):
            def write(self, content: Any) -> int:
                disk.written += memoryview(content).nbytes
                if disk.written > disk.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
                return super().write(content)

        return io.BufferedWriter(Tight(file, mode.replace("b", "")))

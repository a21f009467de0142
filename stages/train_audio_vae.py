"""The audio VAE of a cell: loops to latents at the hop rate, and back."""

from typing import TYPE_CHECKING

from stages import run_stage
from techloop.params import load_params
from techloop.rank import is_rank_zero
from techloop.tracking.run import track

if TYPE_CHECKING:
    from techloop.training.sampler import Sampler


def main(cell: str) -> None:
    """Train `train_audio_vae.cells.<cell>` of params.yaml on data/loops."""
    from techloop.training.sampler import shuffled_rows

    train(cell, shuffled_rows)


def train(cell: str, sampler: "Sampler") -> None:
    """The same with the loops of each step given: `make check` counts steps of several sizes."""
    from techloop.training.audio_vae import train_audio_vae
    from techloop.training.distributed import launch_fabric
    from techloop.training.latent_summary import read_dimensions

    params, folder = load_params(), f"data/audio_vae/{cell}"
    section = params.train_audio_vae
    name, logged = f"train_audio_vae@{cell}", params.logged("train_audio_vae", cell)
    with track(name, logged, ["data/loops"]) as run:
        metrics = train_audio_vae(
            "data/loops",
            folder,
            launch_fabric(),
            params=section,
            cell=section.cell(cell),
            seed=params.seed,
            log=run.log,
            sampler=sampler,
        )
        run.log(metrics)
        if is_rank_zero():  # which wrote the folder
            run.log(read_dimensions(folder), step=0)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

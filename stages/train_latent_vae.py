"""The latent VAE of a cell: whole loops to a few points, and back."""

from typing import TYPE_CHECKING

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track

if TYPE_CHECKING:
    from techloop.training.sampler import Sampler


def main(cell: str) -> None:
    """Train `train_latent_vae.cells.<cell>` of params.yaml on its regulariser's latents."""
    from techloop.training.sampler import shuffled_rows

    train(cell, shuffled_rows)


def train(cell: str, sampler: "Sampler") -> None:
    """The same with the loops of each step given: `make check` counts steps of several sizes."""
    from techloop.training.distributed import launch_fabric
    from techloop.training.latent_vae import train_latent_vae

    params, folder = load_params(), f"data/latent_vae/{cell}"
    section = params.train_latent_vae
    latents = f"data/latents/{section.cell(cell).regulariser}"
    name, logged = f"train_latent_vae@{cell}", params.logged("train_latent_vae", cell)
    with track(name, logged, [latents]) as run:
        metrics = train_latent_vae(
            latents,
            folder,
            launch_fabric(),
            params=section,
            cell=section.cell(cell),
            seed=params.seed,
            log=run.log,
            sampler=sampler,
        )
        run.log(metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

"""VAE 2 of a cell of the study: whole loops to a few points, and back."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Train `train_latent_vae.cells.<cell>` of params.yaml on its regulariser's latents."""
    from techloop.training.latent_vae import train_latent_vae

    params, folder = load_params(), f"data/latent_vae/{cell}"
    section = params.train_latent_vae
    chosen = section.cell(cell)
    latents = f"data/latents/{chosen.regulariser}"
    with track(
        f"train_latent_vae@{cell}", params.logged("train_latent_vae", cell), [latents]
    ) as run:
        metrics = train_latent_vae(
            latents, folder, params=section, cell=chosen, seed=params.seed, log=run.log
        )
        run.log(metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

"""VAE 1 of a cell: loops to latents at the hop rate, and back."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Train `train_audio_vae.cells.<cell>` of params.yaml on data/loops."""
    from techloop.training.audio_vae import train_audio_vae

    params, folder = load_params(), f"data/audio_vae/{cell}"
    section = params.train_audio_vae
    chosen = section.cell(cell)
    with track(
        f"train_audio_vae@{cell}", params.logged("train_audio_vae", cell), ["data/loops"]
    ) as run:
        metrics = train_audio_vae(
            "data/loops", folder, params=section, cell=chosen, seed=params.seed, log=run.log
        )
        run.log(metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

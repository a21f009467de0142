"""Latents of every loop, cached for whatever trains on them next."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Encode data/loops with data/audio_vae/<cell>."""
    from techloop.training.latent_summary import read_dimensions
    from techloop.training.latents import extract_latents

    params, vae, folder = load_params(), f"data/audio_vae/{cell}", f"data/latents/{cell}"
    logged, inputs = params.logged("extract_latents"), ["data/loops", vae]
    with track(f"extract_latents@{cell}", logged, inputs) as run:
        run.log(extract_latents(vae, "data/loops", folder, params.extract_latents))
        run.log(read_dimensions(folder), step=0)
        run.artifacts(f"{folder}/card.json")


if __name__ == "__main__":
    run_stage(main)

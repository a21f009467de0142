"""Latents of every loop, cached for whatever trains on them next."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking import track


def main(cell: str) -> None:
    """Encode data/loops with data/audio_vae/<cell>."""
    from techloop.latents import extract_latents

    params, vae, folder = (
        load_params().extract_latents,
        f"data/audio_vae/{cell}",
        f"data/latents/{cell}",
    )
    with track(f"extract_latents@{cell}", params, ["data/loops", vae]) as run:
        run.log(extract_latents(vae, "data/loops", folder, params))
        run.artifacts(f"{folder}/card.json")


if __name__ == "__main__":
    run_stage(main)

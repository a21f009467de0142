"""The latent VAE of a cell, with the audio VAE that plays it: what `techloop` opens."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Put data/latent_vae/<cell> and what it plays together in data/instrument/<cell>."""
    from techloop.instrument import assemble_instrument

    plays = load_params().train_latent_vae.cell(cell).plays
    inputs = [f"data/latent_vae/{cell}", f"data/{plays}"]
    with track(f"assemble_instrument@{cell}", {"plays": plays}, inputs):
        assemble_instrument(inputs[0], inputs[1], f"data/instrument/{cell}")


if __name__ == "__main__":
    run_stage(main)

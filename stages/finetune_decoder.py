"""The decoder of an audio VAE, fine-tuned against discriminators; its latents stay valid."""

from typing import TYPE_CHECKING

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track

if TYPE_CHECKING:
    from techloop.training.sampler import Sampler


def main(cell: str) -> None:
    """Train `finetune_decoder.cells.<cell>` of params.yaml on data/loops."""
    from techloop.training.sampler import shuffled_rows

    train(cell, shuffled_rows)


def train(cell: str, sampler: "Sampler") -> None:
    """The same with the loops of each step given: `make check` counts steps of several sizes."""
    from techloop.training.decoder import finetune_decoder
    from techloop.training.distributed import launch_fabric

    params, folder = load_params(), f"data/decoder/{cell}"
    section = params.finetune_decoder
    inputs = ["data/loops", f"data/audio_vae/{section.cell(cell).regulariser}"]
    name, logged = f"finetune_decoder@{cell}", params.logged("finetune_decoder", cell)
    with track(name, logged, inputs) as run:
        metrics = finetune_decoder(
            inputs[0],
            inputs[1],
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

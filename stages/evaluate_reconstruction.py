"""What an audio VAE preserves of the test loops."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/reconstruction/<cell>."""
    from techloop.data.columns import HELD_OUT
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.reconstruction import evaluate_reconstruction
    from techloop.models.audio_vae import AudioVAE
    from techloop.models.base import pick_device

    params = load_params()
    section, folder = params.evaluate_reconstruction, f"reports/reconstruction/{cell}"
    inputs = ["data/loops", f"data/audio_vae/{cell}"]
    with track(
        f"evaluate_reconstruction@{cell}", params.logged("evaluate_reconstruction"), inputs
    ) as run:
        vae = AudioVAE.load(inputs[1]).to(pick_device())
        evaluation = evaluate_reconstruction(
            vae,
            LoopDataset(inputs[0], "train"),
            LoopDataset(inputs[0], HELD_OUT),
            loops_used=section.loops,
            examples=section.examples,
            seed=params.seed,
        )
        evaluation.write(folder, vae.grid)
        run.log(evaluation.metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

"""What an audio VAE plays without a latent VAE."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/prior/<cell>."""
    from techloop.data.columns import HELD_OUT
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.prior import evaluate_prior
    from techloop.models.audio_vae import AudioVAE

    params = load_params()
    section, folder = params.evaluate_prior, f"reports/prior/{cell}"
    inputs = ["data/loops", f"data/audio_vae/{cell}"]
    with track(f"evaluate_prior@{cell}", params.logged("evaluate_prior"), inputs) as run:
        train = LoopDataset(inputs[0], "train")
        evaluation = evaluate_prior(
            AudioVAE.load(inputs[1], train.grid),
            train,
            LoopDataset(inputs[0], HELD_OUT),
            loops_used=section.loops,
            examples=section.examples,
            seed=params.seed,
        )
        evaluation.write(folder, train.grid)
        run.log(evaluation.metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

"""Directions in a latent VAE's space that make loops louder, brighter or denser."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/controls/<cell>."""
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.controls import evaluate_controls
    from techloop.instrument import Instrument

    params = load_params()
    section, folder = params.evaluate_controls, f"reports/controls/{cell}"
    inputs = ["data/loops", f"data/latent_vae/{cell}"]
    with track(f"evaluate_controls@{cell}", params.logged("evaluate_controls"), inputs) as run:
        metrics = evaluate_controls(
            Instrument.load(inputs[1]),
            LoopDataset(inputs[0], "test"),
            folder,
            loops=section.loops,
            probes=section.probes,
            seed=params.seed,
        )
        run.log(metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

"""Directions in a latent VAE's prior that make loops louder, brighter or denser."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/controls/<cell>."""
    from techloop.controls import controls_json
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.controls import evaluate_controls
    from techloop.instrument import Instrument

    params = load_params()
    section, folder = params.evaluate_controls, f"reports/controls/{cell}"
    inputs = ["data/loops", f"data/instrument/{cell}"]
    with track(f"evaluate_controls@{cell}", params.logged("evaluate_controls"), inputs) as run:
        instrument, real = Instrument.load(inputs[1]), LoopDataset(inputs[0], "test")
        evaluation, controls = evaluate_controls(
            instrument, real, loops=section.loops, probes=section.probes, seed=params.seed
        )
        playable = controls_json(controls, instrument.fingerprint)
        evaluation.write(folder, instrument.grid, controls=playable)
        run.log(evaluation.metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

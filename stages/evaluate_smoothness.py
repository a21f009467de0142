"""How smoothly loudness and brightness change along paths in a cell's latent space."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/smoothness/<cell>."""
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.smoothness import evaluate_smoothness
    from techloop.instrument import Instrument

    params = load_params()
    section, folder = params.evaluate_smoothness, f"reports/smoothness/{cell}"
    inputs = ["data/loops", f"data/instrument/{cell}"]
    with track(f"evaluate_smoothness@{cell}", params.logged("evaluate_smoothness"), inputs) as run:
        instrument = Instrument.load(inputs[1])
        evaluation = evaluate_smoothness(
            instrument,
            LoopDataset(inputs[0], "test"),
            paths=section.paths,
            points=section.points,
            seed=params.seed,
        )
        evaluation.write(folder, instrument.grid)
        run.log(evaluation.metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

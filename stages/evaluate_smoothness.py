"""How smoothly loudness and brightness move along paths in a cell's top space."""

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
    inputs = ["data/loops", f"data/latent_vae/{cell}"]
    with track(f"evaluate_smoothness@{cell}", params.logged("evaluate_smoothness"), inputs) as run:
        metrics = evaluate_smoothness(
            Instrument.load(inputs[1]),
            LoopDataset(inputs[0], "test"),
            folder,
            paths=section.paths,
            points=section.points,
            seed=params.seed,
        )
        run.log(metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

"""What a cell generates, held against real loops."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/generation/<cell>."""
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.generation import evaluate_generation
    from techloop.instrument import Instrument

    params = load_params()
    section, folder = params.evaluate_generation, f"reports/generation/{cell}"
    inputs = ["data/loops", f"data/latent_vae/{cell}"]
    with track(f"evaluate_generation@{cell}", params.logged("evaluate_generation"), inputs) as run:
        metrics = evaluate_generation(
            Instrument.load(inputs[1]),
            LoopDataset(inputs[0], "train"),
            LoopDataset(inputs[0], "test"),
            folder,
            loops_used=section.loops,
            seeds=section.seeds,
            examples=section.examples,
            seed=params.seed,
        )
        run.log(metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

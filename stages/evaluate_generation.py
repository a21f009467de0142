"""What a cell generates, compared with real loops."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/generation/<cell>."""
    from techloop.data.columns import HELD_OUT
    from techloop.data.datasets import LoopDataset
    from techloop.evaluation.generation import evaluate_generation
    from techloop.instrument import Instrument

    params = load_params()
    section, folder = params.evaluate_generation, f"reports/generation/{cell}"
    inputs = ["data/loops", f"data/instrument/{cell}"]
    with track(f"evaluate_generation@{cell}", params.logged("evaluate_generation"), inputs) as run:
        instrument = Instrument.load(inputs[1])
        evaluation = evaluate_generation(
            instrument,
            LoopDataset(inputs[0], "train"),
            LoopDataset(inputs[0], HELD_OUT),
            loops_used=section.loops,
            examples=section.examples,
            seed=params.seed,
        )
        evaluation.write(folder, instrument.grid)
        run.log(evaluation.metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

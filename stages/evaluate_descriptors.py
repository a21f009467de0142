"""How an audio VAE's latents relate to acoustic descriptors and ground-truth factors."""

from stages import run_stage
from techloop.params import load_params
from techloop.tracking.run import track


def main(cell: str) -> None:
    """Write reports/descriptors/<cell>."""
    from techloop.data.datasets import LatentDataset, LoopDataset
    from techloop.evaluation.descriptors import evaluate_descriptors

    params = load_params()
    section, folder = params.evaluate_descriptors, f"reports/descriptors/{cell}"
    inputs = ["data/loops", f"data/latents/{cell}"]
    with track(
        f"evaluate_descriptors@{cell}", params.logged("evaluate_descriptors"), inputs
    ) as run:
        loops, latents = LoopDataset(inputs[0], "test"), LatentDataset(inputs[1], "test")
        evaluation = evaluate_descriptors(
            loops,
            latents,
            loops_used=section.loops,
            bootstrap=section.bootstrap,
            seed=params.seed,
        )
        evaluation.write(folder, loops.grid)
        run.log(evaluation.metrics)
        run.artifacts(folder)


if __name__ == "__main__":
    run_stage(main)

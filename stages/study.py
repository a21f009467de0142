"""One run of the study: a latent VAE of a regulariser, objective, length and seed, measured."""

import os

from stages import run_stage
from techloop.params import LatentVAECell, load_params
from techloop.tracking.run import track


def main(regulariser: str, objective: str, length: str, seed: str) -> None:
    """Write reports/study/runs/<regulariser>-<objective>-<length>-<seed>.json."""
    from techloop.artifacts import write_json
    from techloop.evaluation.study import run_of_study, study_training
    from techloop.metric import as_json
    from techloop.training.distributed import launch_fabric

    os.environ.pop("TECHLOOP_DEVICES", None)  # many small trainings: each is for one device
    params = load_params()
    training = study_training(params)
    name = f"{regulariser}-{objective}-{length}-{seed}"
    cell = LatentVAECell.model_validate(
        {"regulariser": regulariser, "objective": objective, "length": length}
    )
    inputs = [f"data/latents/{regulariser}", "data/loops"]
    keys = {**cell.model_dump(), "seed": int(seed)}
    logged = {**keys, **training.model_dump(exclude={"cells"})}
    with track(f"study@{name}", logged, inputs) as run:
        metrics = run_of_study(
            inputs[0],
            inputs[1],
            launch_fabric(),
            params=training,
            cell=cell,
            smoothness=params.evaluate_smoothness,
            generation=params.evaluate_generation,
            seed=int(seed),
            log=run.log,
        )
        write_json(f"reports/study/runs/{name}.json", {**keys, "metrics": as_json(metrics)})
        run.log(metrics)


if __name__ == "__main__":
    run_stage(main)

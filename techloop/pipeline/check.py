"""A short run of every stage at the sizes of params.yaml, and what all would cost: `make check`.

Every model of every cell is built and trained for three steps, and every stage runs by its own
script on a few loops made on the spot, on the CPU and in a temporary folder. Stages that evaluate
run for their first cell only. What is counted meanwhile is extrapolated to the operations, memory
and hours of the whole pipeline on a graphics card.
"""

import contextlib
import io
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

from techloop.params import Params, Training, check_params, load_params
from techloop.pipeline.costs import Card, Cost, Meter, at_batch, metered
from techloop.pipeline.profiles import merged
from techloop.training.distributed import precision_from_environment
from techloop.training.sampler import Sampler

RunScript = Callable[[str, tuple[str, ...], Sampler], None]
"""Runs a stage by its script: `(stage, cell, sampler)`."""

# Batches that a step is counted at. Even ones: a game judges half of them.
SIZES = (2, 4, 6)
SMOKE_TRAINING = {
    "loops": 9,
    "batch_size": 3,
    "validate_every_loops": 9,
    "checkpoint_every_loops": 9,
}
SMOKE_PARAMS = {  # replace the sizes of data in params.yaml; those of models stay
    "prepare_loops": {
        "source": "synth",
        "synth": {"loops": 40},
        "max_similarity": 1,
        "train_fraction": 0.5,
        "validation_fraction": 0.2,
    },
    "train_audio_vae": {"training": SMOKE_TRAINING},
    "finetune_decoder": {"training": SMOKE_TRAINING, "warmup_loops": 0},
    "extract_latents": {"batch_size": 8},
    "train_latent_vae": {"training": SMOKE_TRAINING},
    "evaluate_reconstruction": {"loops": 16, "examples": 2},
    "evaluate_descriptors": {"loops": 10},
    "evaluate_prior": {"loops": 8, "examples": 2},
    "evaluate_smoothness": {"paths": 2, "points": 8},
    "evaluate_generation": {"loops": 8, "examples": 2},
    "evaluate_controls": {"loops": 12, "probes": 2},
}
# For stages without training: the number that their work grows with, and the seconds per unit of it
# in the demo on two cores, models included.
COST_DRIVERS: dict[str, tuple[Callable[[Params], int], float]] = {
    "prepare_loops": (lambda p: p.prepare_loops.synth.loops, 0.023),
    "extract_latents": (lambda p: p.prepare_loops.synth.loops, 0.009),
    "assemble_instrument": (lambda p: 1, 0.5),
    "evaluate_reconstruction": (lambda p: p.evaluate_reconstruction.loops, 0.055),
    "evaluate_decoder": (lambda p: p.evaluate_reconstruction.loops, 0.1),
    "evaluate_descriptors": (lambda p: p.evaluate_descriptors.loops, 0.18),
    "evaluate_prior": (lambda p: p.evaluate_prior.loops, 0.12),
    "evaluate_smoothness": (
        lambda p: p.evaluate_smoothness.paths * p.evaluate_smoothness.points,
        0.16,
    ),
    "evaluate_generation": (lambda p: p.evaluate_generation.loops, 0.05),
    "evaluate_controls": (
        lambda p: p.evaluate_controls.loops + 12 * p.evaluate_controls.probes,
        0.035,
    ),
    "report": (lambda p: 1, 10.0),
}
USABLE_SHARE = 0.9  # of a card's memory; the rest belongs to the driver or is fragmented


class Estimate(NamedTuple):
    """What a stage takes at full size; the numbers of a step are 0 where nothing is trained."""

    flops: float
    hours: float
    parameters: int = 0
    step_flops: float = 0.0
    memory_gb: float = 0.0


def check(card: Card, run_script: RunScript) -> None:
    """Run every stage of dvc.yaml small, and print what params.yaml asks of a card.

    Args:
        card: the graphics card to estimate for.
        run_script: runs a stage by its script.

    Raises:
        ValueError: params.yaml is wrong, a stage fails, or the card's memory is not enough.
    """
    params, pipeline = load_params(), YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
    raw = params.model_dump()
    merged(raw, SMOKE_PARAMS)
    small = check_params(raw, "params.yaml with the sizes of `make check`")
    start, estimates = time.monotonic(), dict[str, Estimate]()
    print(f"{'':44}parameters  GFLOP/step        PFLOP     GB    hours")
    with temporary_workplace(raw):
        for stage, body in pipeline.items():
            cells = cells_of(body, raw)
            tried = cells[:1] if stage.startswith("evaluate_") else cells
            alike = len(cells) // max(len(tried), 1)  # a stage may have no cells
            for cell in tried:
                name = "@".join((stage, *cell)) + (f" (x {alike})" if alike > 1 else "")
                meter = run_metered(stage, cell, run_script)
                if meter.steps:
                    estimates[name] = _estimate_training(stage, meter, params, card)
                else:
                    estimates[name] = _estimate_other(stage, meter, params, small, alike, card)
                print(_row(name, estimates[name]), flush=True)
        model_bytes = sum(f.stat().st_size for f in Path("data").rglob("model.safetensors"))
    flops, hours = (sum(e[i] for e in estimates.values()) for i in range(2))
    print(_row("in all", Estimate(flops, hours)))
    print(_assumptions(params, card, model_bytes, time.monotonic() - start))
    for name, estimate in estimates.items():
        if estimate.memory_gb > USABLE_SHARE * card.memory_gb:
            raise ValueError(
                f"{name} takes about {estimate.memory_gb:.1f} GB, and {USABLE_SHARE:.0%} of "
                f"{card.memory_gb:g} GB are usable. Lower batch_size, channels or crop_fraction in "
                "params.yaml, or take a larger card: make check GB=48."
            )


def cells_of(body: Mapping[str, str], raw: Mapping[str, object]) -> list[tuple[str, ...]]:
    """The arguments of each run of a stage of dvc.yaml."""
    if "foreach" not in body:
        return [()]
    cells: object = raw
    for key in body["foreach"].strip("${}").split("."):
        assert isinstance(cells, Mapping)
        cells = cells[key]
    assert isinstance(cells, Mapping)
    return [(name,) for name in cells]


@contextlib.contextmanager
def temporary_workplace(raw: Mapping[str, object]) -> Iterator[None]:
    """A temporary working folder with this params.yaml; runs of MLflow stay in it as well."""
    before = dict(os.environ)
    elsewhere = ("MLFLOW_TRACKING_URI", "DASK_SCHEDULER_ADDRESS")
    several = ("TECHLOOP_DEVICES", "TECHLOOP_STRATEGY")
    with (
        tempfile.TemporaryDirectory(prefix="techloop-check-") as folder,
        contextlib.chdir(folder),
    ):
        try:
            for name in (*elsewhere, *several):
                os.environ.pop(name, None)
            os.environ |= {"DVC_ROOT": folder, "TECHLOOP_WORKERS": "1"}
            YAML().dump(raw, Path("params.yaml"))
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def sizes_in_turn(step: int, loops: int, batch_size: int, seed: int) -> list[int]:
    """A `Sampler` whose batches have each of `SIZES` in turn."""
    return list(range(SIZES[step]))


def run_metered(stage: str, cell: tuple[str, ...], run_script: RunScript) -> Meter:
    """Run a stage by its script; its output is shown only if it fails.

    Raises:
        ValueError: the stage raises one.
    """
    output = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            metered() as meter,
        ):
            run_script(stage, cell, sizes_in_turn)
    except ValueError as error:
        raise ValueError(f"{'@'.join((stage, *cell))}: {error}") from None
    except Exception:
        sys.stderr.write(output.getvalue())
        raise
    shutil.rmtree("mlruns", ignore_errors=True)  # a copy of each model
    return meter


def _estimate_training(stage: str, meter: Meter, params: Params, card: Card) -> Estimate:
    """All steps of a training, at the batch size of params.yaml."""
    training: Training = getattr(params, stage).training
    step = at_batch(meter.steps, SIZES, training.batch_size)
    steps, memory_gb = math.ceil(training.loops / training.batch_size), step.memory / 1e9
    # A few loops lie in the card's memory too, see `LoopDataset.reader`.
    if stage in ("train_audio_vae", "finetune_decoder") and _loops_gb(params) < card.memory_gb / 4:
        memory_gb += _loops_gb(params)
    flops, hours = steps * step.cost.flops, steps * card.seconds(step.cost) / 3600
    return Estimate(flops, hours, step.parameters, step.cost.flops, memory_gb)


def _estimate_other(
    stage: str, meter: Meter, params: Params, small: Params, alike: int, card: Card
) -> Estimate:
    """A stage without training, for `alike` cells of the same cost."""
    units, seconds_per_unit = COST_DRIVERS[stage]
    flops = alike * meter.cost.flops * units(params) / units(small)
    seconds = alike * units(params) * seconds_per_unit + card.seconds(Cost(flops))
    return Estimate(flops, seconds / 3600)


def _loops_gb(params: Params) -> float:
    return params.prepare_loops.synth.loops * params.grid.samples * 2 / 1e9


def _row(name: str, estimate: Estimate) -> str:
    trained, memory = "", ""
    if estimate.parameters:
        trained = f"{estimate.parameters / 1e6:8.2f} M{estimate.step_flops / 1e9:14.1f}"
        memory = f"{estimate.memory_gb:7.2f}"
    return f"{name:44}{trained:24}{estimate.flops / 1e15:10.3f}{memory:7}{estimate.hours:9.2f}"


def _assumptions(params: Params, card: Card, model_bytes: int, seconds: float) -> str:
    """Disk space, and what the estimates assume."""
    grid, audio = params.grid, params.train_audio_vae
    loops = params.prepare_loops.synth.loops
    latents = loops * 2 * 4 * audio.model.latent_dim * grid.frames * len(audio.cells)
    as_many = "" if params.prepare_loops.source == "synth" else ", as many as `synth` would make"
    return (
        f"\nDisk: {loops} loops{as_many} {_loops_gb(params):.1f} GB, latents {latents / 1e9:.1f} "
        "GB (while a latent VAE is trained, those of a cell are in memory about twice), models "
        f"{model_bytes / 1e9:.1f} GB. MLflow keeps a copy of the models; DVC's cache keeps a copy "
        "of everything where the file system can neither clone nor link.\n"
        "GB: memory of the card. Weights, gradients, Adam's moments, and what else a step needs: "
        f"counted at batches of {', '.join(map(str, SIZES))} in "
        f"{precision_from_environment()}, extrapolated to batch_size.\n"
        f"Hours: assume {card.used_flops:.0%} of {card.peak_flops / 1e12:g} TFLOP/s and "
        f"{card.used_bytes:.0%} of {card.peak_bytes / 1e9:g} GB/s (RTX 3090, A10G), no operation "
        f"under {card.launch_s * 1e6:g} us, and that preparing and evaluating a loop takes as long "
        "as in the demo on two cores. Validation during training is not counted.\n"
        f"Every stage ran, in {seconds:.0f} s."
    )

"""One step of every stage at the sizes of params.yaml, and what all of it would cost: `make check`.

Every model of every cell is built and trained for three steps, and every stage runs, by its own
script, on a handful of loops made on the spot, on the CPU and in a temporary folder. Of the stages
that evaluate, the first cell alone. What is counted meanwhile tells the operations, memory and
hours of the whole on a graphics card.
"""

import contextlib
import importlib
import io
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from ruamel.yaml import YAML

from stages import run_stage
from techloop.params import Params, check_params, load_params
from techloop.pipeline.profiles import merged

if TYPE_CHECKING:
    from techloop.pipeline.costs import Card, Meter

SIZES = (1, 2, 3)  # batches that a step is counted at
TRAINING = {"loops": 9, "batch_size": 3, "validate_every_loops": 9, "checkpoint_every_loops": 9}
LITTLE: dict[str, Any] = {  # what replaces the sizes of data, not those of models
    "prepare_loops": {
        "source": "synth",
        "synth": {"loops": 40},
        "max_similarity": 1,
        "train_fraction": 0.5,
        "validation_fraction": 0.2,
    },
    "train_audio_vae": {"training": TRAINING},
    "extract_latents": {"batch_size": 8},
    "train_latent_vae": {"training": TRAINING},
    "evaluate_reconstruction": {"loops": 8, "examples": 2},
    "evaluate_descriptors": {"loops": 10},
    "evaluate_prior": {"loops": 8, "examples": 2},
    "evaluate_smoothness": {"paths": 2, "points": 8},
    "evaluate_generation": {"loops": 8, "seeds": 2, "examples": 2},
    "evaluate_controls": {"loops": 12, "probes": 2},
}
# Of stages without training: what their work grows with, and the seconds that one of it took in the
# demo on two cores, models included.
WORK: dict[str, tuple[Callable[[Params], int], float]] = {
    "prepare_loops": (lambda p: p.prepare_loops.synth.loops, 0.023),
    "extract_latents": (lambda p: p.prepare_loops.synth.loops, 0.009),
    "evaluate_reconstruction": (lambda p: p.evaluate_reconstruction.loops, 0.09),
    "evaluate_descriptors": (lambda p: p.evaluate_descriptors.loops, 0.18),
    "evaluate_prior": (lambda p: p.evaluate_prior.loops, 0.12),
    "evaluate_smoothness": (
        lambda p: p.evaluate_smoothness.paths * p.evaluate_smoothness.points,
        0.16,
    ),
    "evaluate_generation": (
        lambda p: p.evaluate_generation.loops * p.evaluate_generation.seeds,
        0.08,
    ),
    "evaluate_controls": (
        lambda p: p.evaluate_controls.loops + 12 * p.evaluate_controls.probes,
        0.035,
    ),
    "report": (lambda p: 1, 10.0),
}
USABLE = 0.9  # of a card's memory; the rest is the driver's, or in gaps


class Estimate(NamedTuple):
    """What a stage takes at full size; memory and a step's FLOPs only where it trains."""

    flops: float
    hours: float
    parameters: int = 0
    step_flops: float = 0.0
    memory_gb: float = 0.0


def main(memory_gb: str = "24") -> None:
    """Print what params.yaml asks of a graphics card with so many GB.

    Raises:
        ValueError: params.yaml is wrong, a stage would fail, or the memory is not enough.
    """
    if not memory_gb.isdecimal() or not int(memory_gb):
        raise ValueError(f"{memory_gb!r} is no whole number of GB, as in: make check GB=16")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch is imported
    from techloop.pipeline.costs import Card, Cost

    card = Card(memory_gb=float(memory_gb))
    params, pipeline = load_params(), YAML(typ="safe").load(Path("dvc.yaml"))["stages"]
    raw = params.model_dump()
    merged(raw, LITTLE)
    small = check_params(raw, "params.yaml, for little data")
    began, found = time.monotonic(), dict[str, Estimate]()
    print(f"{'':44}parameters  GFLOP a step     PFLOP     GB    hours")
    with _elsewhere(raw):
        for stage, body in pipeline.items():
            cells = _cells(body, raw)
            tried = cells[:1] if stage.startswith("evaluate_") else cells
            alike = len(cells) // len(tried)
            for cell in tried:
                name = "@".join((stage, *cell)) + (f" (x {alike})" if alike > 1 else "")
                meter = _run(stage, cell)
                if meter.steps:
                    found[name] = _training(stage, meter, params, card)
                else:
                    work, seconds = WORK[stage]
                    flops = alike * meter.cost.flops * work(params) / work(small)
                    seconds = alike * work(params) * seconds + card.seconds(Cost(flops))
                    found[name] = Estimate(flops, seconds / 3600)
                print(_row(name, found[name]), flush=True)
        models = sum(file.stat().st_size for file in Path("data").rglob("model.safetensors"))
    flops, hours = (sum(e[i] for e in found.values()) for i in range(2))
    print(_row("in all", Estimate(flops, hours)))
    print(_told(params, card, models, time.monotonic() - began))
    for name, estimate in found.items():
        if estimate.memory_gb > USABLE * card.memory_gb:
            raise ValueError(
                f"{name} takes about {estimate.memory_gb:.1f} GB, and of {card.memory_gb:g} GB "
                f"{USABLE:.0%} can be had. Lower batch_size, channels or crop_fraction in "
                "params.yaml, or take a larger card: make check GB=48."
            )


def _cells(body: Mapping[str, Any], raw: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The arguments of each run of a stage of dvc.yaml."""
    if "foreach" not in body:
        return [()]
    cells: Any = raw
    for key in body["foreach"].strip("${}").split("."):
        cells = cells[key]
    return [(name,) for name in cells]


@contextlib.contextmanager
def _elsewhere(raw: Mapping[str, Any]) -> Iterator[None]:
    """A temporary folder to be in, with this params.yaml: runs of MLflow stay in it as well."""
    with (
        tempfile.TemporaryDirectory(prefix="techloop-check-") as folder,
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"DVC_ROOT": folder, "TECHLOOP_WORKERS": "1"}),
    ):
        several = ("TECHLOOP_DEVICES", "TECHLOOP_STRATEGY")
        for name in ("MLFLOW_TRACKING_URI", "DASK_SCHEDULER_ADDRESS", *several):
            os.environ.pop(name, None)
        YAML().dump(raw, Path("params.yaml"))
        yield


def _run(stage: str, cell: tuple[str, ...]) -> "Meter":
    """A stage by its script: what it computed.

    Raises:
        ValueError: as it does.
    """
    from techloop.pipeline.costs import metered
    from techloop.training import loop

    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            # The one thing that is not as in earnest: a batch of each size in turn.
            mock.patch.object(loop, "batch_rows", lambda step, *_: list(range(SIZES[step]))),
            metered() as meter,
        ):
            importlib.import_module(f"stages.{stage}").main(*cell)
    except ValueError as error:
        raise ValueError(f"{'@'.join((stage, *cell))}: {error}") from None
    except Exception:
        sys.stderr.write(said.getvalue())
        raise
    shutil.rmtree("mlruns", ignore_errors=True)  # a copy of each model
    return meter


def _training(stage: str, meter: "Meter", params: Params, card: "Card") -> Estimate:
    """Of all steps of a training, at the batch size of params.yaml."""
    from techloop.pipeline.costs import at_batch

    training = getattr(params, stage).training
    step = at_batch(meter.steps, SIZES, training.batch_size)
    steps, memory_gb = math.ceil(training.loops / training.batch_size), step.memory / 1e9
    # The loops lie in the card's memory too if they are few, see `LoopDataset.reader`.
    if stage == "train_audio_vae" and _loops_gb(params) < card.memory_gb / 4:
        memory_gb += _loops_gb(params)
    flops, hours = steps * step.cost.flops, steps * card.seconds(step.cost) / 3600
    return Estimate(flops, hours, step.parameters, step.cost.flops, memory_gb)


def _loops_gb(params: Params) -> float:
    return params.prepare_loops.synth.loops * params.grid.samples * 2 / 1e9


def _row(name: str, of: Estimate) -> str:
    trained = f"{of.parameters / 1e6:8.2f} M{of.step_flops / 1e9:14.1f}" if of.parameters else ""
    memory = f"{of.memory_gb:7.2f}" if of.parameters else ""
    return f"{name:44}{trained:24}{of.flops / 1e15:10.3f}{memory:7}{of.hours:9.2f}"


def _told(params: Params, card: "Card", models: int, seconds: float) -> str:
    """What else there is to know, and what was assumed."""
    from techloop.training.distributed import precision_from_environment

    grid, audio = params.grid, params.train_audio_vae
    loops = params.prepare_loops.synth.loops
    latents = loops * 2 * 4 * audio.model.latent_dim * grid.frames * len(audio.cells)
    made = "" if params.prepare_loops.source == "synth" else ", as many as `synth` would make"
    return (
        f"\nDisk: {loops} loops{made} {_loops_gb(params):.1f} GB, latents {latents / 1e9:.1f} GB "
        "(those of a cell are in memory about twice while a VAE 2 is trained), models "
        f"{models / 1e9:.1f} GB. MLflow keeps the models once more; DVC's cache all of it, where "
        "the file system can neither clone nor link.\n"
        "GB: of the card. Weights, gradients, Adam's moments, and what a step has beside them: "
        f"counted at batches of {', '.join(map(str, SIZES))} in "
        f"{precision_from_environment()}, continued to batch_size.\n"
        f"Hours: assumed are {card.used_flops:.0%} of {card.peak_flops / 1e12:g} TFLOP/s and "
        f"{card.used_bytes:.0%} of {card.peak_bytes / 1e9:g} GB/s (RTX 3090, A10G), and no "
        f"operation under {card.launch_s * 1e6:g} us; preparing and evaluating a loop as slow as "
        "in the demo on two cores. Validation while training is not counted.\n"
        f"Every stage ran, in {seconds:.0f} s."
    )


if __name__ == "__main__":
    run_stage(main)

"""Discriminators and objectives of `finetune_decoder`, for equal CPU time: `make adversaries`.

    python benchmarks/adversaries.py data/loops --audio-vae data/audio_vae/kl --out benchmarks

Tunes the decoder of one audio VAE against each kind of discriminator and all four together, by each
objective, then the best three again with other seeds. Each training gets the same CPU time (of all
threads of the process); decoder, crops, losses and optimiser are the stage's, and its schedule
follows the time instead of the steps. Writes `adversaries.csv`, `adversaries.md` and
`adversaries.png`.

The first row is the decoder before tuning, the second has the spectral loss alone. Errors and
tonality are of test loops, distances of validation and test loops, as in
`evaluate_reconstruction`. Deviations (`+-`) are by bootstrap over loops. Which cells are best says
the mean of their ranks by kernel distance, correlation of tonality, and log + linear distance.

Finished trainings lie in `checkpoints/adversaries/`; the next call with the same code, data and
settings skips them. An interrupted one begins anew.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
import typer
from torch import Tensor
from tqdm import tqdm

from techloop.allocator import keep_freed_memory
from techloop.artifacts import atomic_file, atomic_folder, atomic_write, read_json, write_json
from techloop.closure import code_fingerprint
from techloop.data.datasets import LoopDataset
from techloop.evaluation.features import log_mel_statistics
from techloop.evaluation.metrics.bootstrap import Estimate, bootstrap, mean
from techloop.evaluation.metrics.fidelity import (
    DETAIL_MOMENTS,
    MULTI_LIN,
    MULTI_LOG,
    comparison_features,
    fine_structure,
    loop_errors,
)
from techloop.evaluation.metrics.tonality import METRICS as TONALITY_METRICS
from techloop.evaluation.metrics.tonality import tonality, tonality_scores
from techloop.evaluation.training_distances import log_mel_distances
from techloop.models.audio_vae import AudioVAE
from techloop.models.base import model_fingerprint
from techloop.params import (
    AdversarialObjective,
    DecoderCell,
    Discriminator,
    FinetuneDecoder,
    load_params,
)
from techloop.reporting.adversaries_plot import Decoder, adversaries
from techloop.training.collapse import collapses
from techloop.training.decoder import ACCURACY, DECODER_NORM, DISCRIMINATOR_NORM, DecoderTask
from techloop.training.distributed import launch_fabric, precision_from_environment
from techloop.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from techloop.training.sampler import mix_seeds, shuffled_rows

if TYPE_CHECKING:
    from lightning_fabric import Fabric

ROOT = Path(__file__).parent.parent
FINISHED = ROOT / "checkpoints" / "adversaries"
KINDS = {**{kind: (kind,) for kind in get_args(Discriminator)}, "all": get_args(Discriminator)}
BATCH = 16  # loops decoded and compared together
LOG_EVERY = 25  # steps, of which `collapses` sees the means
END_SHARE = 0.1  # of the steps, whose accuracy is reported
RANKED = {"kernel": 1, "tonality": -1, "log + lin": 1}  # 1: lower is better
TONALITY = dict(zip(("tonality", "noisy", "tonal"), TONALITY_METRICS, strict=True))
COUNTS = ("steps", "s per step")
MEASURED = ("log + lin", "fine structure", "tonality", "noisy", "tonal", "fréchet", "kernel")
ROUNDED = {"log + lin": 3, "fréchet": 1, "kernel": 2}  # decimals of these; 2 of the others
DEVIATIONS = tuple(f"{name} +-" for name in MEASURED)
STABILITY = ("finite", "norm", "norm max", "d norm", "d norm max", "accuracy", "collapse")

HEAD = (
    *("discriminators", "objective", "seed", "steps", "CPU s per step"),
    *("log + lin", "fine structure", "tonality: correlation", "noisy loops", "tonal loops"),
    *("Fréchet log-mel", "kernel x 1,000", "steps with finite gradients"),
    *("gradient norm of the decoder, median / max", "of the discriminators"),
    *("accuracy at the end", "warnings"),
)


class Cell(NamedTuple):
    """One training: against what, by which objective."""

    discriminators: str
    objective: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Its folder and its name in the progress bar."""
        return f"{self.discriminators}, {self.objective}, seed {self.seed}"


UNTUNED, SPECTRAL = Cell("none", "not tuned"), Cell("none", "spectral loss alone")
GRID = [Cell(kind, objective) for kind in KINDS for objective in get_args(AdversarialObjective)]


class Measure:
    """Measures audio VAEs on the same held-out loops, with the same noise.

    Args:
        folder: a prepared data set.
        most: held-out loops, at most.
        seed: of the sample of loops, of the noise and of the bootstrap.

    Attributes:
        real: what the originals themselves have.
    """

    def __init__(self, folder: Path, most: int, seed: int) -> None:
        train, held_out = LoopDataset(folder, "train"), LoopDataset(folder, ["validation", "test"])
        rows = np.random.default_rng(seed).permutation(len(held_out))[:most]
        tested = (held_out.index["split"] == "test").to_numpy()[rows]
        self.x, self.grid, self.seed = torch.from_numpy(held_out.audio(rows)), train.grid, seed
        self.test = torch.from_numpy(np.flatnonzero(tested))
        self.tonality = _by_batch(lambda x: tonality(x, self.grid), self.x[self.test]).numpy()
        self.distances = log_mel_distances(train, min(len(rows), len(train)), seed=seed)
        scores = tonality_scores(self.tonality, self.tonality, seed=seed)
        own = {name: scores[metric] for name, metric in TONALITY.items() if name != "tonality"}
        self.real = _columns(own | self._distances(self.x))

    @torch.inference_mode()
    def __call__(self, vae: AudioVAE) -> dict[str, float]:
        """The columns `MEASURED`, each with its deviation (`<column> +-`)."""
        generator = torch.Generator().manual_seed(self.seed)
        y = _by_batch(lambda x: vae.reconstruct(x, generator), self.x)
        pairs = zip(self.x[self.test].split(BATCH), y[self.test].split(BATCH), strict=True)
        parts = [loop_errors(*(comparison_features(x, self.grid) for x in p)) for p in pairs]
        errors = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        moments = np.stack([errors[name] for name in DETAIL_MOMENTS], 1)
        own = _by_batch(lambda x: tonality(x, self.grid), y[self.test]).numpy()
        scores = tonality_scores(self.tonality, own, seed=self.seed)
        total = errors[MULTI_LOG.name] + errors[MULTI_LIN.name]
        estimates = {
            "log + lin": bootstrap(total, mean, seed=self.seed),
            "fine structure": bootstrap(moments, fine_structure, seed=self.seed),
            **{name: scores[metric] for name, metric in TONALITY.items()},
            **self._distances(y),
        }
        return _columns(estimates)

    def _distances(self, audio: Tensor) -> dict[str, Estimate]:
        both = self.distances(log_mel_statistics(audio.numpy(), self.grid), seed=self.seed)
        return {
            "fréchet": both[self.distances.frechet],
            "kernel": both[self.distances.kernel],
        }


class Contest(NamedTuple):
    """What all trainings have in common."""

    loops: Path
    audio_vae: Path
    params: FinetuneDecoder
    weights: DecoderCell
    seconds: float
    fabric: "Fabric"
    measure: Measure
    folder: Path
    bar: tqdm

    def row(self, cell: Cell) -> dict[str, Any]:
        """What came of a training; it is trained if no earlier call has finished it."""
        file = self.folder / cell.name / "row.json"
        if not file.exists():
            self.bar.set_description(cell.name)
            if cell == UNTUNED:
                steps, vae = pd.DataFrame(), AudioVAE.load(self.audio_vae)
            else:
                task = self.task(cell)
                steps = train_for(task, self.fabric, self.seconds, cell.seed, self.bar)
                vae = task.model
            row = cell._asdict() | self.measure(vae)
            if len(steps):
                row |= {"steps": len(steps), "s per step": self.seconds / len(steps)}
                row |= stability(steps, self.params.training.batch_size)
            with atomic_folder(file.parent) as new:
                steps.to_csv(new / "steps.csv", index=False)
                write_json(new / file.name, row)
        undefined = {None: math.nan}  # JSON has no NaN
        return {name: undefined.get(value, value) for name, value in read_json(file).items()}

    def task(self, cell: Cell) -> DecoderTask:
        """The stage's task."""
        params, kinds = self.params, KINDS.get(cell.discriminators, ("frame",))
        changes: dict[str, object] = {"discriminators": list(kinds)}
        if cell == SPECTRAL:  # the discriminators wait to the end
            wait = {"warmup_loops": params.training.loops + 1}
            params = params.model_copy(update=wait)
        else:
            changes["objective"] = cell.objective
        game = self.weights.model_copy(update=changes)
        return DecoderTask(self.loops, self.audio_vae, params, game, cell.seed, self.fabric.device)


def train_for(
    task: DecoderTask, fabric: "Fabric", seconds: float, seed: int, bar: tqdm
) -> pd.DataFrame:
    """Train a task for some CPU seconds of this process; all that its steps logged.

    The stage's schedule with the share of the time for the share of the steps. A step whose
    gradients are not finite is left out, where the stage would stop.
    """
    batch_size = min(task.params.training.batch_size, len(task.loop_ids))
    optimizer = make_optimizer(task.groups(task.params.training.learning_rate))
    module, optimizer = fabric.setup(task.module, optimizer)
    module.train()
    generator, steps, start = torch.Generator(fabric.device), [], time.process_time()
    before = bar.n
    while (spent := time.process_time() - start) < seconds:
        generator.manual_seed(mix_seeds(seed, len(steps), 0))
        set_learning_rate(optimizer, spent / seconds)
        batch = task.batch(shuffled_rows(len(steps), len(task.loop_ids), batch_size, seed))
        seen = int(spent / seconds * task.params.training.loops)
        terms = task.loss(module, batch, generator, seen)
        fabric.backward(terms["loss"])
        terms |= clip_gradients(fabric, optimizer, task.resting(seen))
        steps.append({name: float(value.detach()) for name, value in terms.items()})
        if _finite(steps[-1]):
            optimizer.step()
        optimizer.zero_grad()
        bar.update(min(int(spent), int(seconds)) - (bar.n - before))
    bar.update(int(seconds) - (bar.n - before))
    task.module.eval()
    return pd.DataFrame(steps)


def _finite(step: dict[str, float]) -> bool:
    return all(math.isfinite(step[norm.name]) for norm in (DECODER_NORM, DISCRIMINATOR_NORM))


def stability(steps: pd.DataFrame, batch_size: int) -> dict[str, Any]:
    """The columns `STABILITY` of what `train_for` logged.

    Norms are of the gradients of the decoder, and of the discriminators (`d`) while they play,
    before clipping and where finite.
    """
    norms = steps[[DECODER_NORM.name, DISCRIMINATOR_NORM.name]]
    finite = np.isfinite(norms).all(axis=1)
    norms, row = norms[finite], {"finite": finite.mean()}
    row |= {"norm": norms.iloc[:, 0].median(), "norm max": norms.iloc[:, 0].max()}
    if ACCURACY.name not in steps:
        return row
    playing = norms[steps[ACCURACY.name].notna()[finite]].iloc[:, 1]
    row |= {"d norm": playing.median(), "d norm max": playing.max()}
    row["accuracy"] = steps[ACCURACY.name].tail(math.ceil(END_SHARE * len(steps))).mean()
    logs = steps.groupby(steps.index // LOG_EVERY).mean()
    logs.insert(0, "loops_seen", (logs.index + 1) * LOG_EVERY * batch_size)
    history = logs.dropna(subset=[ACCURACY.name]).to_dict("records")
    warnings = {name for n in range(len(history)) for name in collapses(history[: n + 1])}
    return row | {"collapse": ", ".join(sorted(warnings)) or "none"}


def best(rows: Sequence[dict[str, Any]], many: int) -> list[Cell]:
    """The cells of the best mean rank by the columns `RANKED`; undefined numbers rank last."""
    table = pd.DataFrame(rows)
    ranks = [
        (sign * table[name].astype(float)).rank(na_option="bottom") for name, sign in RANKED.items()
    ]
    order = sum(ranks).sort_values(kind="stable").index[:many]
    return [Cell(rows[i]["discriminators"], rows[i]["objective"]) for i in order]


def markdown(table: pd.DataFrame, real: dict[str, float]) -> str:
    """The table as it stands in README.md."""
    lines = [list(HEAD), ["---"] * len(HEAD)]
    columns = [*Cell._fields, *COUNTS, *MEASURED, *DEVIATIONS, *STABILITY]
    for row in table.reindex(columns=columns).to_dict("records"):
        trained = row["objective"] != UNTUNED.objective
        cells = [row["discriminators"], row["objective"], str(row["seed"]) if trained else ""]
        cells += [_number(row["steps"], 0), _number(row["s per step"], 2)]
        cells += [_with_deviation(row, name) for name in MEASURED]
        cells += [_number(row["finite"], 4)]
        for side in ("norm", "d norm"):
            both = [_number(row[name], 2) for name in (side, f"{side} max")]
            cells.append(" / ".join(both) if all(both) else "")
        cells.append(_number(row["accuracy"], 2))
        lines.append([*cells, row["collapse"] if isinstance(row["collapse"], str) else ""])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    defined = [name for name in MEASURED if math.isfinite(real.get(name, math.nan))]
    originals = ", ".join(f"{name} {_with_deviation(real, name)}" for name in defined)
    return f"Held-out loops themselves: {originals}.\n\n{text}\n"


def _with_deviation(row: Mapping[str, Any], name: str) -> str:
    value, deviation = (_number(row[key], name) for key in (name, f"{name} +-"))
    return f"{value} ± {deviation}" if deviation else value


def _number(value: float, column: str | int) -> str:
    decimals = column if isinstance(column, int) else ROUNDED.get(column, 2)
    return "" if math.isnan(value) else f"{value:,.{decimals}f}"


def draw(path: Path, table: pd.DataFrame, real: dict[str, float]) -> None:
    """The picture of the table."""
    decoders = [
        Decoder(
            row["discriminators"],
            row["objective"],
            *((row[name], row[f"{name} +-"]) for name in RANKED),
        )
        for row in table.to_dict("records")
    ]
    names = [cell.objective for cell in (UNTUNED, SPECTRAL)]
    adversaries(
        path,
        [d for d in decoders if d.objective not in names],
        {d.objective: d for d in decoders if d.objective in names},
        real["kernel"],
    )


def _columns(estimates: dict[str, Estimate]) -> dict[str, float]:
    values = {name: estimate.value for name, estimate in estimates.items()}
    return values | {f"{name} +-": estimate.deviation for name, estimate in estimates.items()}


def _by_batch(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([function(part) for part in x.split(BATCH)])


def main(
    loops: Path,
    audio_vae: Annotated[Path, typer.Option(help="Folder of a finished audio VAE.")],
    out: Annotated[Path, typer.Option(help="Folder of table and picture.")],
    seconds: Annotated[float, typer.Option(help="CPU seconds of a training, all threads.")] = 480,
    seeds: Annotated[int, typer.Option(help="For the best three cells, the first included.")] = 3,
    held_out: Annotated[
        int, typer.Option("--loops", help="Held-out loops, at most; 0: as evaluate_reconstruction.")
    ] = 0,
    threads: Annotated[int, typer.Option(help="How many PyTorch uses.")] = 2,
    cell: Annotated[str, typer.Option(help="Whose weights of the terms are used.")] = "kl",
) -> None:
    """Tune decoders for equal CPU time, then write one table and one picture."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    all_params = load_params(ROOT / "params.yaml")
    params, most = all_params.finetune_decoder, held_out or all_params.evaluate_reconstruction.loops
    weights = params.cell(cell)
    code = code_fingerprint("techloop.training.decoder", "techloop.evaluation.training_distances")
    settings = {
        "code": code,
        "data": read_json(loops / "card.json")["fingerprint"],
        "audio_vae": model_fingerprint(audio_vae),
        "params": params.model_dump(exclude={"cells"}),
        "weights": weights.weights.model_dump(),
        "seconds": seconds,
        "threads": threads,
        "precision": precision_from_environment(),
        "loops": most,
    }
    folder = FINISHED / f"{mix_seeds(settings):016x}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "settings.json", settings)
    measure = Measure(loops, most, all_params.seed)
    again = 3 * (seeds - 1)
    rows: list[dict[str, Any]] = []
    with tqdm(total=int(seconds) * (1 + len(GRID) + again), unit=" CPU s", smoothing=0) as bar:
        contest = Contest(
            loops, audio_vae, params, weights, seconds, launch_fabric(), measure, folder, bar
        )

        def run(cells: Iterable[Cell]) -> None:
            for cell in cells:
                is_new = not (folder / cell.name).exists()
                rows.append(contest.row(cell))
                table = pd.DataFrame(rows)
                with atomic_file(out / "adversaries.csv") as new:
                    table.to_csv(new, index=False)
                if is_new:
                    shown = ["discriminators", "objective", "seed", *COUNTS, *MEASURED, *STABILITY]
                    shown = [name for name in shown if name in table]
                    tqdm.write(table[shown].round(3).to_string(index=False, na_rep="") + "\n")
                elif cell != UNTUNED:
                    bar.total -= int(seconds)
                    bar.refresh()

        run([UNTUNED, SPECTRAL, *GRID])
        winners = best(rows[2:], 3)
        run(winner._replace(seed=seed) for seed in range(1, seeds) for winner in winners)
    table = pd.DataFrame(rows)
    atomic_write(out / "adversaries.md", markdown(table, measure.real))
    draw(out / "adversaries.png", table, measure.real)
    print(out / "adversaries.md", out / "adversaries.png", sep="\n")


if __name__ == "__main__":
    typer.run(main)

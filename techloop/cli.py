"""The `techloop` command: new loops, reconstructions, morphs and walks; what a dataset holds."""

# Nothing heavy is imported up here: `techloop --help` answers at once.
import importlib.metadata
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    import torch

    from techloop.data.summary import LoopsFolder
    from techloop.instrument import Instrument


class Stretch(StrEnum):
    """How a loop gets the tempo of the grid."""

    RESAMPLE = "resample"
    PRESERVE_PITCH = "preserve_pitch"


MODELS = Path("data/latent_vae")
PREFERRED = "kl-posterior-4"  # of the default cells, the one whose prior is nearest to real loops

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Seed = Annotated[int, typer.Option(min=0, help="Same seed, same loops.")]
Out = Annotated[Path, typer.Option(help="Folder for the WAVs; made where it is missing.")]
Model = Annotated[
    Path | None,
    typer.Option(
        help=f"Folder of a latent VAE. Default: {PREFERRED} in {MODELS}, else the first there.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=UNITS",
        help="Move along a control, as in brighter=+1.5: louder, brighter, noisier, bassier, "
        "denser or punchier, by deviations of the prior. Again for a further one.",
        show_default=False,
    ),
]
Controls = Annotated[
    Path | None,
    typer.Option(
        help="Where --set's directions are. Default: controls.json in the model's folder, else "
        "what `evaluate_controls` of the pipeline has written.",
        show_default=False,
    ),
]
Bars = Annotated[int, typer.Option(min=2, help="Bars in the piece.")]
Recording = Annotated[Path, typer.Argument(help="Any audio file: WAV, FLAC, OGG, MP3, AIFF.")]


@app.callback(invoke_without_command=True)
def techloop(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """New loops, reconstructions, morphs and walks; what a dataset holds."""
    if version:
        typer.echo(importlib.metadata.version("techloop"))
        raise typer.Exit


@app.command()
def generate(
    loops: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    seed: Seed = 0,
    settings: Settings = None,
    controls: Controls = None,
    out: Out = Path("out"),
    model: Model = None,
) -> None:
    """New loops, each drawn from the prior."""
    with _paragraphs():
        by = _units(settings or [])
        folder, instrument = _instrument(model)
        audio = instrument.generate(loops, seed, _shift(by, controls, folder, instrument))
        arguments = {"loops": loops, "set": by}
        about = {"command": "generate", "seed": seed, "arguments": arguments}
        for i, loop in enumerate(audio):
            stem = f"generate-seed{seed}-{i:02d}"
            _write(out, stem, loop, instrument, folder, about | {"loop": i})


@app.command()
def reconstruct(file: Recording, out: Out = Path("out"), model: Model = None) -> None:
    """A recording as the models hear it: each of its loops through both and back."""
    with _paragraphs():
        folder, instrument = _instrument(model)
        audio, bars = _loops_of(file, instrument)
        about = {"command": "reconstruct", "arguments": {"file": file.name}}
        for bar, loop in zip(bars, instrument.reconstruct(audio), strict=True):
            stem = f"reconstruct-{file.stem}-bar{bar:02d}"
            _write(out, stem, loop, instrument, folder, about | {"bar": bar})


@app.command()
def morph(
    a: Recording,
    b: Recording,
    bars: Bars = 16,
    out: Out = Path("out"),
    model: Model = None,
) -> None:
    """From the first loop of A to the first loop of B, in equal steps."""
    with _paragraphs():
        folder, instrument = _instrument(model)
        ends = [_loops_of(file, instrument)[0][0] for file in (a, b)]
        piece = instrument.morph(ends[0], ends[1], bars)
        arguments = {"a": a.name, "b": b.name, "bars": bars}
        about = {"command": "morph", "arguments": arguments}
        _write(out, f"morph-{a.stem}-{b.stem}", piece, instrument, folder, about)


@app.command()
def walk(
    bars: Bars = 32,
    seed: Seed = 0,
    settings: Settings = None,
    controls: Controls = None,
    out: Out = Path("out"),
    model: Model = None,
) -> None:
    """A wandering through the space of loops that ends where it began."""
    with _paragraphs():
        by = _units(settings or [])
        folder, instrument = _instrument(model)
        piece = instrument.walk(bars, seed, _shift(by, controls, folder, instrument))
        about = {"command": "walk", "seed": seed, "arguments": {"bars": bars, "set": by}}
        _write(out, f"walk-seed{seed}", piece, instrument, folder, about)


@app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(help="Folder of audio, or the URI of one: s3://bucket/loops, zip://::a.zip"),
    ],
    out: Annotated[str, typer.Argument(help="Folder of the dataset, or its URI; is replaced.")],
    bpm: Annotated[float, typer.Option(help="Tempo of the grid.")] = 125.0,
    bars: Annotated[int, typer.Option(help="Bars a loop.")] = 1,
    sample_rate_hz: Annotated[int, typer.Option(help="Of the loops.")] = 16_000,
    stretch: Annotated[
        Stretch, typer.Option(help="To the tempo of the grid: pitch follows, or stays.")
    ] = Stretch.RESAMPLE,
    workers: Annotated[
        int | None, typer.Option(help="Processes; one a CPU by default.", show_default=False)
    ] = None,
) -> None:
    """A dataset from a folder of any audio, without the pipeline. An interrupted run goes on."""
    with _paragraphs():
        from techloop.data.build import prepare_loops
        from techloop.data.loops import PreparationConfig
        from techloop.data.sources.folder import FolderSource
        from techloop.grid import Grid

        grid = Grid(bpm=bpm, bars=bars, sample_rate_hz=sample_rate_hz)
        recipe = PreparationConfig(grid, stretch=stretch.value)
        card = prepare_loops(FolderSource(source), out, recipe, workers=workers)
    typer.echo(
        f"{card['loops']} loops of {card['items']} files; `techloop inspect {out}` says more"
    )


@app.command()
def inspect(
    folder: Annotated[
        str, typer.Argument(help="Folder of a dataset, or the URI of one.", metavar="FOLDER")
    ] = "data/loops",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the same as a picture, inspect.png.", show_default=False),
    ] = None,
) -> None:
    """What a dataset holds, what was left out of it and why, and how its tempi were found."""
    with _paragraphs():
        from techloop.data.summary import describe, open_loops

        loops = open_loops(folder)
        text = describe(loops, sys.stdout.encoding or "ascii")
    typer.echo(text)
    with _paragraphs():
        if out is not None:
            typer.echo(f"\n{_draw(loops, out)}")
        if loops.lacking:
            raise ValueError(loops.age())


@app.command()
def fetch_fsld(
    folder: Annotated[Path, typer.Argument(help="Where it goes.")] = Path("data/raw"),
) -> None:
    """Download the Freesound Loop Dataset (9 GB), or go on with it."""
    with _paragraphs():
        from techloop.data.sources.fsld import download_fsld

        typer.echo(download_fsld(folder))


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="Top of a checkout.")] = Path(),
) -> None:
    """What may be wrong with the machine, the settings, data and models; if it is, exit code 1."""
    from techloop.pipeline.doctor import run_checks

    found = run_checks(folder.resolve())
    for finding in found:
        typer.echo(f"{finding.level:8} {finding.about}: {finding.message}")
        if finding.remedy:
            typer.echo(f"{'':8} -> {finding.remedy}")
    problems = sum(finding.level == "problem" for finding in found)
    typer.echo(f"\nproblems: {problems}" if problems else "\nAll is well.")
    if problems:
        raise typer.Exit(1)


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="laptop, studio, or another file in profiles/.")],
) -> None:
    """Give params.yaml the sizes of a profile; comments and all else there stay."""
    with _paragraphs():
        from techloop.pipeline.profiles import use_profile

        changes = use_profile(name)
    typer.echo("\n".join(changes or [f"params.yaml has the sizes of {name} already"]))


@contextmanager
def _paragraphs() -> Iterator[None]:
    """A user's mistake ends as one paragraph and exit code 1; ours keep their traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"techloop: {error}", err=True)
        raise typer.Exit(1) from None


def _instrument(model: Path | None) -> "tuple[Path, Instrument]":
    """The instrument asked for, else the first that the pipeline has trained.

    Raises:
        ValueError: there is none, or its folder is damaged.
    """
    from techloop.instrument import Instrument

    if model is None:
        found = sorted(path.parent for path in MODELS.glob("[!.]*/config.json"))
        if not found:
            raise ValueError(
                f"there is no model in {MODELS.resolve()}. Run `dvc repro` in the repository to "
                "train one, or give the folder of one with --model."
            )
        model = next((path for path in found if path.name == PREFERRED), found[0])
        names = [path.name for path in found if path != model]
        others = f" (others: {', '.join(names)})" if names else ""
        typer.echo(f"model: {model}{others}", err=True)
    return model, Instrument.load(model)


def _units(settings: list[str]) -> dict[str, float]:
    """`brighter=+1.5` and the like, by name; the last of a name counts.

    Raises:
        ValueError: one is not of that form.
    """
    by = {}
    for setting in settings:
        name, _, units = setting.partition("=")
        try:
            by[name.strip()] = float(units)
        except ValueError:
            raise ValueError(
                f"--set {setting} is not a control and a number of units, as in --set brighter=+1.5"
            ) from None
    return by


def _shift(
    by: dict[str, float], controls: Path | None, model: Path, instrument: "Instrument"
) -> "torch.Tensor | None":
    """Where settings move the prior's noise.

    Raises:
        ValueError: there is no such control, or no file of them for this model.
    """
    if not by:
        return None
    from techloop.evaluation.controls import displacement, load_controls

    beside = model / "controls.json"
    measured = model.parent.parent.parent / "reports/controls" / model.name / "controls.json"
    file = controls or (beside if beside.is_file() else measured)
    return displacement(load_controls(file, instrument), by)


def _loops_of(file: Path, instrument: "Instrument") -> "tuple[np.ndarray, list[int]]":
    """A recording on the grid: its loops `(n, samples)`, and the bar that each begins at.

    Raises:
        ValueError: nothing of it can be brought there, with the reason.
    """
    import numpy as np

    from techloop.audio.wav import INT16_SCALE
    from techloop.data.loops import PreparationConfig, prepare_item
    from techloop.data.source import Item
    from techloop.data.sources.folder import FolderSource

    grid = instrument.grid
    recipe = PreparationConfig(grid, **instrument.preparation)
    item = Item(name=file.name, group=file.name)
    loops, rows, rejected = prepare_item(FolderSource(file.parent), item, recipe)
    if not loops:
        row = rejected[0]
        value, limit = row["value"], row["limit"]
        measured = f" ({value:g}, limit {limit:g})" if limit == limit else ""
        reason = f"{row['reason'].replace('_', ' ')}: {row['detail'].rstrip('.')}{measured}"
        raise ValueError(
            f"{file} gave no loop: {reason}. A recording must hold {grid.beats} beats or more, at "
            f"a tempo that can be found; the tempo in its name, as in `{file.stem} "
            f"128bpm{file.suffix}`, helps."
        )
    return np.stack(loops) / np.float32(INT16_SCALE), [row["bar_in_source"] for row in rows]


def _draw(loops: "LoopsFolder", out: Path) -> Path:
    """Histograms and reasons as a picture in this folder."""
    from techloop.data.summary import histograms, reasons, ticks
    from techloop.reporting.dataset_plot import Bins, dataset_overview

    panels = [
        Bins(h.title, h.unit, h.of, h.edges, h.counts, ticks(h), h.log)
        for h in histograms(loops.index)
    ]
    left_out = [] if loops.rejected is None else reasons(loops.rejected, 0)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "inspect.png"
    dataset_overview(file, panels, {r.reason.replace("_", " "): r.rows for r in left_out})
    return file


def _write(
    out: Path,
    stem: str,
    audio: "np.ndarray",
    instrument: "Instrument",
    model: Path,
    about: dict[str, Any],
) -> None:
    """A WAV, and beside it a JSON file that says how it came about: `about`, model and grid."""
    from dataclasses import asdict

    from techloop.artifacts import write_json
    from techloop.audio.wav import write_loop

    grid = instrument.grid
    wav = out / f"{stem}-{grid.bpm:g}bpm.wav"
    beats = grid.beats * (len(audio) // grid.samples)
    write_loop(wav, audio, grid.sample_rate_hz, grid.bpm, beats)
    sidecar = {
        "techloop": importlib.metadata.version("techloop"),
        **about,
        "model": model.name,
        "model_fingerprint": instrument.fingerprint,
        "grid": asdict(grid),
        "bars": beats // grid.beats_per_bar,
    }
    write_json(wav.with_suffix(".json"), sidecar)
    typer.echo(wav)

"""The `techloop` command: new loops, reconstructions, morphs and walks; datasets and checks."""

# Heavy modules are imported inside functions, so that `techloop --help` answers at once.
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from techloop import __version__
from techloop.allocator import keep_freed_memory

if TYPE_CHECKING:
    import numpy as np
    import torch

    from techloop.instrument import Instrument


class Stretch(StrEnum):
    """How a loop is brought to the tempo of the grid."""

    RESAMPLE = "resample"
    PRESERVE_PITCH = "preserve_pitch"


MODELS = Path("data/instrument")
PREFERRED = "kl-posterior-4"  # the default cell whose prior is closest to real loops

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Seed = Annotated[int, typer.Option(min=0, help="Same seed, same loops.")]
Out = Annotated[Path, typer.Option(help="Folder for the WAVs; created where it is missing.")]
Model = Annotated[
    Path | None,
    typer.Option(
        help=f"Folder of an instrument. Default: {PREFERRED} in {MODELS}, else the first there.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=UNITS",
        help="Move along a control, as in brighter=+1.5: louder, brighter, noisier, bassier, "
        "denser or punchier, in standard deviations of the prior. Repeat it for more controls.",
        show_default=False,
    ),
]
Controls = Annotated[
    Path | None,
    typer.Option(
        help="File with the directions of --set. Default: controls.json in the model's folder, "
        "else the one that the pipeline's `evaluate_controls` wrote.",
        show_default=False,
    ),
]
Bars = Annotated[int, typer.Option(min=2, help="Bars in the piece.")]
Recording = Annotated[Path, typer.Argument(help="Any audio file: WAV, FLAC, OGG, MP3, AIFF.")]


@app.callback(invoke_without_command=True)
def techloop(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """New loops, reconstructions, morphs and walks; datasets and checks."""
    if version:
        typer.echo(__version__)
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
    """New loops, each sampled from the prior."""
    with _errors_as_text():
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
    """Each loop of a recording, encoded and decoded by both models."""
    with _errors_as_text():
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
    with _errors_as_text():
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
    """A random walk through the space of loops that ends where it began."""
    with _errors_as_text():
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
    bars: Annotated[int, typer.Option(help="Bars per loop.")] = 1,
    sample_rate_hz: Annotated[int, typer.Option(help="Sample rate of the loops.")] = 16_000,
    stretch: Annotated[
        Stretch, typer.Option(help="To the tempo of the grid: pitch changes too, or stays.")
    ] = Stretch.RESAMPLE,
    workers: Annotated[
        int | None, typer.Option(help="Processes; one per CPU by default.", show_default=False)
    ] = None,
) -> None:
    """A dataset from a folder of any audio, without the pipeline. Resumes an interrupted run."""
    with _errors_as_text():
        from techloop.data.build import prepare_loops
        from techloop.data.sources.folder import FolderSource
        from techloop.grid import Grid
        from techloop.preparation_config import PreparationConfig

        grid = Grid(bpm=bpm, bars=bars, sample_rate_hz=sample_rate_hz)
        config = PreparationConfig(stretch=stretch.value)
        card = prepare_loops(FolderSource(source), out, grid, config, workers=workers)
    typer.echo(
        f"{card['loops']} loops of {card['items']} files; `techloop inspect {out}` shows details"
    )


@app.command()
def inspect(
    folder: Annotated[
        str, typer.Argument(help="Folder of a dataset, or the URI of one.", metavar="FOLDER")
    ] = "data/loops",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the picture inspect.png.", show_default=False),
    ] = None,
) -> None:
    """Content of a dataset: splits, licences, tempi, levels, and what was left out and why."""
    with _errors_as_text():
        from techloop.data.loops_folder import open_loops
        from techloop.reporting.dataset_text import describe

        loops = open_loops(folder)
        text = describe(loops, sys.stdout.encoding or "ascii")
    typer.echo(text)
    with _errors_as_text("pipeline"):
        if out is not None:
            from techloop.reporting.dataset_plot import draw_dataset

            typer.echo(f"\n{draw_dataset(loops, out / 'inspect.png')}")
        if loops.lacking:
            raise ValueError(loops.age())


@app.command()
def fetch_fsld(
    folder: Annotated[Path, typer.Argument(help="Folder of the archive.")] = Path("data/raw"),
) -> None:
    """Download the Freesound Loop Dataset (9 GB), or resume its download."""
    with _errors_as_text():
        from techloop.data.sources.fsld.download import download_fsld

        typer.echo(download_fsld(folder))


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="Top of a checkout.")] = Path(),
) -> None:
    """Check the machine, settings, data and models; exit code 1 if there are problems."""
    with _errors_as_text("pipeline"):
        from techloop.pipeline.doctor import run_checks

        findings = run_checks(folder.resolve())
    for finding in findings:
        typer.echo(f"{finding.level:8} {finding.about}: {finding.message}")
        if finding.remedy:
            typer.echo(f"{'':8} -> {finding.remedy}")
    problems = sum(finding.level == "problem" for finding in findings)
    typer.echo(f"\nproblems: {problems}" if problems else "\nAll is well.")
    if problems:
        raise typer.Exit(1)


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="laptop, evening, studio, or a file in profiles/.")],
) -> None:
    """Give params.yaml the sizes of a profile; comments and everything else there stay."""
    with _errors_as_text("pipeline"):
        from techloop.pipeline.profiles import use_profile

        changes = use_profile(name)
    typer.echo("\n".join(changes or [f"params.yaml has the sizes of {name} already"]))


@contextmanager
def _errors_as_text(extra: str = "data") -> Iterator[None]:
    """Print errors that a user can correct as one paragraph, exit code 1; others are not caught.

    Args:
        extra: of `pip install 'techloop[...]'`, which the command needs.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "techloop"):
            raise
        message = (
            f"this command needs the package {package}, which is not installed: "
            f"pip install 'techloop[{extra}]'"
        )
    else:
        return
    typer.echo(f"techloop: {message}", err=True)
    raise typer.Exit(1) from None


def _instrument(model: Path | None) -> "tuple[Path, Instrument]":
    """Folder and instrument of a model; by default one that the pipeline has trained.

    Raises:
        ValueError: none is trained, or the folder is damaged.
    """
    from techloop.instrument import Instrument

    keep_freed_memory()
    if model is None:
        models = sorted(path.parent for path in MODELS.glob("[!.]*/config.json"))
        if not models:
            raise ValueError(
                f"no model is in {MODELS.resolve()}. Run `dvc repro` in the repository to train "
                "one, or give the folder of one with --model."
            )
        model = next((path for path in models if path.name == PREFERRED), models[0])
        names = [path.name for path in models if path != model]
        others = f" (others: {', '.join(names)})" if names else ""
        typer.echo(f"model: {model}{others}", err=True)
    return model, Instrument.load(model)


def _units(settings: list[str]) -> dict[str, float]:
    """Settings such as `brighter=+1.5`, by name; the last one with a name counts.

    Raises:
        ValueError: one does not have that form.
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
    """The displacement of the prior's noise by settings; None without any.

    Raises:
        ValueError: the model has no such control, or no file of controls.
    """
    if not by:
        return None
    from techloop.controls import displacement, load_controls

    beside = model / "controls.json"
    measured = model.parent.parent.parent / "reports/controls" / model.name / "controls.json"
    file = controls or (beside if beside.is_file() else measured)
    return displacement(load_controls(file, instrument), by)


def _loops_of(file: Path, instrument: "Instrument") -> "tuple[np.ndarray, list[int]]":
    """A recording brought to the grid: its loops `(n, samples)`, and the bar that each starts at.

    Raises:
        ValueError: it gives no loop; the message has the reason.
    """
    import numpy as np

    from techloop.audio.wav import INT16_SCALE
    from techloop.data.loops import prepare_item
    from techloop.data.source import Item
    from techloop.data.sources.folder import FolderSource
    from techloop.preparation_config import PreparationConfig

    grid = instrument.grid
    config = PreparationConfig(**instrument.preparation)
    item = Item(name=file.name, group=file.name)
    loops, rows, rejected = prepare_item(FolderSource(file.parent), item, grid, config)
    if not loops:
        row = rejected[0]
        value, limit = row["value"], row["limit"]
        measured = f" ({value:g}, limit {limit:g})" if limit == limit else ""
        reason = f"{row['reason'].replace('_', ' ')}: {row['detail'].rstrip('.')}{measured}"
        raise ValueError(
            f"{file} gave no loop: {reason}. A recording must have {grid.beats} beats or more, at "
            f"a tempo that can be estimated; it helps to put the tempo into its name, as in "
            f"`{file.stem} 128bpm{file.suffix}`."
        )
    return np.stack(loops) / np.float32(INT16_SCALE), [row["bar_in_source"] for row in rows]


def _write(
    out: Path,
    stem: str,
    audio: "np.ndarray",
    instrument: "Instrument",
    model: Path,
    about: Mapping[str, object],
) -> None:
    """Write a WAV, and beside it a JSON file with its origin: `about`, model and grid."""
    from dataclasses import asdict

    from techloop.artifacts import write_json
    from techloop.audio.wav import write_loop
    from techloop.models.base import model_fingerprint

    grid = instrument.grid
    wav = out / f"{stem}-{grid.bpm:g}bpm.wav"
    beats = grid.beats * (len(audio) // grid.samples)
    write_loop(wav, audio, grid.sample_rate_hz, grid.bpm, beats)
    sidecar = {
        "techloop": __version__,
        **about,
        "model": model.name,
        "model_fingerprint": instrument.fingerprint,
        "audio_vae_fingerprint": model_fingerprint(model / "audio_vae"),
        "grid": asdict(grid),
        "bars": beats // grid.beats_per_bar,
    }
    write_json(wav.with_suffix(".json"), sidecar)
    typer.echo(wav)

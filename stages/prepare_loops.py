"""Recordings, or the built-in drum machine, become loops on the beat grid."""

from pathlib import Path

from stages import run_stage
from techloop.loops import prepare_loops
from techloop.params import load_params
from techloop.sources import Source
from techloop.sources.folder import FolderSource
from techloop.sources.synth import SynthSource
from techloop.tracking import track

FOLDER = Path("data/loops")


def main() -> None:
    """Prepare `data/loops`."""
    params = load_params()
    section, grid = params.prepare_loops, params.beat_grid()
    source: Source
    if section.source == "folder":
        source, inputs = FolderSource(section.folder.path), [Path(section.folder.path)]
        source.items()  # complains of a missing or empty folder before a run is opened
    else:
        source, inputs = SynthSource(grid, section.synth.loops, params.seed), []
    with track("prepare_loops", params.told("prepare_loops"), inputs) as run:
        card = prepare_loops(
            source,
            FOLDER,
            grid=grid,
            min_bpm=section.folder.min_bpm,
            max_bpm=section.folder.max_bpm,
            loudness_lufs=section.loudness_lufs,
            silence_lufs=section.silence_lufs,
            train_fraction=section.train_fraction,
            validation_fraction=section.validation_fraction,
            shard_mb=section.shard_mb,
            seed=params.seed,
        )
        run.log({"loops": card["loops"], "hours": card["hours"], "items": card["items"]})
        run.log({f"split/{split}": n for split, n in card["splits"].items()})
        run.log({f"rejected/{reason}": n for reason, n in card["rejected"].items()})
        for file in ("card.json", "rejected.csv"):
            run.artifacts(FOLDER / file)
    print(f"{card['loops']} loops ({card['hours']:.2f} h) of {card['items']} items; ", end="")
    print(", ".join(f"{split} {n}" for split, n in card["splits"].items()))
    for reason, n in card["rejected"].items():
        print(f"  rejected {n:6d}  {reason}")


if __name__ == "__main__":
    run_stage(main)

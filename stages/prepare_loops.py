"""Recordings, or the built-in drum machine, become loops on the beat grid."""

from pathlib import Path

from stages import run_stage
from techloop.data.build import prepare_loops
from techloop.data.loops import PreparationConfig
from techloop.data.source import Source
from techloop.data.sources.folder import FolderSource
from techloop.data.sources.fsld.source import FSLDSource
from techloop.data.sources.synth.source import SynthSource
from techloop.params import Params, load_params
from techloop.tracking.run import track

FOLDER = Path("data/loops")


def main() -> None:
    """Prepare `data/loops`."""
    params = load_params()
    section, source = params.prepare_loops, source_of(params)
    source.items()  # complains of a missing or empty folder before a run is opened
    local = section.source != "synth" and "://" not in section.path
    inputs = [Path(section.path)] if local else []
    with track("prepare_loops", params.told("prepare_loops"), inputs) as run:
        card = prepare_loops(
            source,
            FOLDER,
            PreparationConfig(params.beat_grid(), **section.recipe.model_dump()),
            train_fraction=section.train_fraction,
            validation_fraction=section.validation_fraction,
            max_similarity=section.max_similarity,
            shard_mb=section.shard_mb,
            seed=params.seed,
            checkpoints=Path("checkpoints/prepare_loops"),
        )
        run.log({"loops": card["loops"], "hours": card["hours"], "items": card["items"]})
        run.log({f"split/{split}": n for split, n in card["splits"].items()})
        run.log({f"rejected/{reason}": n for reason, n in card["rejected"].items()})
        for file in ("card.json", "rejected.csv", "attribution.csv"):
            run.artifacts(FOLDER / file)
    print(f"{card['loops']} loops ({card['hours']:.2f} h) of {card['items']} items; ", end="")
    print(", ".join(f"{split} {n}" for split, n in card["splits"].items()))
    for reason, n in card["rejected"].items():
        print(f"  rejected {n:6d}  {reason}")


def source_of(params: Params) -> Source:
    """Where the loops come from."""
    section = params.prepare_loops
    if section.source == "synth":
        return SynthSource(params.beat_grid(), section.synth.loops, params.seed)
    if section.source == "folder":
        return FolderSource(section.path, section.folder.group)
    return FSLDSource(section.path, **section.fsld.model_dump())


if __name__ == "__main__":
    run_stage(main)

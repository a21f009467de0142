"""A source becomes a dataset of loops: `prepare_loops`."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from upath import UPath

from techloop.artifacts import atomic_folder, remove, write_json
from techloop.closure import code_fingerprint
from techloop.data import parts
from techloop.data.card import Card
from techloop.data.source import Source
from techloop.data.workers import make_parts
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig

FORMAT = 2


def prepare_loops(
    source: Source,
    folder: str | Path,
    grid: Grid,
    config: PreparationConfig,
    *,
    train_fraction: float = 0.8,
    validation_fraction: float = 0.1,
    max_similarity: float = 0.99,
    shard_mb: int = 256,
    seed: int = 0,
    checkpoints: str | Path | None = None,
    workers: int | None = None,
) -> Card:
    """Cut all recordings of a source into loops on the grid, and write the dataset.

    Writes `audio-00000.npy` ... (int16, `(loops, samples)`), `index.parquet` (a row per loop),
    `rejected.csv` (a row for each item or bar that was left out), `attribution.csv` (a row per
    recording that is used) and `card.json`. The bytes depend on source and arguments only, not on
    the number of workers or on interruptions: an interrupted run keeps its finished parts, and the
    next run resumes from them.

    One of several near-duplicate loops stays: one in the training split, else one in the
    validation split, else one in the test split. So none straddles splits, and adding recordings
    never moves what was trained on to where it would be tested on.

    Args:
        source: what to read; with several workers it is sent to each.
        folder: made whole or not at all; an older dataset there is replaced. A path or the URI of
            any file system that fsspec knows.
        grid: where loops shall lie.
        config: what turns a recording into loops.
        train_fraction: share of the groups, by hash, so that adding some moves no other.
        validation_fraction: the same; the rest is the test split.
        max_similarity: loops whose spectrograms are more similar are near-duplicates.
        shard_mb: largest size of a shard in megabytes.
        seed: what the source was made with, for the card.
        checkpoints: path or URI of a folder for finished parts; beside `folder` by default.
            A cluster's workers must reach it under the same name.
        workers: processes. 0 or 1: this one. None: `TECHLOOP_WORKERS`, else one per CPU. Not used
            where `DASK_SCHEDULER_ADDRESS` names a cluster.

    Returns:
        The content of `card.json`.

    Raises:
        ValueError: the source has no items, all of them were rejected, or a split would be empty.
    """
    items = source.items()
    if not items:
        raise ValueError(f"the source {source.name} has no items, so there is nothing to prepare")
    place = UPath(checkpoints or UPath(folder).with_name(f".{UPath(folder).name}-parts"))
    finished = place.absolute() / _identity(source, grid, config, seed)
    finished.mkdir(parents=True, exist_ok=True)
    chunks = parts.chunks_of(items, finished)
    with atomic_folder(folder) as new:  # first, as this may not be a place to write to
        make_parts(source, chunks, grid, config, workers)

        # Only now, as it imports pandas: workers import this module and do without.
        from techloop.data.assemble import assemble

        contents = assemble(
            chunks,
            new,
            grid,
            train_fraction=train_fraction,
            validation_fraction=validation_fraction,
            max_similarity=max_similarity,
            shard_mb=shard_mb,
        )
        card: Card = {
            "format": FORMAT,
            "grid": asdict(grid),
            "source": source.name,
            **contents,
            "items": len(items),
            "preparation": asdict(config),
            "max_similarity": max_similarity,
            "seed": seed,
        }
        write_json(new / "card.json", card)
    remove(finished)
    if not any(place.iterdir()):
        remove(place)
    return card


def _identity(source: Source, grid: Grid, config: PreparationConfig, seed: int) -> str:
    """A hash of all that finished parts depend on besides their items, the code included.

    The code that assembles them is not: when it changes, they stay.
    """
    code = code_fingerprint(parts.__name__, type(source).__module__)
    values = [asdict(grid), asdict(config), source.name, seed, code]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

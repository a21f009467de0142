"""A source becomes a dataset: many workers, one pass that can be interrupted, splits, shards."""

import hashlib
import io
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm
from upath import UPath

from techloop.artifacts import (
    atomic_folder,
    atomic_write,
    fingerprint,
    remove,
    write_json,
)
from techloop.audio.recording import Rejected
from techloop.audio.wav import INT16_SCALE
from techloop.closure import code_fingerprint
from techloop.data.deduplicate import SPECTROGRAM_SIZE, fingerprint_spectrogram, near_duplicates
from techloop.data.loops import PreparationConfig, Row, digest, prepare_item
from techloop.data.source import Item
from techloop.grid import Grid

if TYPE_CHECKING:
    import pandas as pd

    from techloop.data.source import Source
else:  # a protocol that is not checkable at run time, which the tests' checks would stumble over
    Source = object

FORMAT = 2
SPLITS = ("train", "validation", "test")
CHUNK_ITEMS, CHUNK_BYTES = 16, 4 * 2**20  # a task: seconds at most, so that no worker waits for one
WAITING = 8  # tasks a worker that are handed out before the first has come back
REJECTED_COLUMNS = ["file", "bar", "reason", "detail", "value", "limit"]
DASK = {
    # No task waits at a worker behind another, or it would be blamed for what that one did.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 1,  # a task that killed two workers is to blame
    # One thread each. The memory of arrays is kept for the next: by default it would go back to
    # the system each time, and a third of the time with it.
    "distributed.nanny.pre-spawn-environ": {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1),
        "MALLOC_TRIM_THRESHOLD_": 2**28,
        "MALLOC_MMAP_THRESHOLD_": 2**25,  # the most that glibc takes
    },
}
ATTRIBUTION_COLUMNS = ["file", "author", "licence", "url"]


def prepare_loops(
    source: Source,
    folder: str | Path,
    recipe: PreparationConfig,
    *,
    train_fraction: float = 0.8,
    validation_fraction: float = 0.1,
    max_similarity: float = 0.99,
    shard_mb: int = 256,
    seed: int = 0,
    checkpoints: str | Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Cut everything a source has into loops on the grid, and write the dataset.

    Writes `audio-00000.npy` ... (int16, `(loops, samples)`), `index.parquet` (a row a loop),
    `rejected.csv` (a row for each item or bar that was left out), `attribution.csv` (a row a
    recording that is used) and `card.json`. The bytes depend on source and arguments alone, not on
    the number of workers, nor on interruptions: what is done of an interrupted run is kept for the
    next.

    Of loops that are near-duplicates one is kept: of those in the training split, else of those in
    the validation split, else of those in the test split. So none straddles splits, and adding
    recordings never moves what was trained on to where it would be tested on.

    Args:
        source: what to read; with several workers it is sent to each.
        folder: made whole or not at all; what is there is replaced. A path or the URI of any file
            system that fsspec knows.
        recipe: what turns a recording into loops.
        train_fraction: share of the groups, by hash, so that adding some moves no other.
        validation_fraction: the same; the rest is the test split.
        max_similarity: of two loops' spectrograms; more similar ones are near-duplicates.
        shard_mb: largest size of a shard in megabytes.
        seed: what the source was made with, for the card.
        checkpoints: path or URI of a folder for what is done of a run; beside `folder` by default.
            A cluster's workers must reach it under the same name.
        workers: processes. 0 or 1: this one. None: `TECHLOOP_WORKERS`, else one a CPU. Not used
            where `DASK_SCHEDULER_ADDRESS` names a cluster.

    Returns:
        The content of `card.json`.

    Raises:
        ValueError: the source has nothing, all of it was rejected, or a split would be empty.
    """
    items = source.items()
    if not items:
        raise ValueError(f"the source {source.name} has no items, so there is nothing to prepare")
    identity = json.dumps(
        [asdict(recipe), source.name, seed, code_fingerprint(__name__, type(source).__module__)]
    )
    place = UPath(checkpoints or UPath(folder).with_name(f".{UPath(folder).name}-parts"))
    parts = place.absolute() / hashlib.sha256(identity.encode()).hexdigest()[:16]
    parts.mkdir(parents=True, exist_ok=True)
    chunks = _chunks(items, parts)
    with atomic_folder(folder) as new:  # first, as this may not be a place to write to
        _make(source, chunks, recipe, workers)
        about = _assemble(
            chunks, new, recipe.grid, train_fraction, validation_fraction, max_similarity, shard_mb
        )
        preparation = asdict(recipe)
        card = {
            "format": FORMAT,
            "grid": preparation.pop("grid"),
            "source": source.name,
            **about,
            "items": len(items),
            "preparation": preparation,
            "max_similarity": max_similarity,
            "seed": seed,
        }
        write_json(new / "card.json", card)
    remove(parts)
    if not any(place.iterdir()):
        remove(place)
    return card


def split_of(group: str, train_fraction: float, validation_fraction: float) -> str:
    """The split of a group: by hash, so it depends on nothing but its name and the fractions."""
    place = place_of(group)
    if place < train_fraction:
        return "train"
    return "validation" if place < train_fraction + validation_fraction else "test"


def place_of(group: str) -> float:
    """A number in [0, 1) that is as good as random, and always the same for a group."""
    return int.from_bytes(digest(group)[:6]) / 2**48


class _Chunk(NamedTuple):
    """The items of one task, and the file that holds what became of them once it is done."""

    items: Sequence[Item]
    part: UPath

    def singly(self) -> list["_Chunk"]:
        """One of each item."""
        return [_chunk([item], self.part.parent) for item in self.items]

    def parts(self) -> list[UPath]:
        """The files that hold it: one, or one an item where it had to be taken apart."""
        if self.part.exists() or len(self.items) == 1:
            return [self.part]
        return [chunk.part for chunk in self.singly()]


def _chunk(items: Sequence[Item], folder: UPath) -> _Chunk:
    """A part's name tells which items it is of, and in which version."""
    name = digest("\n".join(map(repr, items))).hex()[:24]
    return _Chunk(items, folder / f"{name}.npz")


def _chunks(items: Sequence[Item], folder: UPath) -> list[_Chunk]:
    """Neighbours together, few and small ones."""
    groups: list[list[Item]] = []
    room = 0
    for item in items:
        size = item.size_bytes or CHUNK_BYTES // CHUNK_ITEMS
        if not groups or len(groups[-1]) == CHUNK_ITEMS or size > room:
            groups.append([])
            room = CHUNK_BYTES
        groups[-1].append(item)
        room -= size
    return [_chunk(group, folder) for group in groups]


def _make(
    source: Source, chunks: Sequence[_Chunk], recipe: PreparationConfig, workers: int | None
) -> None:
    """Every part that is not there yet, here or by Dask."""
    missing = [chunk for chunk in chunks if not all(part.exists() for part in chunk.parts())]
    items, left = (sum(len(chunk.items) for chunk in some) for some in (chunks, missing))
    with tqdm(total=items, initial=items - left, desc="prepare", unit="item", disable=None) as bar:
        for chunk in _made(source, missing, recipe, workers):
            bar.update(len(chunk.items))


def _made(
    source: Source, chunks: Sequence[_Chunk], recipe: PreparationConfig, workers: int | None
) -> Iterator[_Chunk]:
    """Each chunk, or each of its items, once what became of it is written."""
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if workers is None:
        told = os.environ.get("TECHLOOP_WORKERS") or str(os.cpu_count() or 1)
        if not told.isdecimal():
            raise ValueError(f"TECHLOOP_WORKERS is {told!r}, no number of processes")
        workers = int(told)
    workers = min(workers, len(chunks))
    if not chunks or (workers <= 1 and not address):
        for chunk in chunks:
            _prepare_chunk(source, chunk, recipe)
            yield chunk
        return

    import dask
    from distributed import Client, KilledWorker, LocalCluster, as_completed

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(DASK))
        cluster = address or stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=0,  # a chunk is small; a limit would stop machines that could go on
                dashboard_address=None,
                # Another run may have the usual port, and other machines must not see this one.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
            )
        )
        client = stack.enter_context(Client(cluster))
        waiting, running = iter(chunks), {}
        ended = as_completed()

        def submit(some: Iterable[_Chunk]) -> None:
            for chunk in some:
                future = client.submit(_prepare_chunk, source, chunk, recipe, pure=False)
                running[future] = chunk
                ended.add(future)

        submit(itertools.islice(waiting, WAITING * max(sum(client.nthreads().values()), 1)))
        for future in ended:
            chunk, error = running.pop(future), future.exception()
            submit(itertools.islice(waiting, 1))
            if isinstance(error, KilledWorker):  # such as by a decoder that crashes
                if len(chunk.items) > 1:
                    submit(chunk.singly())
                    continue
                row = Rejected("failed", "the process that worked on it died, each time").row
                row |= {"file": chunk.items[0].name, "bar": ""}
                _write_part(chunk.part, [], [([], [row])], recipe.grid)
            elif error is not None:
                raise error
            yield chunk


def _prepare_chunk(source: Source, chunk: _Chunk, recipe: PreparationConfig) -> None:
    """One task: what became of each item; nothing where it is done, as for a worker that died."""
    if chunk.part.exists():
        return
    made = [prepare_item(source, item, recipe) for item in chunk.items]
    loops = list(itertools.chain.from_iterable(audio for audio, _, _ in made))
    _write_part(chunk.part, loops, [(rows, rejected) for _, rows, rejected in made], recipe.grid)


def _write_part(
    part: UPath,
    loops: Sequence[np.ndarray],
    rows: Sequence[tuple[list[Row], list[Row]]],
    grid: Grid,
) -> None:
    """Loops, what they sound like, and the rows of each item: whole, or not there."""
    rate, scale = grid.sample_rate_hz, np.float32(INT16_SCALE)
    prints = [fingerprint_spectrogram(loop / scale, rate) for loop in loops]
    stream = io.BytesIO()
    np.savez(
        stream,
        audio=np.array(loops, np.int16).reshape(len(loops), grid.samples),
        prints=np.array(prints, np.float16).reshape(len(loops), SPECTROGRAM_SIZE),
        rows=np.frombuffer(json.dumps(rows).encode(), np.uint8),
    )
    atomic_write(part, stream.getvalue())


def _parts(chunks: Sequence[_Chunk]) -> Iterator[Any]:
    """The arrays of each part, in the order of the items."""
    for chunk in chunks:
        for part in chunk.parts():
            with part.open("rb") as stream, np.load(stream) as arrays:
                yield arrays


def _assemble(
    chunks: Sequence[_Chunk],
    folder: Path | UPath,
    grid: Grid,
    train_fraction: float,
    validation_fraction: float,
    max_similarity: float,
    shard_mb: int,
) -> dict[str, Any]:
    """Everything but the card, of which it returns most."""
    import pandas as pd  # here, as workers do without it, and each would take a second to import it

    index, prints, rejected = _gather(chunks)
    if index.empty:
        raise ValueError(_nothing_left(rejected))
    splits = {
        group: split_of(group, train_fraction, validation_fraction)
        for group in index["group"].unique()
    }
    index["split"] = index["group"].map(splits)
    kept, duplicates = _duplicates(index, prints, max_similarity)
    index = index[kept].reset_index(drop=True)
    _check_splits(dict(zip(index["group"], index["split"], strict=True)), len(duplicates))
    rejected = _one_row_an_item(pd.concat([rejected, duplicates]), set(index["item"]))

    audio = itertools.compress(
        itertools.chain.from_iterable(arrays["audio"] for arrays in _parts(chunks)), kept
    )
    shards = _write_shards(audio, len(index), folder, grid, shard_mb)
    capacity = shards[0]["loops"]
    index["shard"], index["row"] = divmod(np.arange(len(index)), capacity)
    _write_csv(
        folder / "attribution.csv",
        index.rename(columns={"name": "file"}).drop_duplicates("item")[ATTRIBUTION_COLUMNS],
    )
    with (folder / "index.parquet").open("wb") as stream:
        index.drop(columns=["item", "url"]).to_parquet(stream, index=False)
    made_of = fingerprint(folder)
    _write_csv(folder / "rejected.csv", rejected[REJECTED_COLUMNS])
    return {
        "loops": len(index),
        "hours": len(index) * grid.duration_s / 3600,
        "splits": {split: int((index["split"] == split).sum()) for split in SPLITS},
        "shards": shards,
        "licences": dict(sorted(Counter(index["licence"]).items())),
        "authors": int(index["author"].replace("", pd.NA).nunique()),
        "rejected": {str(k): int(n) for k, n in rejected["reason"].value_counts().items()},
        "fingerprint": made_of,
    }


def _duplicates(
    index: "pd.DataFrame", prints: np.ndarray, max_similarity: float
) -> "tuple[np.ndarray, pd.DataFrame]":
    """Which loops are kept, and the rows of those that are not."""
    import pandas as pd

    rank, place = index["split"].map(SPLITS.index), index["group"].map(place_of)
    order = np.lexsort((np.arange(len(index)), place, rank))
    stands_for, similarity = near_duplicates(prints, order, max_similarity)
    kept = stands_for == np.arange(len(index))
    same, originals = index[~kept], index.iloc[stands_for[~kept]]
    names = zip(originals["name"], originals["bar_in_source"], strict=True)
    rows = {
        "item": same["item"],
        "file": same["name"],
        "bar": same["bar_in_source"],
        "reason": "near_duplicate",
        "detail": [f"of {name} bar {bar}" for name, bar in names],
        "value": similarity[~kept].round(4),
        "limit": max_similarity,
    }
    return kept, pd.DataFrame(rows)


def _gather(
    chunks: Sequence[_Chunk],
) -> "tuple[pd.DataFrame, np.ndarray, pd.DataFrame]":
    """The rows of all loops, what they sound like, and the rows of what was left out.

    Column `item` is the number of the item that a row is of.
    """
    import pandas as pd
    import pyarrow as pa

    tables, prints, rejected, number = [], [], [], itertools.count()
    for arrays in _parts(chunks):
        prints.append(arrays["prints"])
        part: list[Row] = []
        for rows, left_out in json.loads(arrays["rows"].tobytes()):
            item = next(number)
            part += [{"item": item, **row} for row in rows]
            rejected += [{"item": item, **row} for row in left_out]
        if part:
            tables.append(pa.Table.from_pylist(part))  # a tenth of what the dicts take
    index = pd.DataFrame()
    if tables:
        index = pa.concat_tables(tables, promote_options="default").to_pandas()
    table = pd.DataFrame(rejected, columns=["item", *REJECTED_COLUMNS])
    return index, np.concatenate(prints), table


def _one_row_an_item(rejected: "pd.DataFrame", used: set[int]) -> "pd.DataFrame":
    """In the order of items and bars; an item of which nothing is used has one row in all."""
    import pandas as pd

    bar = pd.to_numeric(rejected["bar"]).fillna(-2)
    # What says most about a whole item is not that a bit of it was left over.
    rest = (rejected["reason"] == "incomplete") & ~rejected["item"].isin(used)
    rejected = rejected.assign(order=bar, rest=rest, bar=rejected["bar"].astype(object))
    rejected = rejected.sort_values(["item", "rest", "order"], kind="stable", ignore_index=True)
    whole = ~rejected["item"].isin(used)
    rows = rejected.groupby("item")["item"].transform("size")
    one_of = [f" (one of {n} rows of this file)" * (n > 1) for n in rows[whole]]
    rejected.loc[whole, "detail"] = [
        d + more for d, more in zip(rejected.loc[whole, "detail"], one_of, strict=True)
    ]
    rejected.loc[whole, "bar"] = ""
    return rejected[~whole | ~rejected["item"].duplicated()]


def _write_shards(
    loops: Iterable[np.ndarray], n: int, folder: Path | UPath, grid: Grid, shard_mb: int
) -> list[dict[str, Any]]:
    """The loops one after the other, as many as fit into each shard."""
    capacity = max(shard_mb * 2**20 // (2 * grid.samples), 1)
    loops, shards = iter(loops), []
    for number, first in enumerate(range(0, n, capacity)):
        here = min(capacity, n - first)
        file = f"audio-{number:05d}.npy"
        header = {"descr": "<i2", "fortran_order": False, "shape": (here, grid.samples)}
        with (folder / file).open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for loop in itertools.islice(loops, here):
                stream.write(loop.astype("<i2", copy=False).tobytes())
        shards.append({"file": file, "loops": here})
    return shards


def _write_csv(path: Path | UPath, table: "pd.DataFrame") -> None:
    with path.open("wb") as stream:
        table.to_csv(stream, index=False)


def _check_splits(split_by_group: dict[str, str], duplicates: int) -> None:
    """Refuse a dataset with an empty split: training, its validation and the tests each need one.

    Raises:
        ValueError: a split is empty; names fractions that fill all three, where any do.
    """
    empty = [split for split in SPLITS if split not in split_by_group.values()]
    if not empty:
        return
    n, places = len(split_by_group), sorted(map(place_of, split_by_group))
    message = (
        f"split {' and '.join(empty)} would be empty: {n} group{'s' * (n != 1)} of recordings "
        "(those of one author, else one file, stay together) fall into splits by a hash of their "
        "names. "
    )
    if duplicates:
        message += (
            f"{duplicates} loops were left out as near-duplicates of others; a `max_similarity` "
            "nearer to 1 keeps more. "
        )
    if n < len(SPLITS):
        raise ValueError(message + "Add recordings: three groups are the least, dozens are better.")
    held_out = max(n // 10, 1)
    train, rest = ((places[n - k * held_out - 1] + places[n - k * held_out]) / 2 for k in (2, 1))
    raise ValueError(
        message + f"Add recordings, or set `train_fraction: {train:.6f}` and "
        f"`validation_fraction: {rest - train:.6f}` in params.yaml, which fill all three."
    )


def _nothing_left(rejected: "pd.DataFrame") -> str:
    """What to say where every item was rejected."""
    reasons = rejected.drop_duplicates("item")["reason"].value_counts()
    n, first = int(reasons.sum()), rejected.iloc[0]
    table = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
    return (
        f"none of {n} item{'s' * (n != 1)} gave a loop, so nothing was written. Reasons: {table}. "
        f"The first: {first['file']}: {first['detail']} (value {first['value']}, limit "
        f"{first['limit']}). The source may not be what `prepare_loops` expects, or the limits in "
        "params.yaml are too strict for it."
    )

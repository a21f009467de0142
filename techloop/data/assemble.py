"""Parts become a dataset: index, splits, near-duplicates, shards and tables."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float, Int16
from upath import UPath

from techloop.artifacts import fingerprint
from techloop.data.card import Contents, Shard
from techloop.data.columns import REJECTED_COLUMNS, SPLITS
from techloop.data.deduplicate import near_duplicates
from techloop.data.parts import Chunk, read_loops, read_tables
from techloop.data.splits import place_of, refuse_empty_splits, split_of
from techloop.grid import Grid

ATTRIBUTION_COLUMNS = ["file", "author", "licence", "url"]


class Tables(NamedTuple):
    """All parts without their audio. Column `item` of both tables numbers the items.

    Attributes:
        loops: a row per loop.
        spectrograms: fingerprint of each loop.
        rejected: a row per rejection.
    """

    loops: pd.DataFrame
    spectrograms: Float[np.ndarray, "loops dimensions"]
    rejected: pd.DataFrame


def assemble(
    chunks: Sequence[Chunk],
    folder: Path | UPath,
    grid: Grid,
    *,
    train_fraction: float,
    validation_fraction: float,
    max_similarity: float,
    shard_mb: int,
) -> Contents:
    """Write all files of a dataset but its card, and return what the card says of them.

    Args:
        chunks: all items of the source; their parts are there.
        folder: an empty folder.
        grid: of the loops.
        train_fraction: as in `prepare_loops`, like the following.
        validation_fraction: the same.
        max_similarity: the same.
        shard_mb: the same.

    Raises:
        ValueError: everything was rejected, or a split would be empty.
    """
    index, spectrograms, rejected = _read_tables(chunks)
    if index.empty:
        raise ValueError(_nothing_left(rejected))
    splits = {
        group: split_of(group, train_fraction, validation_fraction)
        for group in index["group"].unique()
    }
    index["split"] = index["group"].map(splits)
    stays, duplicates = _near_duplicates(index, spectrograms, max_similarity)
    index = index[stays].reset_index(drop=True)
    refuse_empty_splits(dict(zip(index["group"], index["split"], strict=True)), len(duplicates))
    rejected = _one_row_per_item(pd.concat([rejected, duplicates]), set(index["item"]))

    loops = itertools.compress(read_loops(chunks), stays)
    shards = _write_shards(loops, len(index), folder, grid, shard_mb)
    capacity = shards[0]["loops"]
    index["shard"], index["row"] = divmod(np.arange(len(index)), capacity)
    _write_csv(
        folder / "attribution.csv",
        index.rename(columns={"name": "file"}).drop_duplicates("item")[ATTRIBUTION_COLUMNS],
    )
    with (folder / "index.parquet").open("wb") as stream:
        index.drop(columns=["item", "url"]).to_parquet(stream, index=False)
    used_files = fingerprint(folder)  # before the rejects, which no training depends on
    _write_csv(folder / "rejected.csv", rejected[list(REJECTED_COLUMNS)])
    return Contents(
        loops=len(index),
        hours=len(index) * grid.duration_s / 3600,
        splits={split: int((index["split"] == split).sum()) for split in SPLITS},
        shards=shards,
        licences=dict(sorted(Counter(index["licence"]).items())),
        authors=int(index["author"].replace("", pd.NA).nunique()),
        rejected={str(k): int(n) for k, n in rejected["reason"].value_counts().items()},
        fingerprint=used_files,
    )


def _read_tables(chunks: Sequence[Chunk]) -> Tables:
    """The tables of all parts."""
    tables, spectrograms, rejected, number = [], [], [], itertools.count()
    for part in read_tables(chunks):
        spectrograms.append(part.spectrograms)
        rows: list[dict[str, object]] = []
        for loop_rows, reject_rows in part.items:
            item = next(number)
            for row in loop_rows:
                columns: dict[str, object] = {"item": item, **row}
                del columns["factors"]
                factors = {f"factor_{name}": value for name, value in row["factors"].items()}
                rows.append(columns | factors)
            rejected += [{"item": item, **row} for row in reject_rows]
        if rows:
            tables.append(pa.Table.from_pylist(rows))  # takes a tenth of the dicts' memory
    index = pd.DataFrame()
    if tables:
        index = pa.concat_tables(tables, promote_options="default").to_pandas()
    reject_table = pd.DataFrame(rejected, columns=["item", *REJECTED_COLUMNS])
    return Tables(index, np.concatenate(spectrograms), reject_table)


def _near_duplicates(
    index: pd.DataFrame, spectrograms: Float[np.ndarray, "loops dimensions"], max_similarity: float
) -> tuple[Bool[np.ndarray, " loops"], pd.DataFrame]:
    """Which loops stay, and a row of the reject table for each of the others.

    Loops of the training split take precedence, then those of the validation split.
    """
    rank, place = index["split"].map(SPLITS.index), index["group"].map(place_of)
    order = np.lexsort((np.arange(len(index)), place, rank))
    stands_for, similarity = near_duplicates(spectrograms, order, max_similarity)
    stays = stands_for == np.arange(len(index))
    same, originals = index[~stays], index.iloc[stands_for[~stays]]
    names = zip(originals["name"], originals["bar_in_source"], strict=True)
    rows = {
        "item": same["item"],
        "file": same["name"],
        "bar": same["bar_in_source"],
        "reason": "near_duplicate",
        "detail": [f"of {name} bar {bar}" for name, bar in names],
        "value": similarity[~stays].round(4),
        "limit": max_similarity,
    }
    return stays, pd.DataFrame(rows)


def _one_row_per_item(rejected: pd.DataFrame, used: set[int]) -> pd.DataFrame:
    """Rejects in the order of items and bars; only the first of an item without any loop.

    Args:
        rejected: all rejects.
        used: items with a loop.
    """
    bar = pd.to_numeric(rejected["bar"]).fillna(-2)
    # Why an item has no loop is not that a bit of it was left over: such rows go last.
    leftover = (rejected["reason"] == "incomplete") & ~rejected["item"].isin(used)
    rejected = rejected.assign(order=bar, leftover=leftover, bar=rejected["bar"].astype(object))
    rejected = rejected.sort_values(["item", "leftover", "order"], kind="stable", ignore_index=True)
    whole = ~rejected["item"].isin(used)
    rows = rejected.groupby("item")["item"].transform("size")
    one_of = [f" (one of {n} rows of this file)" * (n > 1) for n in rows[whole]]
    rejected.loc[whole, "detail"] = [
        d + more for d, more in zip(rejected.loc[whole, "detail"], one_of, strict=True)
    ]
    rejected.loc[whole, "bar"] = ""
    return rejected[~whole | ~rejected["item"].duplicated()]


def _write_shards(
    loops: Iterable[Int16[np.ndarray, " samples"]],
    n: int,
    folder: Path | UPath,
    grid: Grid,
    shard_mb: int,
) -> list[Shard]:
    """Write loops one after the other, as many per shard as fit."""
    capacity = max(shard_mb * 2**20 // (2 * grid.samples), 1)
    loops, shards = iter(loops), []
    for number, first in enumerate(range(0, n, capacity)):
        in_shard = min(capacity, n - first)
        file = f"audio-{number:05d}.npy"
        header = {"descr": "<i2", "fortran_order": False, "shape": (in_shard, grid.samples)}
        with (folder / file).open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for loop in itertools.islice(loops, in_shard):
                stream.write(loop.astype("<i2", copy=False).tobytes())
        shards.append(Shard(file=file, loops=in_shard))
    return shards


def _write_csv(path: Path | UPath, table: pd.DataFrame) -> None:
    with path.open("wb") as stream:
        table.to_csv(stream, index=False)


def _nothing_left(rejected: pd.DataFrame) -> str:
    """The error message where every item was rejected."""
    reasons = rejected.drop_duplicates("item")["reason"].value_counts()
    n, first = int(reasons.sum()), rejected.iloc[0]
    table = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
    return (
        f"none of {n} item{'s' * (n != 1)} gave a loop, so nothing was written. Reasons: {table}. "
        f"The first: {first['file']}: {first['detail']} (value {first['value']}, limit "
        f"{first['limit']}). The source may not be what `prepare_loops` expects, or the limits in "
        "params.yaml are too strict for it."
    )

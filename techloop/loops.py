"""Any recording becomes loops on the beat grid, in shards with an index of what each is."""

import hashlib
import itertools
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int16
from tqdm import tqdm

from techloop.artifacts import fingerprint, whole_folder, write_json
from techloop.audio import (
    close_seam,
    loop_loudness_lufs,
    loudness_gain_db,
    remove_dc,
    resample_circle,
    to_int16,
    to_mono,
)
from techloop.grid import Grid
from techloop.sources import Item
from techloop.tempo import Tempo, find_tempo

if TYPE_CHECKING:
    from techloop.sources import Source
else:  # a protocol that is not checkable at run time, which the tests' checks would stumble over
    Source = object

FORMAT = 1
SPLITS = ("train", "validation", "test")
SEAM_FADE_S = 0.015
CHUNK = 4  # items a task: few, as a chunk of long recordings would keep the others waiting
REJECTED_COLUMNS = ["name", "bar", "reason", "detail", "value", "limit"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """What turns a recording into loops; all that a worker needs to know.

    Attributes:
        grid: where the loops shall lie.
        min_bpm: lowest tempo a recording is taken to have; others are folded to an octave.
        max_bpm: highest.
        loudness_lufs: what loops are normalised to, as far as their peaks allow.
        silence_lufs: what is less loud before that is left out.
    """

    grid: Grid
    min_bpm: float
    max_bpm: float
    loudness_lufs: float
    silence_lufs: float


class Rejected(Exception):
    """A recording or a bar of it is left out."""

    def __init__(
        self, reason: str, detail: str, value: float = math.nan, limit: float = math.nan
    ) -> None:
        super().__init__(detail)
        self.row: Row = {"reason": reason, "detail": detail, "value": value, "limit": limit}


def prepare_loops(
    source: Source,
    folder: str | Path,
    *,
    grid: Grid,
    min_bpm: float,
    max_bpm: float,
    loudness_lufs: float,
    silence_lufs: float,
    train_fraction: float,
    validation_fraction: float,
    shard_mb: int,
    seed: int,
    workers: int | None = None,
) -> dict[str, Any]:
    """Cut everything a source has into loops on the grid, and write the dataset.

    Writes `audio-00000.npy` ... (int16, `(loops, samples)`), `index.parquet` (a row a loop),
    `rejected.csv` (a row for each item or bar that was left out) and `card.json`. The bytes
    depend on source and arguments alone, not on the number of workers.

    Args:
        source: what to read; with several workers it is sent to each.
        folder: made whole or not at all; what is there is replaced. A cluster's workers must
            reach it under the same path.
        grid: where the loops shall lie.
        min_bpm: lowest tempo to look for; annotated ones may be lower.
        max_bpm: highest.
        loudness_lufs: integrated loudness (BS.1770) of the loops.
        silence_lufs: loops below it are left out.
        train_fraction: share of the groups, by hash, so that adding some moves no other.
        validation_fraction: the same; the rest is the test split.
        shard_mb: largest size of a shard in megabytes.
        seed: what the source was made with, for the card.
        workers: processes. 0 or 1: this one. None: `TECHLOOP_WORKERS`, else one a CPU. Not used
            where `DASK_SCHEDULER_ADDRESS` names a cluster.

    Returns:
        The content of `card.json`.

    Raises:
        ValueError: the source has nothing, all of it was rejected, a split would be empty, or
            the range of tempi is none.
    """
    import pandas as pd  # here, as workers do without it, and each would take a second to import it

    if not 0 < min_bpm < max_bpm:
        raise ValueError(
            f"min_bpm {min_bpm:g} and max_bpm {max_bpm:g} are no range of tempi: min_bpm must be "
            "positive and lower. 90 and 180 is one octave, which gives each tempo one place."
        )
    items = source.items()
    recipe = Recipe(grid, min_bpm, max_bpm, loudness_lufs, silence_lufs)
    with whole_folder(folder) as new:
        parts = new / "parts"
        parts.mkdir()
        rows, rejected = _prepare_all(source, items, recipe, parts, workers)
        reasons = Counter(row["reason"] for row in rejected)
        if not rows:
            raise ValueError(_nothing_left(len(items), rejected, reasons))
        for row in rows:
            row["split"] = split_of(row["group"], train_fraction, validation_fraction)
        _check_splits({row["group"]: row["split"] for row in rows})
        shards = _write_shards(parts, new, rows, grid, shard_mb)
        shutil.rmtree(parts)
        index = pd.DataFrame(rows)
        index.to_parquet(new / "index.parquet", index=False)
        made_of = fingerprint(new)
        pd.DataFrame(rejected, columns=REJECTED_COLUMNS).to_csv(new / "rejected.csv", index=False)
        preparation = asdict(recipe)
        card = {
            "format": FORMAT,
            "grid": preparation.pop("grid"),
            "source": source.name,
            "loops": len(rows),
            "hours": len(rows) * grid.duration_s / 3600,
            "splits": {split: int((index["split"] == split).sum()) for split in SPLITS},
            "shards": shards,
            "licences": dict(sorted(Counter(row["licence"] for row in rows).items())),
            "rejected": dict(reasons.most_common()),
            "items": len(items),
            "preparation": preparation,
            "seed": seed,
            "fingerprint": made_of,
        }
        write_json(new / "card.json", card)
    return card


def split_of(group: str, train_fraction: float, validation_fraction: float) -> str:
    """The split of a group: by hash, so it depends on nothing but its name and the fractions."""
    place = place_of(group)
    if place < train_fraction:
        return "train"
    return "validation" if place < train_fraction + validation_fraction else "test"


def place_of(group: str) -> float:
    """A number in [0, 1) that is as good as random, and always the same for a group."""
    return int.from_bytes(_digest(group)[:6]) / 2**48


def cut_loops(
    x: Float[np.ndarray, "samples"], sample_rate_hz: int, tempo: Tempo, grid: Grid
) -> Iterator[tuple[int, Float[np.ndarray, "loop"]]]:
    """Every whole loop of a recording with the number of its first bar, stretched to the grid.

    Cut at the bar lines to the sample, ends joined, then resampled (so that pitch follows tempo)
    as a circle. What is on the grid already comes out as it went in.
    """
    loop_s = grid.beats * 60 / tempo.bpm
    whole = (len(x) / sample_rate_hz - tempo.downbeat_s) / loop_s
    for i in range(math.floor(whole + 1e-6)):
        start, end = (round((tempo.downbeat_s + k * loop_s) * sample_rate_hz) for k in (i, i + 1))
        fade = round(SEAM_FADE_S * sample_rate_hz)
        cut = close_seam(x, start, min(end, len(x)), fade, circular=tempo.circular)
        yield i * grid.bars, resample_circle(cut, grid.samples)


def normalise(
    loop: Float[np.ndarray, "samples"], recipe: Recipe
) -> tuple[Int16[np.ndarray, "samples"], float]:
    """A loop in 16 bits at the loudness of the recipe, and the gain that took, in dB.

    Raises:
        Rejected: it is silent.
    """
    loop = remove_dc(loop)
    loudness = loop_loudness_lufs(loop, recipe.grid.sample_rate_hz)
    if loudness < recipe.silence_lufs:
        raise Rejected("silent", "less loud than silence_lufs", loudness, recipe.silence_lufs)
    gain_db = loudness_gain_db(float(np.abs(loop).max()), loudness, recipe.loudness_lufs)
    return to_int16(loop * np.float32(10 ** (gain_db / 20))), gain_db


def prepare_item(
    source: Source, item: Item, recipe: Recipe
) -> tuple[list[Int16[np.ndarray, "samples"]], list[Row], list[Row]]:
    """The loops of one item, their rows of the index, and the rows of what was left out.

    An item of which nothing is left has exactly one row of the latter.
    """
    name = _text(item.name)
    try:
        loops, rows, rejected = _accept(source, item, recipe)
    except Rejected as whole:
        return [], [], [{"name": name, "bar": "", **whole.row}]
    except Exception as error:  # one recording in ten thousand must not cost the others
        row = Rejected("failed", _text(f"{type(error).__name__}: {error}")).row
        return [], [], [{"name": name, "bar": "", **row}]
    if not loops:
        first = rejected[0]
        detail = f"{first['detail']} (so is each of its {len(rejected)} loops)"
        return [], [], [{**first, "name": name, "bar": "", "detail": detail}]
    return loops, rows, [{"name": name, **row} for row in rejected]


def _accept(
    source: Source, item: Item, recipe: Recipe
) -> tuple[list[Int16[np.ndarray, "samples"]], list[Row], list[Row]]:
    """`prepare_item` of one that is not rejected as a whole."""
    grid = recipe.grid
    x, rate = _read(source, item)
    tempo = _tempo(x, rate, item, recipe)
    about: Row = {
        "name": _text(item.name),
        "group": _text(item.group),
        "source": source.name,
        "author": _text(item.author),
        "licence": _text(item.licence),
        "bpm_source": tempo.source,
        "bpm": float(tempo.bpm),
        "bpm_confidence": float(tempo.confidence),
        "stretch_ratio": float(tempo.bpm / grid.bpm),
    }
    about |= {f"factor_{key}": float(value) for key, value in item.factors.items()}
    loops: list[np.ndarray] = []
    rows: list[Row] = []
    rejected: list[Row] = []
    for bar, loop in cut_loops(x, rate, tempo, grid):
        try:
            audio, gain_db = normalise(loop, recipe)
        except Rejected as left_out:
            rejected.append({"bar": bar, **left_out.row})
            continue
        loop_id = _digest(f"{source.name}/{item.name}#{bar}").hex()[:16]
        loops.append(audio)
        rows.append({"loop_id": loop_id, **about, "bar_in_source": bar, "gain_db": gain_db})
    if not loops and not rejected:
        beats = (len(x) / rate - tempo.downbeat_s) * tempo.bpm / 60
        raise _too_short(beats, grid)
    return loops, rows, rejected


def _read(source: Source, item: Item) -> tuple[Float[np.ndarray, "samples"], int]:
    """One channel of an item."""
    try:
        channels, rate = source.read(item)
    except Exception as error:  # whatever a decoder stumbles over, the other files go on
        raise Rejected("unreadable", _text(str(error) or type(error).__name__)) from error
    return to_mono(channels), rate


def _tempo(x: Float[np.ndarray, "samples"], rate: int, item: Item, recipe: Recipe) -> Tempo:
    """The tempo of an item that is long and loud enough to have one."""
    if not np.abs(remove_dc(x)).max(initial=0.0):
        raise Rejected("silent", "every sample is the same", -math.inf, recipe.silence_lufs)
    shortest_s = recipe.grid.beats * 60 / recipe.max_bpm
    if item.bpm is None and len(x) / rate < 0.99 * shortest_s:
        raise _too_short(len(x) / rate / 60 * recipe.max_bpm, recipe.grid)
    try:
        return find_tempo(
            x,
            rate,
            name=item.name,
            annotated_bpm=item.bpm,
            min_bpm=recipe.min_bpm,
            max_bpm=recipe.max_bpm,
            beats_per_bar=recipe.grid.beats_per_bar,
        )
    except ValueError as error:
        raise Rejected("no_tempo", str(error)) from error


def _too_short(beats: float, grid: Grid) -> Rejected:
    """The reason where no whole loop fits into a recording."""
    reason = "shorter_than_a_bar" if beats < grid.beats_per_bar else "shorter_than_a_loop"
    detail = "beats from the first downbeat to the end, at the tempo found or else at the highest"
    return Rejected(reason, detail, round(beats, 3), float(grid.beats))


def _prepare_all(
    source: Source, items: Sequence[Item], recipe: Recipe, parts: Path, workers: int | None
) -> tuple[list[Row], list[Row]]:
    """Rows of index and rejects in the order of the items; the audio is in `parts` by chunk."""
    chunks = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    files = [parts / f"{i:06d}.npy" for i in range(len(chunks))]
    done: dict[int, tuple[list[Row], list[Row]]] = {}
    with tqdm(total=len(items), desc="prepare", unit="item", disable=None) as bar:
        for i, result in _results(source, chunks, recipe, files, workers):
            done[i] = result
            bar.update(len(chunks[i]))
    rows, rejected = (
        list(itertools.chain.from_iterable(done[i][kind] for i in range(len(chunks))))
        for kind in (0, 1)
    )
    return rows, rejected


def _results(
    source: Source,
    chunks: Sequence[Sequence[Item]],
    recipe: Recipe,
    files: Sequence[Path],
    workers: int | None,
) -> Iterator[tuple[int, tuple[list[Row], list[Row]]]]:
    """Number and rows of each chunk as it gets done, here or by Dask."""
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if workers is None:
        workers = int(os.environ.get("TECHLOOP_WORKERS") or os.cpu_count() or 1)
    workers = min(workers, len(chunks))
    if workers <= 1 and not address:
        for i, chunk in enumerate(chunks):
            yield i, _prepare_chunk(source, chunk, recipe, files[i])
        return

    from distributed import Client, LocalCluster, as_completed

    with ExitStack() as stack:
        cluster = address or stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                memory_limit=0,  # a chunk is small; a limit would stop machines that could go on
                dashboard_address=None,
                silence_logs=logging.ERROR,
            )
        )
        client = stack.enter_context(Client(cluster))
        futures = {
            client.submit(_prepare_chunk, source, chunk, recipe, file, pure=False): i
            for i, (chunk, file) in enumerate(zip(chunks, files, strict=True))
        }
        for future, result in as_completed(futures, with_results=True):
            yield futures[future], result
            future.release()


def _prepare_chunk(
    source: Source, items: Sequence[Item], recipe: Recipe, file: Path
) -> tuple[list[Row], list[Row]]:
    """One task: audio goes to a file, what is known of it comes back."""
    done = [prepare_item(source, item, recipe) for item in items]
    loops, rows, rejected = (
        list(itertools.chain.from_iterable(kind)) for kind in zip(*done, strict=True)
    )
    np.save(file, np.array(loops, np.int16).reshape(len(loops), recipe.grid.samples))
    return rows, rejected


def _write_shards(
    parts: Path, folder: Path, rows: Sequence[Row], grid: Grid, shard_mb: int
) -> list[dict[str, Any]]:
    """The parts one after the other in shards; tells each row where it lies."""
    capacity = max(shard_mb * 2**20 // (2 * grid.samples), 1)
    loops = itertools.chain.from_iterable(
        np.load(part, mmap_mode="r") for part in sorted(parts.iterdir())
    )
    shards = []
    for number, first in enumerate(range(0, len(rows), capacity)):
        here = rows[first : first + capacity]
        file = f"audio-{number:05d}.npy"
        shard = np.lib.format.open_memmap(
            folder / file, mode="w+", dtype=np.int16, shape=(len(here), grid.samples)
        )
        # Rows first: zip asks them first, and so takes no loop too many from the next shard.
        for i, (row, loop) in enumerate(zip(here, loops, strict=False)):
            shard[i] = loop
            row.update(shard=number, row=i)
        shard.flush()
        shards.append({"file": file, "loops": len(here)})
    return shards


def _check_splits(split_by_group: dict[str, str]) -> None:
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
    if n < len(SPLITS):
        raise ValueError(message + "Add recordings: three groups are the least, dozens are better.")
    held_out = max(n // 10, 1)
    train, rest = ((places[n - k * held_out - 1] + places[n - k * held_out]) / 2 for k in (2, 1))
    raise ValueError(
        message + f"Add recordings, or set `train_fraction: {train:.6f}` and "
        f"`validation_fraction: {rest - train:.6f}` in params.yaml, which fill all three."
    )


def _nothing_left(items: int, rejected: Sequence[Row], reasons: Counter[str]) -> str:
    """What to say where every item was rejected."""
    table = ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common())
    first = rejected[0]
    return (
        f"none of {items} item{'s' * (items != 1)} gave a loop, so nothing was written. Reasons: "
        f"{table}. The first: {first['name']}: {first['detail']} (value {first['value']:g}, limit "
        f"{first['limit']:g}). The source may not be what `prepare_loops` expects, or the limits "
        "in params.yaml are too strict for it."
    )


def _digest(text: str) -> bytes:
    """SHA-256 of a name, also of one in no valid encoding."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _text(text: str) -> str:
    """The same as files of text can hold it: names on disk may be in no valid encoding."""
    return text.encode("utf-8", "backslashreplace").decode()

"""The folder of a dataset of loops: its card, index and reject table, and errors that help."""

import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd
from upath import UPath

from techloop.data.columns import REJECTED_COLUMNS
from techloop.grid import Grid

Stream = IO[bytes] | io.BufferedIOBase
INDEX_COLUMNS = (  # those that are read here; older datasets lack some
    "name",
    "group",
    "split",
    "licence",
    "bpm",
    "bpm_source",
    "bpm_confidence",
    "bpm_evidence",
    "duration_s",
    "loudness_lufs",
)
WAY_OUT = (
    "`dvc checkout dvc.yaml` restores it from the cache, `dvc repro prepare_loops` writes it again."
)


@dataclass(frozen=True)
class LoopsFolder:
    """A dataset as the stage `prepare_loops` wrote it.

    Attributes:
        name: its path or URI, as given.
        card: the content of `card.json`.
        grid: of the loops.
        index: one row per loop.
        rejected: one row per rejected item or loop, all text; None where the table is missing.
        lacking: columns that are read here and that an older version did not write, by file.
    """

    name: str
    card: dict[str, Any]
    grid: Grid
    index: pd.DataFrame
    rejected: pd.DataFrame | None
    lacking: dict[str, list[str]]

    def age(self) -> str:
        """A paragraph on columns that are missing and how to get them; empty where none is."""
        if not self.lacking:
            return ""
        what = "; ".join(
            f"{file} has no {', '.join(columns)}" if columns else f"{file} is not there"
            for file, columns in self.lacking.items()
        )
        return (
            f"{self.name} was written by an older version of techloop ({what}), so these "
            "values are not shown. `dvc repro prepare_loops` writes it again with all of them."
        )


def open_loops(folder: str | Path) -> LoopsFolder:
    """Read card, index and reject table of a dataset of loops, without the audio.

    Args:
        folder: a path, or a URI that fsspec knows.

    Raises:
        ValueError: it is another folder, or a file in it is damaged; the message says what to do.
    """
    try:
        place = UPath(folder)
        is_folder, exists = place.is_dir(), place.exists()
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{folder} cannot be opened: {error}") from None
    if not is_folder:
        raise ValueError(_not_a_folder(place, exists))
    if not (place / "card.json").exists():
        raise ValueError(_not_a_dataset(place))
    card, grid = _read_card(place)
    index = _read(place / "index.parquet", pd.read_parquet)
    if card.get("loops", len(index)) != len(index):
        raise ValueError(
            f"{place / 'card.json'} counts {card['loops']:,} loops, but index.parquet beside it "
            f"has {len(index):,}: files of two runs are mixed. {WAY_OUT}"
        )
    lacking = {"index.parquet": [name for name in INDEX_COLUMNS if name not in index.columns]}
    rejected = None
    if (place / "rejected.csv").exists():
        rejected = _read(place / "rejected.csv", _read_rejected)
        lacking["rejected.csv"] = [c for c in REJECTED_COLUMNS if c not in rejected.columns]
        if "name" in rejected.columns and "file" not in rejected.columns:
            rejected = rejected.rename(columns={"name": "file"})
        rejected = rejected.reindex(columns=list(REJECTED_COLUMNS), fill_value="")
    lacking = {file: columns for file, columns in lacking.items() if columns}
    if rejected is None:
        lacking["rejected.csv"] = []
    return LoopsFolder(str(folder), card, grid, index, rejected, lacking)


def _read(path: UPath, read: Callable[[Stream], pd.DataFrame]) -> pd.DataFrame:
    """A table of the folder.

    Raises:
        ValueError: it is not there, or damaged.
    """
    try:
        with path.open("rb") as stream:
            return read(stream)
    except FileNotFoundError:
        raise ValueError(f"{path} is not there: the dataset is incomplete. {WAY_OUT}") from None
    except Exception as error:  # damaged bytes raise errors of many kinds
        what = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} is truncated or damaged: {what.rstrip('.')}. It was probably copied or "
            f"written only in part; {WAY_OUT}"
        ) from None


def _read_card(place: UPath) -> tuple[dict[str, Any], Grid]:
    """The card of a dataset and its grid.

    Raises:
        ValueError: it is damaged, or another artifact's.
    """
    path = place / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if "model" in card:
            raise ValueError(
                f"{place} holds latents, not loops. `techloop inspect` reads a folder that "
                "`prepare_loops` wrote; the pipeline's is data/loops."
            )
        grid = Grid(**card["grid"])
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {WAY_OUT}") from None
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged, or not the card of a dataset of loops: its grid cannot be read "
            f"({error}). {WAY_OUT}"
        ) from None
    return card, grid


def _read_rejected(stream: Stream) -> pd.DataFrame:
    """The reject table, all text; names may hold carriage returns, which end lines elsewhere.

    Raises:
        ValueError: it has no reasons.
    """
    table = pd.read_csv(stream, dtype=str, keep_default_na=False, lineterminator="\n")
    if table.columns[-1].endswith("\r"):  # it went through a spreadsheet
        last = table.columns[-1]
        table[last] = table[last].str.removesuffix("\r")
        table = table.rename(columns={last: last.removesuffix("\r")})
    if "reason" not in table.columns:
        raise ValueError(f"no column `reason` among {', '.join(map(str, table.columns))}")
    return table


def _not_a_folder(place: UPath, exists: bool) -> str:
    """The error message for a path that is not a folder."""
    if not exists:
        return (
            f"{place} is not there. The stage `prepare_loops` writes data/loops: run `dvc repro "
            "prepare_loops` in the repository, or give the folder of another dataset."
        )
    if (place.parent / "card.json").exists():
        return f"{place} is one file of a dataset: give its folder, {place.parent}."
    return (
        f"{place} is a file. `techloop inspect` reads the folder of a dataset, such as data/loops, "
        "that `prepare_loops` wrote."
    )


def _not_a_dataset(place: UPath) -> str:
    """The error message for a folder without a card."""
    from techloop.audio.io import SUFFIXES

    if (place / "loops" / "card.json").exists():
        return f"{place} is not a dataset, but holds one: give {place / 'loops'}."
    if (place / "model.safetensors").exists():
        return f"{place} holds a model. `techloop inspect` reads a dataset, such as data/loops."
    # Subfolders only on disk: in a bucket that could take long.
    below = place.rglob("*") if isinstance(place, Path) else place.iterdir()
    files = itertools.islice(below, 5000)
    audio = next((file for file in files if file.suffix.lower() in SUFFIXES), None)
    if audio is not None:
        return (
            f"{place} holds recordings (such as {audio.name}), not yet a dataset. `techloop "
            f"prepare {place} FOLDER` makes one of them; so does `dvc repro` with `source: folder` "
            "and `path` set to it under `prepare_loops` in params.yaml."
        )
    return (
        f"{place} is not a dataset, as it has no card.json. `dvc repro prepare_loops` writes one "
        "to data/loops; `dvc checkout dvc.yaml` or `dvc pull dvc.yaml` fetches one."
    )

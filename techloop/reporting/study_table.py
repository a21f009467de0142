"""The table of the study, from what its runs left, and its figure.

It reads numbers alone: no training and no evaluation depends on this file.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from techloop.artifacts import atomic_folder, read_json
from techloop.metric import flat_metrics, from_json
from techloop.reporting.study_plot import Bands, Curve, compression

CELL = ("regulariser", "objective", "length")
KEYS = (*CELL, "seed")


def report_study(paths: Sequence[Path], folder: str | Path) -> pd.DataFrame:
    """Collect runs of the study into a table and a figure.

    Args:
        paths: the JSON files of the runs: their `KEYS`, and `metrics` as metrics.json has them.
        folder: is replaced; gets study.csv (a row per cell, see `cells_table`), runs.csv (a row per
            run) and study.png, whose bands are means and quartiles over all runs of a length, as
            each run joins ends of its own.

    Returns:
        The table, a row per cell.

    Raises:
        ValueError: no runs are given, or one is damaged or of an older version.
    """
    if not paths:
        raise ValueError("the study has no runs yet; `make study` makes them")
    runs = pd.DataFrame([_row(path) for path in sorted(paths)])
    runs["decoded_distance"] = runs["decoded_log_distance"] + runs["decoded_linear_distance"]
    table = cells_table(runs)
    with atomic_folder(folder) as new:
        runs.to_csv(new / "runs.csv", index=False)
        table.to_csv(new / "study.csv", index=False)
        curves = {(str(r), str(o)): _curve(rows) for (r, o), rows in table.groupby(list(CELL[:2]))}
        compression(new / "study.png", curves, _bands(runs))
    return table


def cells_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per cell: means over its seeds, then the lowest (`_low`) and the highest (`_high`)."""
    cells = runs.groupby(list(CELL))[[column for column in runs if column not in KEYS]]
    low, high = cells.min().add_suffix("_low"), cells.max().add_suffix("_high")
    return pd.concat([cells.mean(), low, high], axis=1).reset_index()


def _row(path: Path) -> dict[str, object]:
    """A run's keys, and the numbers of its metrics by the names of `Measurement.flat`."""
    run = read_json(path)
    missing = {*KEYS, "metrics"} - run.keys()
    if missing:
        raise ValueError(
            f"{path} lacks {', '.join(sorted(missing))}: it is of an older version of techloop or "
            "damaged. `make study` makes it anew."
        )
    return {key: run[key] for key in KEYS} | flat_metrics(from_json(run["metrics"], path))


def _curve(rows: pd.DataFrame) -> Curve:
    """Cells of one regulariser and objective."""
    rows = rows.sort_values("length")

    def spread(name: str) -> Float[np.ndarray, "n three"]:
        return rows[[name, f"{name}_low", f"{name}_high"]].to_numpy()

    return Curve(
        length=rows["length"].to_numpy(),
        rate=spread("rate_nats_per_loop"),
        distance=spread("decoded_distance"),
        smoothness=spread("perceptual_path_ratio"),
        midpoint=spread("midpoint_nearest_ratio"),
        coverage=spread("coverage"),
        standard_normal_coverage=spread("standard_normal_coverage"),
    )


def _bands(runs: pd.DataFrame) -> Bands:
    """Mean and quartiles of the baselines over all runs of each length."""

    def band(name: str) -> Float[np.ndarray, "n three"]:
        values = runs.groupby("length")[name]
        return np.stack([values.mean(), values.quantile(0.25), values.quantile(0.75)], 1)

    return Bands(
        smoothness={
            "line in the audio VAE": band("audio_vae_perceptual_path_ratio"),
            "cross-fade": band("crossfade_perceptual_path_ratio"),
        },
        midpoint={
            "cross-fade": band("crossfade_midpoint_nearest_ratio"),
            "the ends themselves": band("end_nearest_ratio"),
        },
        coverage={"real loops": band("real_coverage")},
    )

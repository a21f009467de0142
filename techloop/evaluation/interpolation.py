"""Interpolations between pairs of loops, each measured on the same ends.

The straight line in the latent space of the latent VAE is compared with the arc there (at constant
angular speed), the straight line between the audio VAE's latents of the ends, the linear cross-fade
of the ends' waveforms, and itself with the points between its ends shuffled.

A cross-fade is about as even as a path can be, which shows that evenness alone is not enough: its
midpoint is two loops at once. So `midpoint_nearest_ratio` asks whether a midpoint is like a loop.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from techloop.audio.descriptors import LABELS, UNITS
from techloop.data.datasets import LoopDataset
from techloop.evaluation.baselines import OTHER_PATHS
from techloop.evaluation.comparison import Values, compared
from techloop.evaluation.features import LoopFeatures, features
from techloop.evaluation.metrics.copies import nearest_distance
from techloop.evaluation.metrics.paths import EXCESS_PATH_LENGTH, MEASURES, perceptual_path
from techloop.evaluation.metrics.units import DIFFERENCE_UNITS
from techloop.instrument import Instrument, interpolate, interpolate_spherically
from techloop.metric import Measurement, Metric

# The first is measured; the others are its baselines.
INTERPOLATIONS = ("latent", *OTHER_PATHS)
FOLLOWED = ("loudness_db", "centroid_hz")  # descriptors whose measures are metrics
NEIGHBOURHOOD = 200  # real loops that midpoints are compared with
RESAMPLINGS = 1000

PATHS = Metric("paths", "paths")
POINTS = Metric("points", "loops per path")
# Neither direction is better: real loops have a ratio between those of copies and of blurs.
MIDPOINT_NEAREST_RATIO = Metric(
    "midpoint_nearest_ratio", "midpoint: nearest real loop / average one", baselines=OTHER_PATHS
)
END_NEAREST_RATIO = Metric("end_nearest_ratio", "ends: nearest real loop / average one")


class PathMeasurements(NamedTuple):
    """What `measure_paths` measures.

    Attributes:
        metrics: by name.
        table: of each interpolation, measure and descriptor, see `summarised`.
        curves: the loop descriptors of each interpolation, in the order of `UNITS`.
        ends: points of the ends.
    """

    metrics: dict[str, Measurement]
    table: pd.DataFrame
    curves: dict[str, Float[np.ndarray, "paths points descriptors"]]
    ends: Float[Tensor, "paths two d length"]


@torch.inference_mode()
def measure_paths(
    instrument: Instrument, loops: LoopDataset, *, paths: int, points: int, seed: int
) -> PathMeasurements:
    """Measure all interpolations between pairs of loops.

    Args:
        instrument: both VAEs.
        loops: where the ends come from: the test split.
        paths: how many pairs of loops, drawn by `seed`.
        points: loops of a path, its ends included.
        seed: of the draws.

    Returns:
        Metrics of the straight line in the latent space, with the other interpolations as
        baselines:

        * each of `MEASURES` for loudness and centroid: the median over paths; `table` has them for
          every loop descriptor, with intervals;
        * `perceptual_path_length_db`, `perceptual_path_ratio`, `perceptual_largest_jump`: see
          `perceptual_path`; medians over paths;
        * `midpoint_nearest_ratio`: how near the midpoint is to the nearest real loop other than
          the path's own ends, see `nearest_distance`; median over paths; nan without such loops.

        And `end_nearest_ratio`: the same of the ends, to compare the last one with.

    Raises:
        ValueError: fewer than two loops, four points, or loops of another grid.
    """
    if loops.grid != instrument.grid:
        raise ValueError(f"the loops are on {loops.grid}, the instrument on {instrument.grid}")
    if len(loops) < 2 or points < 4:
        raise ValueError(
            f"smoothness takes two loops and four points per path, got {len(loops)} and {points}"
        )
    grid, rng = instrument.grid, np.random.default_rng(seed)
    pairs = np.stack([rng.choice(len(loops), 2, replace=False) for _ in range(paths)])
    embedded = instrument.embed(loops.audio(pairs.ravel()))
    ends = embedded.reshape(paths, 2, *embedded.shape[1:])
    neighbours = np.sort(rng.permutation(len(loops))[:NEIGHBOURHOOD])
    real = features(loops.audio(neighbours), grid).patterns

    curves: dict[str, list[np.ndarray]] = {name: [] for name in INTERPOLATIONS}
    perceived: dict[str, list[Values]] = {name: [] for name in INTERPOLATIONS}
    at_ends: list[np.ndarray] = []
    for pair, (a, b) in zip(pairs, tqdm(ends, "paths"), strict=True):
        others = real[~np.isin(neighbours, pair)]
        path = _interpolations(instrument, a, b, points, rng)
        at_ends.append(_nearest_ratio(path["latent"].patterns[[0, -1]], others))
        for name, analysed in path.items():
            curves[name].append(analysed.descriptors.astype(np.float64))
            (midpoint,) = _nearest_ratio(analysed.patterns[[points // 2]], others).tolist()
            perceived[name].append(
                {**perceptual_path(analysed.patterns), MIDPOINT_NEAREST_RATIO: midpoint}
            )
    stacked = {name: np.stack(each) for name, each in curves.items()}
    tables = {name: summarised(stacked[name], perceived[name], seed) for name in INTERPOLATIONS}
    counts = {PATHS: float(paths), POINTS: float(points)}
    counts[END_NEAREST_RATIO] = float(np.median(at_ends))
    values = {name: _medians(tables[name], list(perceived[name][0])) for name in INTERPOLATIONS}
    first = values.pop(INTERPOLATIONS[0])
    metrics = compared({**counts, **first}, values)
    table = pd.concat(
        [table.assign(interpolation=name) for name, table in tables.items()], ignore_index=True
    )
    return PathMeasurements(metrics, table, stacked, ends)


def summarised(
    curves: Float[np.ndarray, "paths points descriptors"], perceived: Sequence[Values], seed: int
) -> pd.DataFrame:
    """All measures of some paths: medians over those that have a value.

    Args:
        curves: the loop descriptors, in the order of `UNITS`.
        perceived: further measures of each path, of no descriptor.
        seed: of the resamplings.

    Returns:
        Columns `measure`, `descriptor` ("" for none), `median`, and `low` and `high`: the middle
        95 % of its bootstrap over paths. nan where no path has a value.
    """
    values = {
        (metric.name, descriptor): [measure(path) for path in curves[..., k]]
        for k, descriptor in enumerate(UNITS)
        for metric, measure in MEASURES.items()
    }
    values |= {(metric.name, ""): [path[metric] for path in perceived] for metric in perceived[0]}
    draws = np.random.default_rng(seed).integers(len(curves), size=(RESAMPLINGS, len(curves)))
    rows = []
    for (name, descriptor), by_path in values.items():
        each = pd.DataFrame(np.asarray(by_path)[draws].T)
        low, high = each.median().quantile([0.025, 0.975])  # of those that are defined
        row = {"measure": name, "descriptor": descriptor, "median": pd.Series(by_path).median()}
        rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def crossfade(
    a: Float[np.ndarray, " samples"], b: Float[np.ndarray, " samples"], n: int
) -> Float[np.ndarray, "n samples"]:
    """`n` mixes of two loops from `a` to `b`, both included, at weights that add up to one.

    Linear: at equal power, loops in phase (kicks on the same beats) would be louder at the midpoint
    than at either end, and any other path would look straight beside that.

    Raises:
        ValueError: fewer than two points.
    """
    if n < 2:
        raise ValueError(f"a cross-fade needs two points, got {n}")
    share = np.linspace(0, 1, n, dtype=np.float32)[:, None]
    mixes: np.ndarray = (1 - share) * a + share * b
    return mixes


def _interpolations(
    instrument: Instrument,
    a: Float[Tensor, "d length"],
    b: Float[Tensor, "d length"],
    points: int,
    rng: np.random.Generator,
) -> dict[str, LoopFeatures]:
    """Features of the loops of each of `INTERPOLATIONS` from `a` to `b`."""
    z = instrument.latents(interpolate(a, b, points))
    line = instrument.decode(z, same_noise=True)
    sounds = {
        "latent": line,
        "spherical": instrument.decode(
            instrument.latents(interpolate_spherically(a, b, points)), same_noise=True
        ),
        "audio_vae": instrument.decode(interpolate(z[0], z[-1], points), same_noise=True),
        "crossfade": crossfade(line[0], line[-1], points),
    }
    analysed = {name: features(audio, instrument.grid) for name, audio in sounds.items()}
    between = 1 + rng.permutation(points - 2)
    analysed["shuffled"] = analysed["latent"].reordered([0, *between.tolist(), points - 1])
    return analysed


def _nearest_ratio(
    patterns: Float[np.ndarray, "n steps mels"], others: Float[np.ndarray, "m _ _"]
) -> Float[np.ndarray, " n"]:
    return nearest_distance(patterns, others)[1] if len(others) else np.full(len(patterns), np.nan)


def _medians(table: pd.DataFrame, perceptual: Sequence[Metric]) -> Mapping[Metric, float]:
    """The table's medians of the descriptors in `FOLLOWED`, and of measures of no descriptor."""
    median = table.set_index(["measure", "descriptor"])["median"].to_dict()
    values = {}
    for descriptor in FOLLOWED:
        for metric in MEASURES:
            unit = DIFFERENCE_UNITS[descriptor] if metric is EXCESS_PATH_LENGTH else None
            named = metric.of(descriptor, LABELS[descriptor], unit)
            values[named] = median[metric.name, descriptor]
    return values | {metric: median[metric.name, ""] for metric in perceptual}

"""Is the top space smooth: how a loop changes along its paths, step by step.

Ways from one loop to another are compared on the same ends: the straight line in the top space, the
arc there (at constant angular speed), the straight line between VAE 1's latents of the ends, the
linear cross-fade of the ends' waveforms, and the first with its points between the ends shuffled.

A cross-fade is about as even as a way can be, and tells that evenness alone is not enough: half-way
it is two loops at once. So `midpoint_nearest_ratio` asks whether what is half-way is like a loop.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor
from tqdm import tqdm

from techloop.artifacts import atomic_folder, write_json
from techloop.audio.descriptors import UNITS, loop_descriptors
from techloop.audio.spectral import log_mel
from techloop.audio.wav import write_loop
from techloop.data.datasets import LoopDataset
from techloop.evaluation.generation import features, nearest_distance
from techloop.grid import Grid
from techloop.instrument import Instrument, interpolate, interpolate_spherically
from techloop.reporting.plots import descriptor_paths, descriptor_walks, spectrogram_grid

FOLLOWED = {"loudness_db": "loudness (LUFS)", "centroid_hz": "centroid (Hz)"}
WAYS = {  # in the order and under the names of the figure
    "top": "top space",
    "spherical": "top space, arc",
    "vae1": "VAE 1's latents",
    "crossfade": "cross-fade",
    "shuffled": "top space, shuffled",
}
WALKS = 3
SHOWN = 4
NEIGHBOURHOOD = 200  # loops that what is half-way is held against
RESAMPLINGS = 1000


@torch.inference_mode()
def evaluate_smoothness(
    instrument: Instrument,
    loops: LoopDataset,
    folder: str | Path,
    *,
    paths: int,
    points: int,
    seed: int,
) -> dict[str, float]:
    """Curves, sounds and numbers of interpolations and walks, in `folder`.

    Args:
        instrument: both VAEs.
        loops: where the ends come from: the test split.
        folder: is replaced; gets metrics.json, measures.csv, items.json, PNG and WAV files.
        paths: how many pairs of loops, drawn by `seed`.
        points: loops of a path, its ends included; a walk has twice as many.
        seed: of the draws.

    Returns:
        What metrics.json holds: what `follow` finds, and `walk_length_ratio_<descriptor>` of walks,
        see `closed_length_ratio`.

    Raises:
        ValueError: fewer than two loops, four points, or loops of another grid.
    """
    grid = instrument.grid
    followed = follow(instrument, loops, paths=paths, points=points, seed=seed)
    metrics, curves, ends = followed.metrics, followed.curves, followed.ends

    steps = 2 * points
    walks = [instrument.walk(steps * grid.bars, seed + i) for i in tqdm(range(WALKS), "walks")]
    walked = np.stack([_followed(w.reshape(steps, -1), grid) for w in walks])
    metrics |= walk_metrics(walked)

    morph = instrument.render_sequence(interpolate(ends[0, 0], ends[0, 1], points))
    faded = crossfade(morph[: grid.samples], morph[-grid.samples :], points).ravel()
    low_hz, high_hz = 30.0, grid.sample_rate_hz / 2
    with atomic_folder(folder) as new:
        shown = slice(0, min(SHOWN, paths))
        columns = [list(UNITS).index(name) for name in FOLLOWED]
        descriptor_paths(
            new / "paths.png",
            {WAYS[way]: curves[way][shown][..., columns] for way in WAYS},
            list(FOLLOWED.values()),
            [f"pair {i + 1}" for i in range(paths)[shown]],
        )
        descriptor_walks(new / "walks.png", walked, list(FOLLOWED.values()))
        spectrogram_grid(
            new / "morph.png",
            np.stack([_overview(x, grid) for x in (morph, faded)]),
            ["straight line in the top space", "linear cross-fade of the same ends"],
            columns=1,
            span=(points, "loop"),
            mel_range_hz=(low_hz, high_hz),
        )
        for name, audio in (("morph", morph), ("crossfade", faded), ("walk", walks[0])):
            beats = grid.beats * len(audio) // grid.samples
            write_loop(new / f"{name}.wav", audio, grid.sample_rate_hz, grid.bpm, beats)
        write_json(new / "items.json", _items(paths, points, steps))
        followed.measures.to_csv(new / "measures.csv", index=False)
        write_json(new / "metrics.json", metrics)
    return metrics


class Followed(NamedTuple):
    """What `follow` finds.

    Attributes:
        metrics: numbers by name.
        measures: of each way, measure and descriptor, see `measured`.
        curves: `(paths, points, descriptors)` of each way: its loop descriptors.
        ends: `(paths, 2, d, length)`, points of the ends.
    """

    metrics: dict[str, float]
    measures: pd.DataFrame
    curves: dict[str, Float[np.ndarray, "paths points descriptors"]]
    ends: Float[Tensor, "paths two d length"]


@torch.inference_mode()
def follow(
    instrument: Instrument, loops: LoopDataset, *, paths: int, points: int, seed: int
) -> Followed:
    """Measure all ways between pairs of loops.

    Args:
        instrument, loops, paths, points, seed: see `evaluate_smoothness`.

    Returns:
        Its metrics are, for the straight line in the top space, and for other ways with
        `spherical_`, `vae1_`, `crossfade_` and `shuffled_` before them:

        * `<measure>_<descriptor>`: for loudness and centroid the median over paths of each of
          `MEASURES`; `measures` has them for every loop descriptor, with intervals;
        * `perceptual_path_length_db`, `perceptual_path_ratio`, `perceptual_largest_jump`: see
          `perceptual_path`; medians over paths;
        * `midpoint_nearest_ratio`: how near the loop half-way is to the nearest real loop but the
          path's own ends, see `nearest_distance`; median over paths; nan where there are no others;
        * `end_nearest_ratio`: the same of the ends, which is what to compare it with.

    Raises:
        ValueError: fewer than two loops, four points, or loops of another grid.
    """
    if loops.grid != instrument.grid:
        raise ValueError(f"the loops are on {loops.grid}, the instrument on {instrument.grid}")
    if len(loops) < 2 or points < 4:
        raise ValueError(
            f"smoothness takes two loops and four points a path, got {len(loops)} and {points}"
        )
    grid, rng = instrument.grid, np.random.default_rng(seed)
    pairs = np.stack([rng.choice(len(loops), 2, replace=False) for _ in range(paths)])
    ends = instrument.embed(loops.audio(pairs.ravel())).unflatten(0, (paths, 2))
    near = np.sort(rng.permutation(len(loops))[:NEIGHBOURHOOD])
    real = features(loops.audio(near), grid)["patterns"]

    curves: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    at_ends: list[np.ndarray] = []
    for pair, (a, b) in zip(pairs, tqdm(ends, "paths"), strict=True):
        z = instrument.latents(interpolate(a, b, points))
        top = instrument.decode(z)
        sounds = {
            "top": top,
            "spherical": instrument.render(interpolate_spherically(a, b, points)),
            "vae1": instrument.decode(interpolate(z[0], z[-1], points)),
            "crossfade": crossfade(top[0], top[-1], points),
        }
        heard = {way: features(audio, grid) for way, audio in sounds.items()}
        between = 1 + rng.permutation(points - 2)
        order = [0, *between, points - 1]
        heard["shuffled"] = {name: v[order] for name, v in heard["top"].items()}
        others = real[~np.isin(near, pair)]
        at_ends.append(_nearest_ratio(heard["top"]["patterns"][[0, -1]], others))
        for way, values in heard.items():
            curves[way].append(values["descriptors"].astype(np.float64))
            (half_way,) = _nearest_ratio(values["patterns"][[points // 2]], others).tolist()
            found[way].append(
                perceptual_path(values["patterns"]) | {"midpoint_nearest_ratio": half_way}
            )
    table = pd.concat(
        [measured(np.stack(curves[way]), found[way], seed).assign(way=way) for way in WAYS],
        ignore_index=True,
    )
    headline = table[table["descriptor"].isin(["", *FOLLOWED])]
    names = np.where(headline["way"] == "top", "", headline["way"] + "_") + headline["measure"]
    names += np.where(headline["descriptor"] == "", "", "_" + headline["descriptor"])
    metrics = {"paths": float(paths), "points": float(points)}
    metrics["end_nearest_ratio"] = float(np.median(at_ends))
    metrics |= dict(zip(names, headline["median"].tolist(), strict=True))
    stacked = {way: np.stack(of) for way, of in curves.items()}
    return Followed(metrics, table, stacked, ends)


def path_length_ratio(values: Float[np.ndarray, " n"]) -> float:
    """Travelled over straight distance of a descriptor along a path (1: monotone; lower is better).

    A path that ends where it began has no direction to be judged by: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return float(np.abs(np.diff(values)).sum() / displacement) if displacement else math.nan


def monotonicity(values: Float[np.ndarray, " n"]) -> float:
    """How steadily a descriptor goes one way: |Spearman's correlation| with the position, 0 to 1.

    A constant one goes no way: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    _displacement(values, 2)
    if np.ptp(values) == 0:
        return math.nan
    return abs(float(stats.spearmanr(values, np.arange(values.size)).statistic))


def largest_jump(values: Float[np.ndarray, " n"]) -> float:
    """The largest step as a share of the displacement (1 / (n - 1): even steps; lower is better).

    A path that ends where it began: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return float(np.abs(np.diff(values)).max() / displacement) if displacement else math.nan


def jerk(values: Float[np.ndarray, " n"]) -> float:
    """Root mean square third derivative over the displacement, the path taking unit time (0: best).

    0 for a straight line or a parabola. A path that ends where it began: nan.

    Raises:
        ValueError: fewer than four points, or one that is not finite.

    References:
        Hogan & Sternad, Sensitivity of smoothness measures to movement duration, amplitude and
        arrests, 2009 (dimensionless jerk; of means instead of integrals).
    """
    displacement = _displacement(values, 4)
    if displacement == 0:
        return math.nan
    third = np.diff(values, 3) * (values.size - 1) ** 3
    return float(np.sqrt(np.mean(third**2)) / displacement)


def excess_path_length(values: Float[np.ndarray, " n"]) -> float:
    """Travelled less straight distance, in the descriptor's unit (0: monotone; lower is better).

    Defined where the ends are alike as well, as those of equally loud loops are.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return max(float(np.abs(np.diff(values)).sum() - displacement), 0.0)


def perceptual_path(patterns: Float[np.ndarray, "n steps mels"]) -> dict[str, float]:
    """How far a path of loops goes, as root mean square difference of mel levels of sixteenths.

    * `perceptual_path_length_db`: sum over steps, in dB.
    * `perceptual_path_ratio`: that over the distance of the ends: 1 or more, lower is straighter.
    * `perceptual_largest_jump`: the largest step over that distance; 1 / (n - 1) or more.

    A path that ends where it began: nan but for its length.

    Raises:
        ValueError: fewer than two loops, or a level that is not finite.

    References:
        Karras et al., A style-based generator architecture for GANs, 2019, section 4.1, with whole
        paths instead of their derivative, and mel levels instead of a network's features.
    """
    if len(patterns) < 2 or not np.isfinite(patterns).all():
        raise ValueError(f"a path takes two loops of finite levels or more, got {len(patterns)}")
    flat = patterns.reshape(len(patterns), -1).astype(np.float64)
    steps = np.sqrt(np.mean(np.diff(flat, axis=0) ** 2, 1))
    straight = float(np.sqrt(np.mean((flat[-1] - flat[0]) ** 2)))
    return {
        "perceptual_path_length_db": float(steps.sum()),
        "perceptual_path_ratio": float(steps.sum()) / straight if straight else math.nan,
        "perceptual_largest_jump": float(steps.max()) / straight if straight else math.nan,
    }


MEASURES = {
    "excess_path_length": excess_path_length,
    "path_length_ratio": path_length_ratio,
    "monotonicity": monotonicity,
    "largest_jump": largest_jump,
    "jerk": jerk,
}


def closed_length_ratio(values: Float[np.ndarray, " n"]) -> float:
    """Travelled distance around a closed curve over twice its range (1: up once and down once).

    A constant curve: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    _displacement(values, 2)
    extent = np.ptp(values)
    if extent == 0:
        return math.nan
    return float(np.abs(np.diff(values, append=values[0])).sum() / (2 * extent))


def measured(
    curves: Float[np.ndarray, "paths points descriptors"],
    perceived: list[dict[str, float]],
    seed: int,
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
        (name, descriptor): [measure(path) for path in curves[..., k]]
        for k, descriptor in enumerate(UNITS)
        for name, measure in MEASURES.items()
    }
    values |= {(name, ""): [path[name] for path in perceived] for name in perceived[0]}
    draws = np.random.default_rng(seed).integers(len(curves), size=(RESAMPLINGS, len(curves)))
    rows = []
    for (name, descriptor), of in values.items():
        each = pd.DataFrame(np.asarray(of)[draws].T)
        low, high = each.median().quantile([0.025, 0.975])  # of those that are defined
        row = {"measure": name, "descriptor": descriptor, "median": pd.Series(of).median()}
        rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def walk_metrics(values: Float[np.ndarray, "walks loops descriptors"]) -> dict[str, float]:
    """The median over closed walks of `closed_length_ratio`, by descriptor."""
    return {
        f"walk_length_ratio_{descriptor}": float(
            pd.Series([closed_length_ratio(w) for w in values[..., k]]).median()
        )
        for k, descriptor in enumerate(FOLLOWED)
    }


def crossfade(
    a: Float[np.ndarray, " samples"], b: Float[np.ndarray, " samples"], n: int
) -> Float[np.ndarray, "n samples"]:
    """`n` mixes of two loops from `a` to `b`, both included, at weights that add up to one.

    Linear: at equal power, loops in phase (kicks on the same beats) would be louder half-way than
    at either end, and any other way would look straight beside that.

    Raises:
        ValueError: fewer than two points.
    """
    if n < 2:
        raise ValueError(f"a cross-fade needs two points, got {n}")
    share = np.linspace(0, 1, n, dtype=np.float32)[:, None]
    return (1 - share) * a + share * b


def _displacement(values: np.ndarray, points: int) -> float:
    """Straight distance of a path, which is checked to have so many finite points."""
    if values.size < points:
        raise ValueError(f"a path needs {points} points here, got {values.size}")
    if not np.isfinite(values).all():
        raise ValueError("a path through values that are NaN or infinite")
    return float(abs(values[-1] - values[0]))


def _followed(audio: np.ndarray, grid: Grid) -> Float[np.ndarray, "n descriptors"]:
    values = loop_descriptors(torch.from_numpy(audio), grid)
    return np.stack([values[name].numpy() for name in FOLLOWED], 1).astype(np.float64)


def _nearest_ratio(
    patterns: Float[np.ndarray, "n steps mels"], others: Float[np.ndarray, "m _ _"]
) -> Float[np.ndarray, " n"]:
    return nearest_distance(patterns, others)[1] if len(others) else np.full(len(patterns), np.nan)


def _overview(audio: np.ndarray, grid: Grid) -> np.ndarray:
    """Mel levels of many loops, a frame a sixteenth of a beat or so: more would not be seen."""
    level = log_mel(torch.from_numpy(audio)[None], grid.sample_rate_hz, hop=grid.hop)[0]
    return level[:, ::2].numpy()


def _items(paths: int, points: int, steps: int) -> list[dict[str, object]]:
    morph = f"The straight line of pair 1, {points} loops, decoded as one piece."
    return [
        {
            "kind": "figure",
            "file": "paths.png",
            "title": "Loudness and centroid along interpolations",
            "caption": f"Between the reconstructions of pairs of test loops, a point a loop; "
            f"the first of {paths} random pairs. All ways share their ends; the cross-fade is "
            "linear.",
        },
        {
            "kind": "figure",
            "file": "morph.png",
            "title": "A morph and a cross-fade",
            "caption": "Mel spectrograms of pair 1 from its first loop to its second: along the "
            "straight line in the top space, and as a linear cross-fade of the same two ends.",
        },
        {
            "kind": "figure",
            "file": "walks.png",
            "title": "Closed random walks",
            "caption": f"Loudness and centroid of each of {steps} loops of {WALKS} smooth random "
            "curves in the top space that end where they began.",
        },
        _audio("morph.wav", "Morph", morph, False),
        _audio("crossfade.wav", "Cross-fade", "To compare: the same ends, mixed linearly.", False),
        _audio("walk.wav", "Walk", f"Walk 1: {steps} loops that close into one.", True),
    ]


def _audio(file: str, title: str, caption: str, loop: bool) -> dict[str, object]:
    return {"kind": "audio", "file": file, "title": title, "caption": caption, "loop": loop}

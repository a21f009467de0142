"""Is the top space smooth: how loudness and brightness move along its paths, loop by loop.

Ways from one loop to another are compared on the same ends: the straight line in the top space,
the straight line between VAE 1's latents of its ends, the linear cross-fade of the ends' waveforms,
and the first with its points between the ends shuffled.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from tqdm import tqdm

from techloop.artifacts import whole_folder, write_json
from techloop.audio import write_loop
from techloop.datasets import LoopDataset
from techloop.descriptors import loop_descriptors
from techloop.figures import descriptor_paths, descriptor_walks, spectrogram_grid
from techloop.grid import Grid
from techloop.instrument import Instrument, interpolate
from techloop.spectral import log_mel

FOLLOWED = {"loudness_db": "loudness (LUFS)", "centroid_hz": "centroid (Hz)"}
WAYS = {  # in the order and under the names of the figure
    "top": "top space",
    "vae1": "VAE 1's latents",
    "crossfade": "cross-fade",
    "shuffled": "top space, shuffled",
}
WALKS = 3
SHOWN = 4


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
        folder: is replaced; gets metrics.json, items.json, PNG and WAV files.
        paths: how many pairs of loops, drawn by `seed`.
        points: loops of a path, its ends included; a walk has twice as many.
        seed: of the draws.

    Returns:
        What metrics.json holds: for each followed descriptor the median over paths of each of
        `MEASURES`, as `<measure>_<descriptor>`, and the same with `vae1_`, `crossfade_` and
        `shuffled_` before it; for walks `walk_length_ratio_<descriptor>`.

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

    curves = {way: np.empty((paths, points, len(FOLLOWED))) for way in WAYS}
    for i, (a, b) in enumerate(tqdm(ends, "paths")):
        z = instrument.latents(interpolate(a, b, points))
        top = instrument.decode(z)
        curves["top"][i] = _followed(top, grid)
        curves["vae1"][i] = _followed(instrument.decode(interpolate(z[0], z[-1], points)), grid)
        curves["crossfade"][i] = _followed(crossfade(top[0], top[-1], points), grid)
        between = 1 + rng.permutation(points - 2)
        curves["shuffled"][i] = curves["top"][i][[0, *between, points - 1]]
    metrics: dict[str, float] = {"paths": float(paths), "points": float(points)}
    for way, values in curves.items():
        prefix = "" if way == "top" else f"{way}_"
        metrics |= {prefix + name: value for name, value in path_metrics(values).items()}

    steps = 2 * points
    walks = [instrument.walk(steps * grid.bars, seed + i) for i in tqdm(range(WALKS), "walks")]
    walked = np.stack([_followed(w.reshape(steps, -1), grid) for w in walks])
    metrics |= walk_metrics(walked)

    morph = instrument.render_sequence(interpolate(ends[0, 0], ends[0, 1], points))
    faded = crossfade(morph[: grid.samples], morph[-grid.samples :], points).ravel()
    low_hz, high_hz = 30.0, grid.sample_rate_hz / 2
    with whole_folder(folder) as new:
        shown = slice(0, min(SHOWN, paths))
        descriptor_paths(
            new / "paths.png",
            {WAYS[way]: values[shown] for way, values in curves.items()},
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
        write_json(new / "metrics.json", metrics)
    return metrics


def path_length_ratio(values: Float[np.ndarray, "n"]) -> float:
    """Travelled over straight distance of a descriptor along a path (1: monotone; lower is better).

    A path that ends where it began has no direction to be judged by: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return float(np.abs(np.diff(values)).sum() / displacement) if displacement else math.nan


def monotonicity(values: Float[np.ndarray, "n"]) -> float:
    """How steadily a descriptor goes one way: |Spearman's correlation| with the position, 0 to 1.

    A constant one goes no way: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    _displacement(values, 2)
    if np.ptp(values) == 0:
        return math.nan
    return abs(float(stats.spearmanr(values, np.arange(values.size)).statistic))


def largest_jump(values: Float[np.ndarray, "n"]) -> float:
    """The largest step as a share of the displacement (1 / (n - 1): even steps; lower is better).

    A path that ends where it began: nan.

    Raises:
        ValueError: fewer than two points, or one that is not finite.
    """
    displacement = _displacement(values, 2)
    return float(np.abs(np.diff(values)).max() / displacement) if displacement else math.nan


def jerk(values: Float[np.ndarray, "n"]) -> float:
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


MEASURES = {
    "path_length_ratio": path_length_ratio,
    "monotonicity": monotonicity,
    "largest_jump": largest_jump,
    "jerk": jerk,
}


def closed_length_ratio(values: Float[np.ndarray, "n"]) -> float:
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


def path_metrics(values: Float[np.ndarray, "paths points descriptors"]) -> dict[str, float]:
    """The median over paths of every measure and descriptor; nan where no path has one."""
    return {
        f"{name}_{descriptor}": _median([measure(path) for path in values[..., k]])
        for k, descriptor in enumerate(FOLLOWED)
        for name, measure in MEASURES.items()
    }


def walk_metrics(values: Float[np.ndarray, "walks loops descriptors"]) -> dict[str, float]:
    """The median over closed walks of `closed_length_ratio`, by descriptor."""
    return {
        f"walk_length_ratio_{descriptor}": _median([closed_length_ratio(w) for w in values[..., k]])
        for k, descriptor in enumerate(FOLLOWED)
    }


def crossfade(
    a: Float[np.ndarray, "samples"], b: Float[np.ndarray, "samples"], n: int
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


def _median(values: list[float]) -> float:
    defined = [v for v in values if math.isfinite(v)]
    return float(np.median(defined)) if defined else math.nan


def _followed(audio: np.ndarray, grid: Grid) -> Float[np.ndarray, "n descriptors"]:
    values = loop_descriptors(torch.from_numpy(audio), grid)
    return np.stack([values[name].numpy() for name in FOLLOWED], 1).astype(np.float64)


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

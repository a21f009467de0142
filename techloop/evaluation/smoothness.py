"""Is the latent space of the latent VAE smooth: how loops change along its paths, step by step."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm import tqdm

from techloop.audio.descriptors import LABELS, UNITS, loop_descriptors
from techloop.audio.spectral import log_mel
from techloop.data.datasets import LoopDataset
from techloop.evaluation.comparison import compared
from techloop.evaluation.features import mel_range_hz
from techloop.evaluation.interpolation import FOLLOWED, crossfade, measure_paths
from techloop.evaluation.metrics.paths import WALK_LENGTH_RATIO, closed_length_ratio
from techloop.evaluation.result import Evaluation, Sound
from techloop.grid import Grid
from techloop.instrument import Instrument, interpolate
from techloop.metric import Metric

WALKS = 3


@torch.inference_mode()
def evaluate_smoothness(
    instrument: Instrument, loops: LoopDataset, *, paths: int, points: int, seed: int
) -> Evaluation:
    """Measure interpolations and closed walks.

    Args:
        instrument: both VAEs.
        loops: where the ends come from: the test split.
        paths: how many pairs of loops, drawn by `seed`.
        points: loops of a path, its ends included; a walk has twice as many.
        seed: of the draws.

    Returns:
        Metrics: those of `measure_paths`, and `walk_length_ratio_<descriptor>`, see `walk_metrics`.
        Tables: `measures`, see `summarised`.
        Arrays, descriptors being loudness and centroid: `path_<interpolation>`
        `(paths, points, descriptors)`, `walks` `(walks, loops, descriptors)`; `levels_db`, mel
        levels of the morph and the cross-fade of pair 1.

    Raises:
        ValueError: fewer than two loops, four points, or loops of another grid.
    """
    grid = instrument.grid
    measured = measure_paths(instrument, loops, paths=paths, points=points, seed=seed)
    steps = 2 * points
    walks = [instrument.walk(steps * grid.bars, seed + i) for i in tqdm(range(WALKS), "walks")]
    walked = np.stack([_followed(walk.reshape(steps, -1), grid) for walk in walks])

    a, b = measured.ends[0]
    morph = instrument.render_sequence(interpolate(a, b, points))
    faded = crossfade(morph[: grid.samples], morph[-grid.samples :], points).ravel()
    columns = [list(UNITS).index(name) for name in FOLLOWED]
    return Evaluation(
        {**measured.metrics, **compared(walk_metrics(walked))},
        arrays={
            **{f"path_{name}": curve[..., columns] for name, curve in measured.curves.items()},
            "walks": walked,
            "levels_db": np.stack([_overview(x, grid) for x in (morph, faded)]),
        },
        facts={
            "paths": paths,
            "points": points,
            "walk_loops": steps,
            "interpolations": list(measured.curves),
            "descriptors": [{"label": LABELS[name], "unit": UNITS[name]} for name in FOLLOWED],
            "mel_range_hz": mel_range_hz(grid),
        },
        tables={"measures": measured.table},
        sounds=(
            Sound("morph.wav", morph, {"kind": "morph"}),
            Sound("crossfade.wav", faded, {"kind": "crossfade"}),
            Sound("walk.wav", walks[0], {"kind": "walk"}),
        ),
    )


def walk_metrics(values: Float[np.ndarray, "walks loops descriptors"]) -> dict[Metric, float]:
    """The median over closed walks of `closed_length_ratio`, by descriptor of `FOLLOWED`."""
    return {
        WALK_LENGTH_RATIO.of(descriptor, LABELS[descriptor]): float(
            pd.Series([closed_length_ratio(walk) for walk in values[..., k]]).median()
        )
        for k, descriptor in enumerate(FOLLOWED)
    }


def _followed(audio: Float[np.ndarray, "n samples"], grid: Grid) -> np.ndarray:
    """The descriptors in `FOLLOWED` of loops, `(n, descriptors)`."""
    values = loop_descriptors(torch.from_numpy(audio), grid)
    return np.stack([values[name].numpy() for name in FOLLOWED], 1).astype(np.float64)


def _overview(audio: Float[np.ndarray, " samples"], grid: Grid) -> np.ndarray:
    """Mel levels of many loops at half the frame rate: more would not be seen."""
    level = log_mel(torch.from_numpy(audio)[None], grid.sample_rate_hz, hop=grid.hop)[0]
    return level[:, ::2].numpy()

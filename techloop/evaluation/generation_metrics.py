"""What a sample of loops is scored by: likeness to training loops, variety, copies, rhythm."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from techloop.audio.descriptors import LABELS, UNITS
from techloop.data.datasets import LoopDataset
from techloop.evaluation.baselines import OTHER_SAMPLES
from techloop.evaluation.features import BATCH, features, level_patterns, mel_levels
from techloop.evaluation.metrics.copies import (
    NEAREST_TRAINING_DB,
    NEAREST_TRAINING_RATIO,
    nearest_distance,
)
from techloop.evaluation.metrics.density import (
    COVERAGE,
    DENSITY,
    DIVERSITY_RATIO,
    density_coverage,
    mean_pairwise_distance,
)
from techloop.evaluation.metrics.frechet import (
    FRECHET,
    PrincipalComponents,
    frechet_distance,
    standardised,
)
from techloop.evaluation.metrics.rhythm import (
    ON_GRID_SHARE,
    SEAM_RATIO,
    on_grid_share,
    seam_ratio,
)
from techloop.grid import Grid
from techloop.metric import Metric

FRECHET_LOG_MEL = FRECHET.of("log_mel", "log-mel statistics", "dB²")
FRECHET_DESCRIPTORS = FRECHET.of("descriptors", "descriptors")
SILENT_SHARE = Metric(
    "silent_share", "share of silent loops", better="lower", baselines=OTHER_SAMPLES
)
# Means over a sample; best at the value of real loops.
MEANS = tuple(
    Metric(name, LABELS[name], UNITS[name], baselines=OTHER_SAMPLES)
    for name in ("loudness_db", "onset_density", "pulse_clarity", "kick_on_beat")
)

NEIGHBOURS = 5
COMPONENTS = 16
SILENT_LUFS = -60.0
TRAINING_LOOPS = 2000  # the most that generated loops are compared with, in search of copies
Embedding = Callable[[np.ndarray, Grid], np.ndarray]


class GenerationScores(NamedTuple):
    """What `GenerationMetrics` measures of a sample.

    Attributes:
        values: by metric.
        embedding: where the loops lie among training loops, in dB.
        nearest: the ratio of `nearest_distance` to training loops.
    """

    values: dict[Metric, float]
    embedding: Float[np.ndarray, "n k"]
    nearest: Float[np.ndarray, " n"]


class GenerationMetrics:
    """Scores of samples of loops, against a sample of training loops of the same size.

    Called with audio `(n, samples)` it measures

    * `FRECHET_LOG_MEL`: `frechet_distance` of log-mel statistics to those of training loops, in the
      latter's first 16 principal components (for fewer than 64 loops: one per four loops);
    * `FRECHET_DESCRIPTORS`: that of the 12 loop descriptors without loudness, in deviations of
      the training loops; nan for fewer than 13 loops;
    * `FRECHET.of(name, name)` of each further embedding, in its first 16 principal components;
    * `DENSITY`, `COVERAGE`: `density_coverage` in the components of the log-mel statistics, 5
      neighbours; nan for fewer than 6 loops;
    * `DIVERSITY_RATIO`: `mean_pairwise_distance` there over that of training loops; nan where
      these are all the same;
    * `NEAREST_TRAINING_DB`, `NEAREST_TRAINING_RATIO`: medians of `nearest_distance` to up to 2000
      training loops;
    * `ON_GRID_SHARE`: see `on_grid_share`; `SEAM_RATIO`: the median of `seam_ratio`;
    * `SILENT_SHARE`: loops below -60 LUFS; `MEANS`: means of descriptors.

    Args:
        train: the training split.
        n: size of the samples.
        seed: of the draw of the reference.
        embeddings: further ones by name, from audio `(n, samples)` and its grid to `(n, d)`.
    """

    def __init__(
        self,
        train: LoopDataset,
        n: int,
        *,
        seed: int,
        embeddings: Mapping[str, Embedding] | None = None,
    ) -> None:
        self.grid = grid = train.grid
        rows = np.random.default_rng(seed).permutation(len(train))[:TRAINING_LOOPS]
        audio = train.audio(rows[:n])
        self.reference = features(audio, grid)
        starts = tqdm(range(0, len(rows), BATCH), "training loops", leave=False)
        self.training_patterns = np.concatenate(
            [
                level_patterns(mel_levels(train.audio(rows[i : i + BATCH]), grid), grid)
                for i in starts
            ]
        )
        self.components = min(COMPONENTS, max(n // 4, 1))
        statistics = self.reference.statistics
        self.project = PrincipalComponents(statistics, min(max(self.components, 2), n - 1))
        self.embedding = self.project(statistics)
        self.diversity = mean_pairwise_distance(self.embedding[:, : self.components])
        self.further = {}
        for name, embed in (embeddings or {}).items():
            points = embed(audio, grid)
            project = PrincipalComponents(points, min(self.components, *points.shape))
            self.further[FRECHET.of(name, name)] = (embed, project, project(points))

    def __call__(self, audio: Float[np.ndarray, "n samples"]) -> GenerationScores:
        """Score a sample of the size that was given."""
        sample, n = features(audio, self.grid), len(audio)
        embedding = self.project(sample.statistics)
        reference, points = (e[:, : self.components] for e in (self.embedding, embedding))
        distance_db, nearest = nearest_distance(sample.patterns, self.training_patterns)
        density, coverage = (
            density_coverage(reference, points, NEIGHBOURS)
            if n > NEIGHBOURS
            else (math.nan, math.nan)
        )
        # Without loudness, which is the first: preparation gave real loops one loudness, as far as
        # the peak (0.99) allows.
        descriptors = standardised(self.reference.descriptors[:, 1:], sample.descriptors[:, 1:])
        values = {
            FRECHET_LOG_MEL: frechet_distance(reference, points),
            FRECHET_DESCRIPTORS: frechet_distance(*descriptors)
            if n > descriptors[0].shape[1]
            else math.nan,
            DENSITY: density,
            COVERAGE: coverage,
            DIVERSITY_RATIO: mean_pairwise_distance(points) / self.diversity
            if self.diversity
            else math.nan,
            NEAREST_TRAINING_DB: float(np.median(distance_db)),
            NEAREST_TRAINING_RATIO: float(np.median(nearest)),
            ON_GRID_SHARE: on_grid_share(sample.onsets, self.grid),
            SEAM_RATIO: _median(seam_ratio(sample.onset_strength, self.grid)),
            SILENT_SHARE: float((sample.descriptor("loudness_db") < SILENT_LUFS).mean()),
        }
        values |= {mean: float(sample.descriptor(mean.name).mean()) for mean in MEANS}
        for metric, (embed, project, training) in self.further.items():
            values[metric] = frechet_distance(training, project(embed(audio, self.grid)))
        return GenerationScores(values, embedding, nearest)


def _median(values: np.ndarray) -> float:
    """The median of those that are finite; nan where none is."""
    defined = values[np.isfinite(values)]
    return float(np.median(defined)) if defined.size else math.nan

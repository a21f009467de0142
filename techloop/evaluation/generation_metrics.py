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
from techloop.evaluation.features import (
    BATCH,
    features,
    level_patterns,
    level_statistics,
    mel_levels,
)
from techloop.evaluation.metrics.bootstrap import Estimate, bootstrap, mean, median
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
from techloop.evaluation.metrics.frechet import FRECHET, FrechetDistance, standardised
from techloop.evaluation.metrics.rhythm import (
    ON_GRID_SHARE,
    SEAM_RATIO,
    on_grid_share,
    seam_ratio,
)
from techloop.evaluation.training_distances import LOG_MEL, TrainingDistances, reference_rows
from techloop.grid import Grid
from techloop.metric import Metric

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
SILENT_LUFS = -60.0
Embedding = Callable[[np.ndarray, Grid], np.ndarray]


class GenerationScores(NamedTuple):
    """What `GenerationMetrics` measures of a sample.

    Attributes:
        values: by metric.
        intervals: ends of the 95 % intervals of those that have one.
        embedding: where the loops lie among training loops, in dB.
        nearest: the ratio of `nearest_distance` to training loops.
    """

    values: dict[Metric, float]
    intervals: dict[Metric, tuple[float, float]]
    embedding: Float[np.ndarray, "n k"]
    nearest: Float[np.ndarray, " n"]


class GenerationMetrics:
    """Scores of samples of loops, which may differ in size, against the training loops.

    Called with audio `(m, samples)` it measures

    * `FRECHET_LOG_MEL`, `KERNEL_LOG_MEL`: distances of log-mel statistics to those of all training
      loops, at most 5,000; `FRECHET.of(name, name)`, `KERNEL.of(name, name)` of each further
      embedding; see `TrainingDistances`;
    * `FRECHET_DESCRIPTORS`: that of the 12 loop descriptors without loudness, to `n` training
      loops, in their deviations; nan for fewer than 13;
    * `DENSITY`, `COVERAGE`: `density_coverage` of `n` loops among `n` training loops, in the
      components of the log-mel statistics, 5 neighbours; nan for fewer than 6 loops;
    * `DIVERSITY_RATIO`: `mean_pairwise_distance` there over that of training loops; nan where
      these are all the same;
    * `NEAREST_TRAINING_DB`, `NEAREST_TRAINING_RATIO`: medians of `nearest_distance` to all training
      loops, at most 5,000;
    * `ON_GRID_SHARE`: see `on_grid_share`; `SEAM_RATIO`: the median of `seam_ratio`;
    * `SILENT_SHARE`: loops below -60 LUFS; `MEANS`: means of descriptors.

    Distances, means and medians have intervals by bootstrap over the sample's loops.

    Args:
        train: the training split.
        n: size of the smallest sample, which is that of all where density and coverage, which
            depend on it, are measured: the first `n` loops count.
        seed: of the choice of training loops and of the bootstrap.
        embeddings: further ones by name, from audio `(n, samples)` and its grid to `(n, d)`. They
            are called with batches.
    """

    def __init__(
        self,
        train: LoopDataset,
        n: int,
        *,
        seed: int,
        embeddings: Mapping[str, Embedding] | None = None,
    ) -> None:
        self.grid, self.n, self.seed = train.grid, n, seed
        rows = reference_rows(train, seed)
        descriptors = features(train.audio(rows[:n]), train.grid).descriptors
        # Without loudness, which is the first: preparation gave real loops one loudness, as far as
        # the peak (0.99) allows.
        self.descriptors = descriptors[:, 1:]
        statistics, patterns = [], []
        points: dict[str, list[np.ndarray]] = {name: [] for name in embeddings or {}}
        for i in tqdm(range(0, len(rows), BATCH), "training loops", leave=False):
            audio = train.audio(rows[i : i + BATCH])
            levels = mel_levels(audio, self.grid)
            statistics.append(level_statistics(levels))
            patterns.append(level_patterns(levels, self.grid))
            for name, embed in (embeddings or {}).items():
                points[name].append(embed(audio, self.grid))
        self.training_patterns = np.concatenate(patterns)
        name, label, unit = LOG_MEL
        self.log_mel = TrainingDistances(
            np.concatenate(statistics), n, name=name, label=label, unit=unit
        )
        self.embedding = self.log_mel.embedding
        self.diversity = mean_pairwise_distance(self._compared(self.embedding))
        self.further = [
            (embed, TrainingDistances(np.concatenate(points[name]), n, name=name, label=name))
            for name, embed in (embeddings or {}).items()
        ]

    def __call__(self, audio: Float[np.ndarray, "m samples"]) -> GenerationScores:
        """Score a sample of `n` loops or more."""
        sample = features(audio, self.grid)
        embedding = self.log_mel.project(sample.statistics)
        distance_db, nearest = nearest_distance(sample.patterns, self.training_patterns)
        reference, points = self._compared(self.embedding), self._compared(embedding)
        density, coverage = (
            density_coverage(reference, points, NEIGHBOURS)
            if self.n > NEIGHBOURS
            else (math.nan, math.nan)
        )
        seam = seam_ratio(sample.onset_strength, self.grid)
        distances = self.log_mel(sample.statistics, seed=self.seed) | {
            FRECHET_DESCRIPTORS: self._descriptor_distance(sample.descriptors[:, 1:])
        }
        averages = {
            NEAREST_TRAINING_DB: bootstrap(distance_db, median, seed=self.seed),
            NEAREST_TRAINING_RATIO: bootstrap(nearest, median, seed=self.seed),
            SEAM_RATIO: bootstrap(seam, median, seed=self.seed),
        }
        for metric in MEANS:
            averages[metric] = bootstrap(sample.descriptor(metric.name), mean, seed=self.seed)
        for embed, further in self.further:
            parts = range(0, len(audio), BATCH)
            embedded = np.concatenate([embed(audio[i : i + BATCH], self.grid) for i in parts])
            averages |= further(embedded, seed=self.seed)
        values = {
            **{metric: estimate.value for metric, estimate in distances.items()},
            DENSITY: density,
            COVERAGE: coverage,
            DIVERSITY_RATIO: mean_pairwise_distance(points) / self.diversity
            if self.diversity
            else math.nan,
            ON_GRID_SHARE: on_grid_share(sample.onsets, self.grid),
            SILENT_SHARE: float((sample.descriptor("loudness_db") < SILENT_LUFS).mean()),
            **{metric: estimate.value for metric, estimate in averages.items()},
        }
        intervals = {
            metric: estimate.interval
            for metric, estimate in (distances | averages).items()
            if math.isfinite(estimate.deviation)
        }
        return GenerationScores(values, intervals, embedding, nearest)

    def _compared(self, embedding: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "n c"]:
        """The first `n` loops, in the components that distances are taken in."""
        return embedding[: self.n, : self.log_mel.components]

    def _descriptor_distance(self, descriptors: Float[np.ndarray, "m d"]) -> Estimate:
        reference, sample = standardised(self.descriptors, descriptors)
        if self.n <= reference.shape[1]:
            return Estimate(math.nan, math.nan)
        return bootstrap(sample, FrechetDistance(reference).resampled, seed=self.seed)

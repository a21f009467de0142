"""How far samples of loops are from all training loops in an embedding, and how sure that is."""

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.evaluation.features import BATCH, level_statistics, mel_levels
from techloop.evaluation.metrics.bootstrap import Estimate, Statistic, bootstrap, paired_difference
from techloop.evaluation.metrics.frechet import FRECHET, FrechetDistance, PrincipalComponents
from techloop.evaluation.metrics.kernel import KERNEL, KernelDistance
from techloop.metric import Metric

COMPONENTS = 16
REFERENCE_LOOPS = 5000  # training loops that samples are compared with, at most
LOG_MEL = ("log_mel", "log-mel statistics", "dB²")

FRECHET_LOG_MEL = FRECHET.of(*LOG_MEL)
KERNEL_LOG_MEL = KERNEL.of(*LOG_MEL[:2])


class TrainingDistances:
    """Fréchet and kernel distances of samples of loops to the training loops, in one embedding.

    Both are taken in the first 16 principal components of the training loops. Samples may be of any
    size; small ones have larger Fréchet distances, see `FrechetDistance`.

    The deviation is that over samples of the same size: the bootstrap draws from the sample's loops
    alone, as the training loops are the same for all that is compared with them. On the demo,
    drawing from both would raise deviations by 10 to 20 %.

    Args:
        points: embedded training loops.
        smallest: size of the smallest sample that will be compared: a Fréchet distance has at most
            one component per four loops.
        name, label, unit: of the embedding, for the names of its metrics; the unit is a squared
            one, of the Fréchet distance.

    Attributes:
        frechet, kernel: the metrics.
        components: how many both distances are taken in.
        embedding: the training loops in their principal components: two or more, where they have
            as many.

    Raises:
        ValueError: fewer than two training loops, or values that are not finite.
    """

    def __init__(
        self,
        points: Float[np.ndarray, "n d"],
        smallest: int,
        *,
        name: str,
        label: str,
        unit: str = "",
    ) -> None:
        if len(points) < 2:
            raise ValueError(f"{len(points)} training loops; a distance takes two or more")
        most = min(len(points) - 1, points.shape[1])
        self.components = min(COMPONENTS, max(min(smallest, len(points)) // 4, 1), most)
        self.project = PrincipalComponents(points, min(max(self.components, 2), most))
        self.embedding = self.project(points)
        reference = self.embedding[:, : self.components]
        self.frechet, self.kernel = FRECHET.of(name, label, unit), KERNEL.of(name, label)
        self._statistics: dict[Metric, Statistic] = {
            self.frechet: FrechetDistance(reference).resampled,
            self.kernel: KernelDistance(reference).resampled,
        }

    def __call__(
        self, points: Float[np.ndarray, "m d"], *, seed: int = 0
    ) -> dict[Metric, Estimate]:
        """Both distances of a sample, by metric.

        Args:
            points: embedded loops.
            seed: of the bootstrap.
        """
        sample = self.project(points)[:, : self.components]
        return {
            metric: bootstrap(sample, statistic, seed=seed)
            for metric, statistic in self._statistics.items()
        }

    def paired(
        self, first: Float[np.ndarray, "m d"], second: Float[np.ndarray, "k d"], *, seed: int = 0
    ) -> dict[Metric, Estimate]:
        """Both distances of `second` less those of `first`, by metric (below 0: it is nearer).

        Args:
            first, second: the same loops through two decoders, embedded; see `paired_difference`.
            seed: of the bootstrap.

        Raises:
            ValueError: they are not of the same loops.
        """
        a, b = (self.project(points)[:, : self.components] for points in (first, second))
        return {
            metric: paired_difference(a, b, statistic, seed=seed)
            for metric, statistic in self._statistics.items()
        }


def reference_rows(train: LoopDataset, seed: int) -> np.ndarray:
    """Rows of the training loops that samples are compared with: all, shuffled; at most 5,000."""
    rows: np.ndarray = np.random.default_rng(seed).permutation(len(train))[:REFERENCE_LOOPS]
    return rows


def log_mel_distances(train: LoopDataset, smallest: int, *, seed: int) -> TrainingDistances:
    """Distances of `log_mel_statistics` to those of all training loops, at most 5,000.

    Training loops are read and analysed in batches.

    Args:
        train: the training split.
        smallest: see `TrainingDistances`.
        seed: of the choice among more than 5,000.
    """
    rows = reference_rows(train, seed)
    starts = tqdm(range(0, len(rows), BATCH), "training loops", leave=False)
    statistics = [
        level_statistics(mel_levels(train.audio(rows[i : i + BATCH]), train.grid)) for i in starts
    ]
    name, label, unit = LOG_MEL
    return TrainingDistances(
        np.concatenate(statistics), smallest, name=name, label=label, unit=unit
    )

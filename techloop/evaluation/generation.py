"""Loops from nothing: are they like real ones, as varied, not copies, on the grid, without a seam?

Every number has that of real test loops beside it (`real_...`), which is as good as it can be
expected to get, and that of loops whose points are drawn from N(0, 1) each by itself
(`standard_...`), without the prior that was learned.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from scipy.spatial.distance import cdist
from torch.nn.functional import adaptive_avg_pool1d
from tqdm import tqdm

from techloop.artifacts import atomic_folder, write_json
from techloop.audio.descriptors import UNITS, loop_descriptors, onset_strength, onsets
from techloop.audio.spectral import log_mel
from techloop.audio.wav import write_loop
from techloop.data.datasets import LoopDataset
from techloop.data.tempo.librosa_tempo import librosa_tempo
from techloop.grid import Grid
from techloop.instrument import Instrument
from techloop.reporting.plots import distance_histogram, scatter, spectrogram_grid

NEIGHBOURS = 5
COMPONENTS = 16
COLUMNS = 4
SILENT_LUFS = -60.0
TRAINING_LOOPS = 2000  # that generated loops are held against
COPY_QUANTILE = 0.01
FEWEST_TO_RANK = 20  # real loops that such a quantile is taken of
FLOOR_DB = -80.0
MEANS = ("loudness_db", "onset_density", "pulse_clarity", "kick_on_beat")
BATCH = 50
TRACKED = 40  # loops that librosa listens to
SEED_STRIDE = 1_000_003  # from one sample to the next: batches of one have seeds in between
Embedding = Callable[[np.ndarray, Grid], np.ndarray]


@torch.inference_mode()
def evaluate_generation(
    instrument: Instrument,
    train: LoopDataset,
    test: LoopDataset,
    folder: str | Path,
    *,
    loops_used: int,
    seeds: int,
    examples: int,
    seed: int,
    embeddings: Mapping[str, Embedding] | None = None,
) -> dict[str, float]:
    """Figures, sounds and numbers of loops from the prior, in `folder`.

    Samples of equal size are compared: training loops (the reference), generated loops, and
    test loops, which give the `real_...` numbers.

    Args:
        instrument: both VAEs.
        train: the training split.
        test: the test split.
        folder: is replaced; gets metrics.json, items.json, PNG and WAV files.
        loops_used: size of the samples, where the splits have as many.
        seeds: how many samples are generated.
        examples: generated loops to hear and see, no more than the samples have: the first ones
            drawn, not chosen.
        seed: of the draws.
        embeddings: further ones for a Fréchet distance, as a pretrained network's, by name.

    Returns:
        What metrics.json holds, each but the last two also with `standard_` and `real_` before it;
        of the generated ones the mean over seeds, and, of two or more, the ends of its 95 %
        interval (Student's t) as `<name>_low` and `<name>_high`:

        * what `Judge` finds of a sample;
        * `tempo_share`: see `tempo_share`, of the first 40 loops;
        * `copied_share`: loops with a nearest ratio below the lowest 1 % of test loops; of fewer
          than 20 loops nan. `chance_on_grid_share`.

    Raises:
        ValueError: fewer than two loops in a split, or loops of another grid.
    """
    grid = instrument.grid
    if test.grid != grid or train.grid != grid:
        raise ValueError(f"the loops are on {test.grid}, the instrument on {grid}")
    n = sample_size(train, test, loops_used)
    judge = Judge(train, n, seed=seed, embeddings=embeddings)
    real = real_loops(test, n, seed)
    first = generated(instrument, n, seed)
    found: dict[str, Sample] = {}
    metrics = {"loops": float(n), "training_loops": float(len(judge.memory))}
    for prefix, audio in (
        ("", first),
        ("standard_", sample_standard_normal(instrument, n, seed)),
        ("real_", real),
    ):
        found[prefix] = judge(audio)
        values = found[prefix].metrics | {"tempo_share": tempo_share(audio[:TRACKED], grid)}
        metrics |= {prefix + name: value for name, value in values.items()}
    # As near to a training loop as 1 % of loops by chance are: 0.01 is what to expect.
    limit = np.quantile(found["real_"].nearest, COPY_QUANTILE)
    copied = float((found[""].nearest < limit).mean())
    metrics["copied_share"] = copied if n >= FEWEST_TO_RANK else math.nan
    metrics["chance_on_grid_share"] = chance_on_grid_share(grid)
    others = [
        judge(generated(instrument, n, seed + i * SEED_STRIDE)).metrics
        for i in tqdm(range(1, seeds), "seeds")
    ]
    if others:
        metrics |= over_seeds([found[""].metrics, *others])

    shown = min(examples, n)
    beside = real[:COLUMNS]
    both = instrument.reconstruct(beside)
    with atomic_folder(folder) as new:
        spectrogram_grid(
            new / "spectrograms.png",
            mel_levels(np.concatenate([first[:shown], beside, both]), grid),
            [f"generated {i + 1}" for i in range(shown)]
            + [f"real {i + 1}" for i in range(len(beside))]
            + [f"real {i + 1}, through both levels" for i in range(len(beside))],
            columns=COLUMNS,
            span=(grid.beats, "beat"),
            mel_range_hz=(30.0, grid.sample_rate_hz / 2),
        )
        distance_histogram(
            new / "nearest.png",
            {"generated": found[""].nearest, "real test loops": found["real_"].nearest},
            "distance to the nearest training loop / to the average one",
        )
        scatter(
            new / "plane.png",
            {
                "training": _plane(judge.places),
                "test": _plane(found["real_"].places),
                "generated": _plane(found[""].places),
            },
            ("first principal component (dB)", "second principal component (dB)"),
        )
        for i, audio in enumerate(first[:shown]):
            write_loop(
                new / f"generated-{i + 1}.wav", audio, grid.sample_rate_hz, grid.bpm, grid.beats
            )
        write_json(new / "items.json", _items(shown, len(beside), n, len(judge.memory)))
        write_json(new / "metrics.json", metrics)
    return metrics


def sample_size(train: LoopDataset, test: LoopDataset, most: int) -> int:
    """How many loops a sample can have: as many as either split, at most `most`.

    Raises:
        ValueError: fewer than two.
    """
    n = min(len(train), len(test), most)
    if n < 2:
        raise ValueError(
            f"generation is judged on two loops a split or more; train has {len(train)}, test "
            f"{len(test)}, and {most} are asked for. Prepare more audio."
        )
    return n


def real_loops(test: LoopDataset, n: int, seed: int) -> Float[np.ndarray, "n samples"]:
    """Loops of the test split, drawn without replacement."""
    return test.audio(np.sort(np.random.default_rng([seed, 1]).permutation(len(test))[:n]))


def generated(instrument: Instrument, n: int, seed: int) -> Float[np.ndarray, "n samples"]:
    """Loops from the learned prior."""
    places = tqdm(range(0, n, BATCH), "generate", leave=False)
    return np.concatenate([instrument.generate(min(BATCH, n - i), seed + i) for i in places])


def sample_standard_normal(
    instrument: Instrument, n: int, seed: int
) -> Float[np.ndarray, "n samples"]:
    """Loops whose points are drawn from N(0, 1) each by itself."""
    draw = torch.Generator().manual_seed(seed)
    return instrument.render(torch.randn(n, *instrument.point_shape, generator=draw))


class Sample(NamedTuple):
    """What `Judge` finds.

    Attributes:
        metrics: numbers by name.
        places: `(n, k)`, where loops lie among training loops, in dB.
        nearest: `(n,)`, the ratio of `nearest_distance`.
    """

    metrics: dict[str, float]
    places: Float[np.ndarray, "n k"]
    nearest: Float[np.ndarray, " n"]


class Judge:
    """What any sample of loops is compared with: as many training loops, and all there are to copy.

    Called with audio `(n, samples)` it finds:

    * `frechet_log_mel`, in dB²: `frechet_distance` of log-mel statistics to those of training
      loops, in the latter's first 16 principal components (of fewer than 64 loops: one for
      each four); `frechet_descriptors`: of the 12 loop descriptors but loudness, in deviations
      of the training loops; of fewer than 13 loops nan; `frechet_<name>` of each further embedding,
      in its first 16 principal components;
    * `density`, `coverage`: `density_coverage` in the same components, 5 neighbours; of fewer
      than 6 loops nan;
    * `diversity_ratio`: `mean_pairwise_distance` there over that of training loops; nan where
      these are all the same;
    * `nearest_training_db`, `nearest_training_ratio`: medians of `nearest_distance`;
    * `on_grid_share`, `seam_ratio` (median); `silent_share`: loops below -60 LUFS; means of
      loudness, onset density, pulse clarity and kick_on_beat.

    Args:
        train: the training split.
        n: size of the samples.
        seed: of the draw of the reference.
        embeddings: by name, audio `(n, samples)` and its grid to `(n, d)`.
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
        held = np.random.default_rng(seed).permutation(len(train))[:TRAINING_LOOPS]
        audio = train.audio(held[:n])
        self.reference = features(audio, grid)
        parts = tqdm(range(0, len(held), BATCH), "training loops", leave=False)
        self.memory = np.concatenate(
            [_patterns(mel_levels(train.audio(held[i : i + BATCH]), grid), grid) for i in parts]
        )
        self.components = min(COMPONENTS, max(n // 4, 1))
        statistics = self.reference["statistics"]
        self.project = PrincipalComponents(statistics, min(max(self.components, 2), n - 1))
        self.places = self.project(statistics)
        self.variety = mean_pairwise_distance(self.places[:, : self.components])
        self.embedded = {}
        for name, embed in (embeddings or {}).items():
            points = embed(audio, grid)
            project = PrincipalComponents(points, min(self.components, *points.shape))
            self.embedded[name] = (embed, project, project(points))

    def __call__(self, audio: Float[np.ndarray, "n samples"]) -> Sample:
        """Judge a sample of the size that was said."""
        found, n = features(audio, self.grid), len(audio)
        places = self.project(found["statistics"])
        reference, points = (p[:, : self.components] for p in (self.places, places))
        distance_db, nearest = nearest_distance(found["patterns"], self.memory)
        density, coverage = (
            density_coverage(reference, points, NEIGHBOURS)
            if n > NEIGHBOURS
            else (math.nan, math.nan)
        )
        # Without loudness, the first, which preparation has set to one value in real loops.
        descriptors = standardised(
            self.reference["descriptors"][:, 1:], found["descriptors"][:, 1:]
        )
        metrics = {
            "frechet_log_mel": frechet_distance(reference, points),
            "frechet_descriptors": frechet_distance(*descriptors)
            if n > descriptors[0].shape[1]
            else math.nan,
            "density": density,
            "coverage": coverage,
            "diversity_ratio": mean_pairwise_distance(points) / self.variety
            if self.variety
            else math.nan,
            "nearest_training_db": float(np.median(distance_db)),
            "nearest_training_ratio": float(np.median(nearest)),
            "on_grid_share": on_grid_share(found["onsets"] > 0, self.grid),
            "seam_ratio": _median(seam_ratio(found["onset_strength"], self.grid)),
            "silent_share": float((_column(found, "loudness_db") < SILENT_LUFS).mean()),
        }
        metrics |= {name: float(_column(found, name).mean()) for name in MEANS}
        for name, (embed, project, known) in self.embedded.items():
            metrics[f"frechet_{name}"] = frechet_distance(known, project(embed(audio, self.grid)))
        return Sample(metrics, places, nearest)


def over_seeds(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over samples of each number, and `_low` and `_high`: its 95 % interval (Student's t).

    nan where a sample has no value.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(found) < 2:
        raise ValueError(f"an interval over seeds takes two or more, got {len(found)}")
    values: dict[str, float] = {}
    for name in found[0]:
        each = np.array([metrics[name] for metrics in found])
        reach = stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each))
        mean = float(each.mean())
        values |= {name: mean, f"{name}_low": mean - reach, f"{name}_high": mean + reach}
    return values


def tempo_share(audio: Float[np.ndarray, "n samples"], grid: Grid) -> float:
    """Share of loops in which librosa hears the grid's tempo, or half, twice, a third or thrice it.

    Within 4 %; of the onset strength of each loop repeated four times. The tempo is the highest of
    librosa's tempogram between 30 and 300 BPM, without its preference for 120. A loop without
    onsets has no tempo. Half of all tempi would pass by chance or so: compare with real loops.

    References:
        Gouyon et al., An experimental comparison of audio tempo induction algorithms, 2006,
        section 4 (accuracy 2).
    """
    strength = onset_strength(torch.from_numpy(audio), grid.sample_rate_hz, grid.hop).numpy()
    even, tempo = stats.uniform(30, 270), librosa_tempo()
    tempi = np.array(
        [
            tempo(onset_envelope=np.tile(x, 4), sr=grid.frame_rate_hz, hop_length=1, prior=even)[0]
            if x.any()
            else math.nan
            for x in strength
        ]
    )
    known = grid.bpm * np.array([1 / 3, 1 / 2, 1, 2, 3])
    return float((np.abs(tempi[:, None] / known - 1) <= 0.04).any(1).mean())


def features(audio: Float[np.ndarray, "n samples"], grid: Grid) -> dict[str, np.ndarray]:
    """What loops are compared by.

    Returns:
        `statistics` `(n, 2 * mels)`: mean and deviation over time of each mel level, in dB;
        `patterns` `(n, steps, mels)`: mel levels of each sixteenth, in dB; `descriptors` `(n, 13)`:
        those of `loop_descriptors`; `onset_strength` `(n, frames)` in dB, and `onsets`, 1 at its
        peaks.
    """
    parts: list[dict[str, np.ndarray]] = []
    for i in range(0, len(audio), BATCH):
        batch = torch.from_numpy(audio[i : i + BATCH])
        level = mel_levels(audio[i : i + BATCH], grid)
        strength = onset_strength(batch, grid.sample_rate_hz, grid.hop)
        parts.append(
            {
                "statistics": np.concatenate([level.mean(2), level.std(2)], 1),
                "patterns": _patterns(level, grid),
                "descriptors": np.stack(
                    [v.numpy() for v in loop_descriptors(batch, grid).values()], 1
                ),
                "onset_strength": strength.numpy(),
                "onsets": onsets(strength, grid).numpy().astype(np.float32),
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """Squared Fréchet distance of the normal distributions fitted to two samples (0: best).

    |mean x - mean y|^2 + tr(Cx + Cy - 2 (Cx Cy)^1/2), in the squared unit of the values. Samples
    of one distribution have a distance above 0 that falls with their size: compare only distances
    of samples as large. Constant samples have a covariance of 0.

    Raises:
        ValueError: a sample no larger than its dimensions, whose covariance is singular.

    References:
        Heusel et al., GANs trained by a two time-scale update rule, 2017, equation 6;
        Kilgour et al., Fréchet audio distance, 2019.
    """
    if min(len(x), len(y)) <= x.shape[1]:
        raise ValueError(
            f"{min(len(x), len(y))} loops in {x.shape[1]} dimensions have a singular covariance; "
            "take more loops or fewer dimensions"
        )
    x, y = x.astype(np.float64), y.astype(np.float64)
    cx, cy = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    values, vectors = np.linalg.eigh(cx)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cy @ root).clip(0)).sum()
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx) + np.trace(cy) - 2 * cross
    return max(float(distance), 0.0)


def density_coverage(
    real: Float[np.ndarray, "n d"], fake: Float[np.ndarray, "m d"], k: int
) -> tuple[float, float]:
    """Fidelity and diversity by balls around real points, each out to its k-th nearest real one.

    Density: balls that a fake point lies in, mean over k; about 1 for fakes like the real ones,
    more where they crowd the densest place. Coverage: share of balls with a fake point in them, 0
    to 1 (real-like: 1 - 2^-k or so). A fake point on the rim is inside, so that copies count even
    where real points coincide.

    Raises:
        ValueError: k is not below the number of real points.

    References:
        Naeem et al., Reliable fidelity and diversity metrics for generative models, 2020,
        equations 4 and 5.
    """
    if not 0 < k < len(real):
        raise ValueError(f"{k} neighbours among {len(real)} real points; take fewer, from 1")
    among = _distances(real, real)
    np.fill_diagonal(among, np.inf)
    radius = np.sort(among, 1)[:, k - 1]
    inside = _distances(real, fake) <= radius[:, None]
    return float(inside.sum(0).mean() / k), float(inside.any(1).mean())


def mean_pairwise_distance(x: Float[np.ndarray, "n d"]) -> float:
    """Mean Euclidean distance of two different points: how varied a sample is (copies: 0).

    Raises:
        ValueError: fewer than two points.
    """
    if len(x) < 2:
        raise ValueError(f"variety takes two loops or more, got {len(x)}")
    return float(_distances(x, x).sum() / (len(x) * (len(x) - 1)))


def nearest_distance(
    x: Float[np.ndarray, "n steps mels"], among: Float[np.ndarray, "m _ _"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """How near each pattern is to the nearest of others, in the best rotation by sixteenths.

    Returns:
        The root mean square difference in dB, 0 for a copy; and the same over its mean to all of
        the others, between 0 for a copy and 1 for what is near to none in particular. The second
        is the one to look for copies with: a blurred loop is near to everything.

    Raises:
        ValueError: there is nothing to compare with, or patterns differ in shape.
    """
    if not len(among) or x.shape[1:] != among.shape[1:]:
        raise ValueError(f"patterns of shape {x.shape} against {among.shape}")
    # Around a common mean, so that the rounding of squares leaves a copy within 0.05 dB of 0.
    centre = among.mean((0, 1))
    flat = torch.from_numpy(among - centre).flatten(1)
    best = torch.full((len(x), len(among)), -torch.inf)
    for step in range(x.shape[1]):
        turned = torch.from_numpy(np.roll(x - centre, step, 1)).flatten(1)
        best = torch.maximum(best, turned @ flat.T)
    squares = turned.square().sum(1)[:, None] + flat.square().sum(1) - 2 * best
    distance = (squares.clamp_min(0) / flat.shape[1]).sqrt()
    nearest, mean = distance.amin(1), distance.mean(1)
    return nearest.numpy(), torch.where(mean > 0, nearest / mean, 0.0).numpy()


def on_grid_share(found: Bool[np.ndarray, "n frames"], grid: Grid) -> float:
    """Share of onsets within a quarter of a sixteenth of one; without any onset nan.

    Half of the circle is that near, so onsets anywhere have `chance_on_grid_share`.
    """
    if not found.any():
        return math.nan
    return float(_near_step(grid)[np.nonzero(found)[1]].mean())


def chance_on_grid_share(grid: Grid) -> float:
    """What `on_grid_share` is for onsets at random places."""
    return float(_near_step(grid).mean())


def seam_ratio(strength: Float[np.ndarray, "n frames"], grid: Grid) -> Float[np.ndarray, " n"]:
    """Spectral flux where the loop wraps around over its median at the loop's other beats.

    1 is a seam like any other beat; far above 1, something happens there that does so nowhere
    else. Against other beats, as a loop may well start with a kick. At each beat the largest value
    within a quarter of a sixteenth counts. nan where the wrap and the beats are all without flux,
    infinite where only the beats are.

    Raises:
        ValueError: a loop of one beat, which has no other.
    """
    if grid.beats < 2:
        raise ValueError("a loop of one beat has no beat to compare its seam with")
    reach = int(grid.frames / grid.steps / 4)
    beats = np.round(np.arange(grid.beats) * grid.frames / grid.beats).astype(int)
    around = (beats[:, None] + np.arange(-reach, reach + 1)) % grid.frames
    flux = strength[:, around].max(2).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return flux[:, 0] / np.median(flux[:, 1:], 1)


class PrincipalComponents:
    """Projection onto the leading principal components of a sample.

    Raises:
        ValueError: more components than the sample can have.

    References:
        Pearson, On lines and planes of closest fit to systems of points in space, 1901.
    """

    def __init__(self, sample: Float[np.ndarray, "n d"], components: int) -> None:
        if not 0 < components <= min(len(sample) - 1, sample.shape[1]):
            raise ValueError(f"{components} principal components of a sample {sample.shape}")
        self.mean = sample.mean(0)
        axes = np.linalg.svd(sample - self.mean, full_matrices=False)[2][:components]
        # An axis may point either way: its largest entry is positive, whatever the library.
        sign = np.sign(axes[np.arange(components), np.abs(axes).argmax(1)])
        self.axes = axes * sign[:, None]

    def __call__(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Coordinates of points."""
        return (x - self.mean) @ self.axes.T


def standardised(
    reference: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Both in deviations of the reference from its mean; a constant column keeps its unit."""
    mean, deviation = reference.mean(0), reference.std(0)
    scale = np.where(deviation > 1e-3 * (1 + np.abs(mean)), deviation, 1.0)
    return (reference - mean) / scale, (other - mean) / scale


def mel_levels(
    audio: Float[np.ndarray, "n samples"], grid: Grid
) -> Float[np.ndarray, "n mels frames"]:
    """What spectrograms of loops show and loops are compared by: mel levels above -80 dB."""
    x = torch.from_numpy(audio)
    return log_mel(x, grid.sample_rate_hz, hop=grid.hop, floor_db=FLOOR_DB).numpy()


def _patterns(level: np.ndarray, grid: Grid) -> np.ndarray:
    """Mel levels averaged over each sixteenth, `(n, steps, mels)`."""
    return adaptive_avg_pool1d(torch.from_numpy(level), grid.steps).numpy().transpose(0, 2, 1)


def _near_step(grid: Grid) -> np.ndarray:
    """Which frames lie within a quarter of a sixteenth of one."""
    step = grid.frames / grid.steps
    place = np.arange(grid.frames) % step
    return np.minimum(place, step - place) <= step / 4


def _plane(points: np.ndarray) -> np.ndarray:
    """The first two coordinates; two loops have but one component: the second is 0."""
    return np.pad(points[:, :2], ((0, 0), (0, max(0, 2 - points.shape[1]))))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return cdist(x.astype(np.float64), y.astype(np.float64))


def _column(found: dict[str, np.ndarray], name: str) -> np.ndarray:
    return found["descriptors"][:, list(UNITS).index(name)]


def _median(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    return float(np.median(defined)) if defined.size else math.nan


def _items(shown: int, real: int, n: int, held: int) -> list[dict[str, object]]:
    figures = (
        (
            "spectrograms.png",
            "Generated loops",
            f"Mel spectrograms of the first {shown} loops drawn from the prior, none chosen; "
            f"after them {real} real test loops, and these after both levels. One colour "
            "scale.",
        ),
        (
            "nearest.png",
            "Copies or not",
            f"Distance of {n} generated and {n} real test loops to the nearest of {held} training "
            "loops, over that to the average one (mel levels by sixteenth, in the best rotation). "
            "A copy is at 0.",
        ),
        (
            "plane.png",
            "Where generated loops lie among real ones",
            "First two principal components of the training loops' log-mel statistics.",
        ),
    )
    items: list[dict[str, object]] = [
        {"kind": "figure", "file": file, "title": title, "caption": caption}
        for file, title, caption in figures
    ]
    items += [
        {
            "kind": "audio",
            "file": f"generated-{i + 1}.wav",
            "title": f"Generated {i + 1}",
            "caption": "One loop from the prior.",
            "loop": True,
        }
        for i in range(shown)
    ]
    return items

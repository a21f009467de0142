"""The study of the latent VAE: what compression costs, what it buys, which objective wins.

A run is one latent VAE: a regulariser of the audio VAE, an objective, a length, a seed. All runs
share sizes, budget, data and measures. `techloop.reporting.study_table` collects them.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from techloop.data.columns import HELD_OUT
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.evaluation.comparison import compared
from techloop.evaluation.generation_metrics import GenerationMetrics
from techloop.evaluation.interpolation import (
    END_NEAREST_RATIO,
    FOLLOWED,
    MIDPOINT_NEAREST_RATIO,
    measure_paths,
)
from techloop.evaluation.metrics.density import COVERAGE, DIVERSITY_RATIO
from techloop.evaluation.metrics.paths import (
    EXCESS_PATH_LENGTH,
    PATH_LENGTH_RATIO,
    PERCEPTUAL_PATH_RATIO,
)
from techloop.evaluation.metrics.rhythm import ON_GRID_SHARE
from techloop.evaluation.samples import (
    generated,
    real_loops,
    sample_standard_normal,
    smallest_sample,
)
from techloop.evaluation.training_distances import FRECHET_LOG_MEL, KERNEL_LOG_MEL
from techloop.instrument import Instrument
from techloop.metric import Measurement, Metric
from techloop.params import (
    EvaluateGeneration,
    EvaluateSmoothness,
    LatentVAECell,
    Params,
    TrainLatentVAE,
)
from techloop.training.latent_vae import (
    CROSS_ENTROPY,
    DECODED_LINEAR_DISTANCE,
    DECODED_LOG_DISTANCE,
    EXPLAINED_VARIANCE,
    RATE,
    latent_vae_metrics,
    train_latent_vae,
)
from techloop.training.loop import Log
from techloop.training.losses import ACTIVE_UNITS, mean_spectral_distance

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCH = 16
DECODED = 64  # loops whose sound is compared
GENERATED = 200  # loops drawn per run, at most; seeds are averaged, so that fewer suffice
WARMUP_DIVISOR = 3  # the warm-up takes at most a third of a run's budget
LATENT_VAE_METRICS = (RATE, CROSS_ENTROPY, EXPLAINED_VARIANCE, ACTIVE_UNITS)
SMOOTHNESS_METRICS = (
    PERCEPTUAL_PATH_RATIO.name,
    MIDPOINT_NEAREST_RATIO.name,
    *(
        f"{measure.name}_{descriptor}"
        for measure in (EXCESS_PATH_LENGTH, PATH_LENGTH_RATIO)
        for descriptor in FOLLOWED
    ),
    END_NEAREST_RATIO.name,
)
GENERATION_METRICS = (COVERAGE, DIVERSITY_RATIO, FRECHET_LOG_MEL, KERNEL_LOG_MEL, ON_GRID_SHARE)


def study_training(params: Params) -> TrainLatentVAE:
    """How a run of the study is trained: like any latent VAE, but with the study's budget."""
    section, loops = params.train_latent_vae, params.study.loops
    training = section.training.model_copy(update={"loops": loops, "validate_every_loops": loops})
    warmup_loops = min(section.warmup_loops, loops // WARMUP_DIVISOR)
    return section.model_copy(update={"training": training, "warmup_loops": warmup_loops})


def run_of_study(
    latents_folder: str | Path,
    loops_folder: str | Path,
    fabric: "Fabric",
    *,
    params: TrainLatentVAE,
    cell: LatentVAECell,
    smoothness: EvaluateSmoothness,
    generation: EvaluateGeneration,
    seed: int,
    log: Log,
    checkpoints: Path = Path("checkpoints"),
) -> dict[str, Measurement]:
    """Train one latent VAE and measure it on the test split.

    Args:
        latents_folder, loops_folder: what it is trained on, and what it is compared with.
        fabric: of one device.
        params: sizes and budget, see `study_training`.
        cell: regulariser, objective and length.
        smoothness, generation: how many paths, points and loops are measured.
        seed: of the training and of all draws.
        log: takes the training's curves.
        checkpoints: where an interrupted training is resumed from.

    Returns:
        By name:

        * `LATENT_VAE_METRICS`, see `latent_vae_metrics`;
        * `DECODED_LOG_DISTANCE`, `DECODED_LINEAR_DISTANCE`, see `decoded_distance`;
        * `SMOOTHNESS_METRICS` along interpolations, see `measure_paths`;
        * `GENERATION_METRICS` of loops from the learned prior, with the baselines
          `standard_normal` (independent points) and `real` (held-out loops), see
          `GenerationMetrics`.

    Raises:
        ValueError: folders that are damaged or do not fit each other.
    """
    latents, test = LatentDataset(latents_folder, "test"), LoopDataset(loops_folder, "test")
    train, others = LoopDataset(loops_folder, "train"), LoopDataset(loops_folder, HELD_OUT)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "latent_vae"
        train_latent_vae(
            latents_folder,
            folder,
            fabric,
            params=params,
            cell=cell,
            seed=seed,
            log=log,
            checkpoints=checkpoints,
        )
        instrument = Instrument.load(folder)
    with torch.inference_mode():
        held_out = latent_vae_metrics(
            instrument.latent_vae, cell.objective, latents.mu, latents.sigma, seed
        )
    paths = measure_paths(
        instrument, test, paths=smoothness.paths, points=smoothness.points, seed=seed
    )
    return {
        **{metric.name: held_out[metric.name] for metric in LATENT_VAE_METRICS},
        **compared(decoded_distance(instrument, latents, DECODED)),
        **{name: paths.metrics[name] for name in SMOOTHNESS_METRICS},
        **_generation(instrument, train, others, min(generation.loops, GENERATED), seed),
    }


@torch.inference_mode()
def decoded_distance(
    instrument: Instrument, latents: LatentDataset, most: int
) -> dict[Metric, float]:
    """How much of the audio VAE's sound the latent VAE loses: both terms of `spectral_distance`.

    Loops decoded from the latent VAE's points are compared with the same loops decoded from the
    audio VAE's own latents.

    Args:
        instrument: both VAEs.
        latents: of the audio VAE.
        most: loops used, the first ones.
    """
    audio, latent, device = instrument.audio_vae, instrument.latent_vae, instrument.device

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, min(most, len(latents)), BATCH):
            rows = slice(start, min(start + BATCH, most))
            mu, sigma = latents.mu[rows].to(device), latents.sigma[rows].to(device)
            z, _ = latent.decode(latent.encode(mu, sigma)[0])
            noise = audio.draw_noise(mu, torch.Generator().manual_seed(start))
            yield audio.decode(mu, noise), audio.decode(z, noise)

    log_term, linear_term = mean_spectral_distance(pairs())
    return {DECODED_LOG_DISTANCE: log_term, DECODED_LINEAR_DISTANCE: linear_term}


def _generation(
    instrument: Instrument, train: LoopDataset, held_out: LoopDataset, n: int, seed: int
) -> dict[str, Measurement]:
    """`GENERATION_METRICS` of loops from the prior, beside those of its baselines."""
    smallest = smallest_sample(train, held_out, n)
    score = GenerationMetrics(train, smallest, seed=seed)
    own, standard_normal, real = (
        {metric: values[metric] for metric in GENERATION_METRICS}
        for values in (
            score(generated(instrument, n, seed)).values,
            score(sample_standard_normal(instrument, smallest, seed)).values,
            score(real_loops(held_out, seed)).values,
        )
    )
    return compared(own, {"standard_normal": standard_normal, "real": real})

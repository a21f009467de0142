"""The study of the latent VAE: a run of it."""

from pathlib import Path

import pytest

from techloop.data.datasets import LatentDataset
from techloop.evaluation.study import (
    GENERATION_METRICS,
    LATENT_VAE_METRICS,
    SMOOTHNESS_METRICS,
    decoded_distance,
    run_of_study,
    study_training,
)
from techloop.instrument import Instrument
from techloop.metric import flat_metrics
from techloop.params import LatentVAECell
from techloop.training.distributed import launch_fabric
from tests.helpers.params import small_params


def test_a_run_is_measured_whole_and_twice_the_same(
    loops_folder: Path, latents_folder: Path, tmp_path: Path
) -> None:
    params = small_params()
    first, second = (
        run_of_study(
            latents_folder,
            loops_folder,
            launch_fabric(),
            params=study_training(params),
            cell=LatentVAECell(regulariser="kl", objective="posterior", length=1),
            smoothness=params.evaluate_smoothness.model_copy(update={"paths": 2, "points": 4}),
            generation=params.evaluate_generation.model_copy(update={"loops": 8}),
            seed=3,
            log=lambda metrics, seen: None,
            checkpoints=tmp_path / "checkpoints",
        )
        for _ in range(2)
    )
    assert flat_metrics(first) == pytest.approx(flat_metrics(second), nan_ok=True)
    assert list(first) == [
        *(metric.name for metric in LATENT_VAE_METRICS),
        "decoded_log_distance",
        "decoded_linear_distance",
        *SMOOTHNESS_METRICS,
        *(metric.name for metric in GENERATION_METRICS),
    ]
    for name in SMOOTHNESS_METRICS[:-1]:
        assert first[name].baselines.keys() == {"spherical", "audio_vae", "crossfade", "shuffled"}
    for metric in GENERATION_METRICS:
        assert first[metric.name].baselines.keys() == {"standard_normal", "real"}
    assert first["perceptual_path_ratio"].metric.better == "lower"
    assert first["coverage"].metric.better == "higher"


def test_a_run_is_trained_with_the_budget_of_the_study() -> None:
    params = small_params()
    training = study_training(params)
    assert training.training.loops == training.training.validate_every_loops == 96
    assert training.warmup_loops == 32  # a third of the budget
    assert training.model == params.train_latent_vae.model
    short = params.train_latent_vae.model_copy(update={"warmup_loops": 5})
    assert study_training(params.model_copy(update={"train_latent_vae": short})).warmup_loops == 5


def test_decoding_through_both_vaes_is_no_better_than_through_one(
    latents_folder: Path, latent_vae_folder: Path
) -> None:
    instrument, latents = Instrument.load(latent_vae_folder), LatentDataset(latents_folder, "test")
    distance = decoded_distance(instrument, latents, 3)
    assert all(value > 0.05 for value in distance.values())
    instrument.latent_vae.encode = lambda mu, sigma: (mu, sigma)  # type: ignore[method-assign]
    instrument.latent_vae.decode = lambda points: (points, points)  # type: ignore[method-assign]
    assert all(value == 0 for value in decoded_distance(instrument, latents, 3).values())

"""The study of the second level: a run of it, and what is made of many."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from techloop.artifacts import write_json
from techloop.data.datasets import LatentDataset
from techloop.evaluation.study import (
    KEYS,
    SMOOTH,
    WAYS,
    decoded_distance,
    report_study,
    run_of_study,
)
from techloop.instrument import Instrument
from techloop.params import LatentVAECell
from tests.helpers.params import small_params


def test_a_run_is_measured_whole_and_twice_the_same(
    loops_folder: Path, latents_folder: Path, tmp_path: Path
) -> None:
    params = small_params()
    found = [
        run_of_study(
            latents_folder,
            loops_folder,
            params=params.studied(),
            cell=LatentVAECell(regulariser="kl", objective="posterior", length=1),
            smoothness=params.evaluate_smoothness.model_copy(update={"paths": 2, "points": 4}),
            generation=params.evaluate_generation.model_copy(update={"loops": 8}),
            seed=3,
            log=lambda metrics, seen: None,
            checkpoints=tmp_path / "checkpoints",
        )
        for _ in range(2)
    ]
    assert found[0] == pytest.approx(found[1], nan_ok=True)
    assert [found[0][key] for key in KEYS] == ["kl", "posterior", 1, 3]
    expected = {"rate_nats_per_loop", "cross_entropy_nats_per_frame", "decoded_log_distance"}
    smooth = {way + name for way in WAYS for name in SMOOTH}
    assert expected | smooth | {"coverage", "standard_coverage", "real_coverage"} <= set(found[0])


def test_decoding_at_both_levels_is_no_better_than_at_one(
    latents_folder: Path, latent_vae_folder: Path
) -> None:
    instrument, latents = Instrument.load(latent_vae_folder), LatentDataset(latents_folder, "test")
    distance = decoded_distance(instrument, latents, 3)
    assert all(value > 0.05 for value in distance.values())
    instrument.latent_vae.encode = lambda mu, sigma: (mu, sigma)  # type: ignore[method-assign]
    instrument.latent_vae.decode = lambda points: (points, points)  # type: ignore[method-assign]
    assert all(value == 0 for value in decoded_distance(instrument, latents, 3).values())


def made_run(folder: Path, objective: str, length: int, seed: int) -> Path:
    """A run with numbers that follow from its name."""
    draw = np.random.default_rng(seed)
    names = {"rate_nats_per_loop", "decoded_log_distance", "decoded_linear_distance"}
    names |= {way + name for way in WAYS for name in SMOOTH} | {"end_nearest_ratio"}
    values = {name: length + float(draw.uniform()) for name in sorted(names)}
    shares = ("coverage", "standard_coverage", "real_coverage")
    values |= {name: float(draw.uniform()) for name in shares}
    path = folder / f"kl-{objective}-{length}-{seed}.json"
    cell = {"regulariser": "kl", "objective": objective, "length": length, "seed": seed}
    write_json(path, {**cell, **values})
    return path


def test_the_table_has_means_and_intervals_over_seeds(tmp_path: Path) -> None:
    runs = [
        made_run(tmp_path, objective, length, seed)
        for objective in ("posterior", "trajectory-mean")
        for length in (1, 16)
        for seed in (0, 1, 2)
    ]
    table = report_study(runs, tmp_path / "a")
    assert len(table) == 4
    every = pd.read_csv(tmp_path / "a" / "runs.csv")
    of = every[(every["objective"] == "posterior") & (every["length"] == 16)]["coverage"]
    row = table[(table["objective"] == "posterior") & (table["length"] == 16)].iloc[0]
    assert row["coverage"] == pytest.approx(of.mean())
    assert (row["coverage_low"], row["coverage_high"]) == pytest.approx((of.min(), of.max()))
    report_study(runs[::-1], tmp_path / "b")
    for file in ("study.csv", "runs.csv", "study.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_study_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`make study` makes them"):
        report_study([], tmp_path / "a")
    assert not (tmp_path / "a").exists()

"""The study of the second level: what compression costs, what it buys, which objective wins.

A run is one VAE 2: a regulariser of VAE 1, an objective, a length, a seed. All runs share sizes,
budget, data and measures.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from techloop.artifacts import atomic_folder, read_json
from techloop.data.datasets import LatentDataset, LoopDataset
from techloop.evaluation.generation import Judge, generated, sample_size, sample_standard_normal
from techloop.evaluation.smoothness import FOLLOWED, follow
from techloop.instrument import Instrument
from techloop.metric import flat_metrics
from techloop.params import EvaluateGeneration, EvaluateSmoothness, LatentVAECell, TrainLatentVAE
from techloop.reporting.study_table import compression
from techloop.training.distributed import launch_fabric
from techloop.training.latent_vae import (
    DECODED_LINEAR_DISTANCE,
    DECODED_LOG_DISTANCE,
    latent_vae_metrics,
    train_latent_vae,
)
from techloop.training.loop import Log
from techloop.training.losses import mean_spectral_distance

BATCH = 16
DECODED = 64  # loops whose sound at either level is compared
KEYS = ("regulariser", "objective", "length", "seed")
WAYS = ("", "spherical_", "vae1_", "crossfade_", "shuffled_")
SMOOTH = (
    "perceptual_path_ratio",
    "midpoint_nearest_ratio",
    *(
        f"{measure}_{d}"
        for measure in ("excess_path_length", "path_length_ratio")
        for d in FOLLOWED
    ),
)
GENERATED = ("coverage", "diversity_ratio", "frechet_log_mel", "on_grid_share")


def run_of_study(
    latents_folder: str | Path,
    loops_folder: str | Path,
    *,
    params: TrainLatentVAE,
    cell: LatentVAECell,
    smoothness: EvaluateSmoothness,
    generation: EvaluateGeneration,
    seed: int,
    log: Log,
    checkpoints: Path = Path("checkpoints"),
) -> dict[str, Any]:
    """Train one VAE 2 and measure it on the test split.

    Returns:
        The run's `KEYS`, then

        * `rate_nats_per_loop`, `cross_entropy_nats_per_frame`, `explained_variance`,
          `active_units`, see `latent_vae_metrics`;
        * `decoded_log_distance`, `decoded_linear_distance`: `spectral_distance` of loops decoded
          from the points to those decoded from VAE 1's own latents;
        * `SMOOTH` along interpolations, and that of the baselines, see `follow`;
        * `coverage`, `diversity_ratio`, `frechet_log_mel`, `on_grid_share` of loops from the
          learned prior, from independent points (`standard_`), and of real ones (`real_`), see
          `Judge`.

    Raises:
        ValueError: folders that are damaged or do not fit each other.
    """
    test, loops = LatentDataset(latents_folder, "test"), LoopDataset(loops_folder, "test")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "latent_vae"
        train_latent_vae(
            latents_folder,
            folder,
            launch_fabric(),
            params=params,
            cell=cell,
            seed=seed,
            log=log,
            checkpoints=checkpoints,
        )
        instrument = Instrument.load(folder)
        with torch.inference_mode():
            found = flat_metrics(
                latent_vae_metrics(instrument.latent_vae, cell.objective, test.mu, test.sigma, seed)
            )
        kept = ("rate_nats_per_loop", "cross_entropy_nats_per_frame", "explained_variance")
        metrics = {name: found[name] for name in (*kept, "active_units")}
        metrics |= decoded_distance(instrument, test, DECODED)
        found = follow(
            instrument, loops, paths=smoothness.paths, points=smoothness.points, seed=seed
        ).metrics
        metrics |= {way + name: found[way + name] for way in WAYS for name in SMOOTH}
        metrics["end_nearest_ratio"] = found["end_nearest_ratio"]
        train = LoopDataset(loops_folder, "train")
        n = sample_size(train, loops, generation.loops)
        judge = Judge(train, n, seed=seed)
        for prefix, audio in (
            ("", generated(instrument, n, seed)),
            ("standard_", sample_standard_normal(instrument, n, seed)),
            ("real_", loops.audio(range(n))),
        ):
            judged = judge(audio).metrics
            metrics |= {prefix + name: judged[name] for name in GENERATED}
    return {**cell.model_dump(), "seed": seed, **metrics}


@torch.inference_mode()
def decoded_distance(instrument: Instrument, latents: LatentDataset, most: int) -> dict[str, float]:
    """What VAE 2 takes from the sound that VAE 1 makes of its own latents: spectral distance.

    Args:
        instrument: both VAEs.
        latents: of VAE 1.
        most: loops used, the first ones.
    """
    audio, latent, device = instrument.audio_vae, instrument.latent_vae, instrument.device

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for at in range(0, min(most, len(latents)), BATCH):
            rows = slice(at, min(at + BATCH, most))
            mu, sigma = latents.mu[rows].to(device), latents.sigma[rows].to(device)
            z, _ = latent.decode(latent.encode(mu, sigma)[0])
            yield audio.decode(mu), audio.decode(z)

    log_term, linear_term = mean_spectral_distance(pairs())
    return {DECODED_LOG_DISTANCE.name: log_term, DECODED_LINEAR_DISTANCE.name: linear_term}


def report_study(runs: Sequence[Path], folder: str | Path) -> pd.DataFrame:
    """Collect runs (JSON of `run_of_study`) into a table and a figure.

    Args:
        runs: the files.
        folder: is replaced; gets study.csv (a row a cell: means over seeds, and the lowest and
            highest as `_low`, `_high`), runs.csv (a row a run) and study.png, whose baselines
            are means and quartiles over all runs of a length, as each joins ends of its own.

    Returns:
        The table, a row a cell.

    Raises:
        ValueError: there are no runs, or one is damaged.
    """
    if not runs:
        raise ValueError("there are no runs of the study yet; `make study` makes them")
    every = pd.DataFrame([read_json(path) for path in sorted(runs)])
    every["decoded_distance"] = every["decoded_log_distance"] + every["decoded_linear_distance"]
    cells = every.groupby(list(KEYS[:3]))[[c for c in every if c not in KEYS]]
    low, high = cells.min().add_suffix("_low"), cells.max().add_suffix("_high")
    table = pd.concat([cells.mean(), low, high], axis=1).reset_index()
    with atomic_folder(folder) as new:
        every.to_csv(new / "runs.csv", index=False)
        table.to_csv(new / "study.csv", index=False)
        compression(
            new / "study.png",
            {(str(r), str(o)): _curve(rows) for (r, o), rows in table.groupby(list(KEYS[:2]))},
            {
                "smoothness": {
                    "line in VAE 1": _by_length(every, "vae1_perceptual_path_ratio"),
                    "cross-fade": _by_length(every, "crossfade_perceptual_path_ratio"),
                },
                "midpoint": {
                    "cross-fade": _by_length(every, "crossfade_midpoint_nearest_ratio"),
                    "the ends themselves": _by_length(every, "end_nearest_ratio"),
                },
                "coverage": {"real loops": _by_length(every, "real_coverage")},
            },
        )
    return table


def _by_length(every: pd.DataFrame, name: str) -> Float[np.ndarray, "n three"]:
    """Mean and quartiles of a baseline over all runs of each length."""
    of = every.groupby("length")[name]
    return np.stack([of.mean(), of.quantile(0.25), of.quantile(0.75)], 1)


def _curve(rows: pd.DataFrame) -> dict[str, Any]:
    """One line of the figure: lengths, and each quantity as mean, low and high."""
    rows = rows.sort_values("length")
    shown = {
        "rate_nats_per_loop": "rate_nats_per_loop",
        "decoded_distance": "decoded_distance",
        "smoothness": "perceptual_path_ratio",
        "midpoint": "midpoint_nearest_ratio",
        "coverage": "coverage",
        "standard_coverage": "standard_coverage",
    }
    found = {
        name: rows[[column, f"{column}_low", f"{column}_high"]].to_numpy()
        for name, column in shown.items()
    }
    return {"length": rows["length"].to_numpy(), **found}

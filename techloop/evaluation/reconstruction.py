"""What the audio VAE preserves of a loop, beside guesses that know less."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.evaluation.features import log_mel_statistics, mel_range_hz
from techloop.evaluation.metrics.fidelity import (
    GUESSES,
    METRICS,
    comparison_features,
    loop_errors,
    summarise,
)
from techloop.evaluation.metrics.tonality import tonality, tonality_scores
from techloop.evaluation.result import Evaluation, Sound
from techloop.evaluation.training_distances import log_mel_distances
from techloop.grid import Grid
from techloop.metric import Measurement, Metric, by_name
from techloop.models.audio_vae import AudioVAE

BATCH = 16
COMPARED = ("reconstruction", *GUESSES)  # each with the original

LOOPS = Metric("loops", "test loops")
HELD_OUT_LOOPS = Metric("held_out_loops", "test and validation loops")


@torch.inference_mode()
def evaluate_reconstruction(
    vae: AudioVAE,
    train: LoopDataset,
    held_out: LoopDataset,
    *,
    loops_used: int,
    examples: int,
    seed: int,
) -> Evaluation:
    """How far the audio VAE's reconstructions, from posterior means, are from their originals.

    Errors and tonality are of test loops. Three guesses make the numbers readable, as baselines:
    silence, noise with the average spectrum of the loops, and another test loop. Distances of the
    reconstructions' distribution to that of all training loops are of validation and test loops
    together, with their originals as the baseline `real`.

    Args:
        vae: the audio VAE.
        train: the training split.
        held_out: what to reconstruct: the validation and test splits.
        loops_used: at most this many of the latter, sampled by `seed`.
        examples: loops to hear and see, evenly spaced from best to worst; fewer if there are fewer.
        seed: of the sample of loops, of the noise and of the bootstrap.

    Returns:
        `fidelity.METRICS`; `tonality.METRICS` and the distances of `log_mel_distances`, with 95 %
        intervals by bootstrap over loops. Arrays of mel levels in dB of the examples
        (`original_db`, `reconstruction_db`: examples, bands, frames), of the mean absolute error
        per mel band (`band_error_<compared>_db`) and of the tonality of each test loop
        (`tonality_original`, `tonality_reconstruction`; nan where nothing is audible); both sounds
        of each example.

    Raises:
        ValueError: fewer than two training or test loops, or loops of another grid than the
            model's.
    """
    grid, rng = held_out.grid, np.random.default_rng(seed)
    if not grid == train.grid == vae.grid:
        raise ValueError(f"the loops are on {grid}, the audio VAE on {vae.grid}")
    rows = rng.permutation(len(held_out))[:loops_used]
    tested = (held_out.index["split"] == "test").to_numpy()[rows]
    if min(tested.sum(), len(train)) < 2:
        raise ValueError(
            f"{held_out.folder}: a comparison of loops takes two or more; {tested.sum()} of the "
            f"{len(rows)} loops that are asked for are in the test split, and {len(train)} in the "
            "training split"
        )
    everything = torch.from_numpy(held_out.audio(rows))
    decoded = _reconstruct(vae, everything, seed)
    x, y, rows_of_x = everything[tested], decoded[tested], rows[tested]
    mel, errors, tonal = _compare(grid, x, y, spectrum_noise(x, rng))

    error_db = errors["reconstruction"]["log_mel_l1_db"].numpy()
    ranks = np.linspace(0, len(x) - 1, min(examples, len(x))).round().astype(int)
    chosen = np.argsort(error_db, kind="stable")[ranks]
    sounds = [
        Sound(
            f"{rank.replace(' ', '-')}-{kind}.wav",
            audio[i].numpy(),
            {
                "rank": rank,
                "kind": kind,
                "name": held_out.index["name"][rows_of_x[i]],
                "log_mel_l1_db": float(error_db[i]),
            },
        )
        for rank, i in zip(rank_names(ranks, len(x)), chosen, strict=True)
        for kind, audio in (("original", x), ("reconstruction", y))
    ]
    arrays = {
        f"band_error_{compared}_db": (mel[compared] - mel["original"]).abs().mean((0, 2)).numpy()
        for compared in COMPARED
    }
    arrays |= {f"{kind}_db": mel[kind][chosen].numpy() for kind in ("original", "reconstruction")}
    arrays |= {f"tonality_{kind}": tonal[kind] for kind in ("original", "reconstruction")}
    facts = {
        "loops": len(x),
        "beats": grid.beats,
        "mel_range_hz": mel_range_hz(grid),
    }
    metrics = by_name(
        LOOPS.measured(float(len(x))),
        HELD_OUT_LOOPS.measured(float(len(everything))),
        *_error_measurements(errors),
        *_tonality_measurements(tonal, seed),
        *_distance_measurements(train, everything.numpy(), decoded.numpy(), seed),
    )
    return Evaluation(metrics, arrays, facts, sounds=tuple(sounds))


def spectrum_noise(
    x: Float[Tensor, "n samples"], rng: np.random.Generator
) -> Float[Tensor, "n samples"]:
    """Stationary circular noise, as many loops as `x`, with the mean power spectrum of `x`."""
    amplitude = torch.fft.rfft(x).abs().square().mean(0).sqrt()
    phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, (len(x), len(amplitude)))).float()
    noise: Tensor = torch.fft.irfft(torch.polar(amplitude.expand_as(phase), phase), n=x.shape[1])
    return noise


def rank_names(ranks: Int[np.ndarray, " examples"], n: int) -> list[str]:
    """A different name for each rank among `n` loops: best, median, worst, else its number."""
    middle = next((int(rank) for rank in ranks if rank in ((n - 1) // 2, n // 2)), -1)
    named = {middle: "median", n - 1: "worst", 0: "best"}
    return [named.get(int(rank), f"rank {rank + 1} of {n}") for rank in ranks]


def _reconstruct(
    vae: AudioVAE, x: Float[Tensor, "n samples"], seed: int
) -> Float[Tensor, "n samples"]:
    """Loops from posterior means; `seed` is that of the decoder's noise."""
    generator = torch.Generator().manual_seed(seed)
    parts = tqdm(x.split(BATCH), "reconstruct")
    return torch.cat([vae.reconstruct(audio, generator) for audio in parts])


def _compare(
    grid: Grid,
    x: Float[Tensor, "n samples"],
    y: Float[Tensor, "n samples"],
    noise: Float[Tensor, "n samples"],
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, np.ndarray]]:
    """Mel levels of originals and all `COMPARED`, `loop_errors` of these, and tonality."""
    silence = comparison_features(torch.zeros_like(x[:1]), grid)
    mels: dict[str, list[Tensor]] = defaultdict(list)
    errors: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
    tonal: dict[str, list[Tensor]] = defaultdict(list)
    batches = -(-len(x) // BATCH)  # of nearly equal size: each has another loop to compare with
    split = (audio.tensor_split(batches) for audio in (x, y, noise))
    for audio, decoded, noise_audio in tqdm(
        zip(*split, strict=True), "compare", total=batches, leave=False
    ):
        original = comparison_features(audio, grid)
        guesses = {
            "reconstruction": comparison_features(decoded, grid),
            "silence": {k: v.expand(len(audio), *v.shape[1:]) for k, v in silence.items()},
            "noise": comparison_features(noise_audio, grid),
            "other_loop": {k: v.roll(1, 0) for k, v in original.items()},
        }
        mels["original"].append(original["log_mel_l1_db"])
        for compared, guess in guesses.items():
            errors[compared].append(loop_errors(original, guess))
            mels[compared].append(guess["log_mel_l1_db"])
        tonal["original"].append(tonality(audio, grid))
        tonal["other_loop"].append(tonal["original"][-1].roll(1))
        tonal["reconstruction"].append(tonality(decoded, grid))
        tonal["noise"].append(tonality(noise_audio, grid))
    joined = {
        compared: {name: torch.cat([batch[name] for batch in parts]) for name in parts[0]}
        for compared, parts in errors.items()
    }
    return (
        {compared: torch.cat(levels) for compared, levels in mels.items()},
        joined,
        {kind: torch.cat(values).numpy() for kind, values in tonal.items()},
    )


def _error_measurements(errors: Mapping[str, Mapping[str, Tensor]]) -> list[Measurement]:
    """`fidelity.METRICS` of the reconstructions, beside those of each guess."""
    values = {compared: summarise(errors[compared]) for compared in COMPARED}
    return [
        metric.measured(
            values["reconstruction"][metric.name],
            None,
            **{guess: values[guess][metric.name] for guess in GUESSES},
        )
        for metric in METRICS
    ]


def _tonality_measurements(tonal: Mapping[str, np.ndarray], seed: int) -> list[Measurement]:
    """`tonality.METRICS` of the reconstructions, beside those of two guesses and the originals."""
    scores = {
        compared: tonality_scores(tonal["original"], values, seed=seed)
        for compared, values in tonal.items()
    }
    return [
        metric.measured(
            estimate.value,
            estimate.interval,
            **{guess: scores[guess][metric].value for guess in metric.baselines},
        )
        for metric, estimate in scores["reconstruction"].items()
    ]


def _distance_measurements(
    train: LoopDataset,
    original: Float[np.ndarray, "n samples"],
    reconstruction: Float[np.ndarray, "n samples"],
    seed: int,
) -> list[Measurement]:
    """Distances to all training loops, beside those of the originals."""
    distances = log_mel_distances(train, min(len(original), len(train)), seed=seed)
    real, own = (
        distances(log_mel_statistics(audio, train.grid), seed=seed)
        for audio in (original, reconstruction)
    )
    return [
        metric.measured(estimate.value, estimate.interval, real=real[metric].value)
        for metric, estimate in own.items()
    ]

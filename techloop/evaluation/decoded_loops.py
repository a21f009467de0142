"""Held-out loops through one or several decoders, measured beside guesses that know less.

The steps of `techloop.evaluation.judge`. Loops go by names here: `original`, those of the decoders,
and `GUESSES`. One decoder is judged; whatever else a metric declares as a baseline is measured
beside it.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.evaluation.metrics.fidelity import (
    METRICS,
    comparison_features,
    loop_errors,
    summarise,
)
from techloop.evaluation.metrics.tonality import tonality, tonality_scores
from techloop.evaluation.result import Sound
from techloop.evaluation.training_distances import TrainingDistances
from techloop.grid import Grid
from techloop.metric import Measurement
from techloop.models.audio_vae import AudioVAE

BATCH = 16


class HeldOut(NamedTuple):
    """A sample of the validation and test splits.

    Attributes:
        audio: its loops.
        names: what each is called.
        tested: which are in the test split. Errors are of these alone.
    """

    audio: Float[Tensor, "n samples"]
    names: np.ndarray
    tested: Bool[np.ndarray, " n"]


class Comparison(NamedTuple):
    """What is known of test loops, of the same loops through each decoder, and of each guess.

    Attributes:
        mel: mel levels in dB by name, `(n, mels, frames)`.
        errors: `loop_errors` by name, without the originals.
        tonality: of each loop by name, without silence; nan where nothing is audible.
    """

    mel: Mapping[str, Tensor]
    errors: Mapping[str, Mapping[str, Tensor]]
    tonality: Mapping[str, np.ndarray]


def sample_held_out(
    vae: AudioVAE,
    train: LoopDataset,
    held_out: LoopDataset,
    loops_used: int,
    rng: np.random.Generator,
) -> HeldOut:
    """At most `loops_used` loops of the validation and test splits.

    Raises:
        ValueError: fewer than two training or test loops, or loops of another grid than the
            model's.
    """
    if not held_out.grid == train.grid == vae.grid:
        raise ValueError(f"the loops are on {held_out.grid}, the audio VAE on {vae.grid}")
    rows = rng.permutation(len(held_out))[:loops_used]
    tested = (held_out.index["split"] == "test").to_numpy()[rows]
    if min(tested.sum(), len(train)) < 2:
        raise ValueError(
            f"{held_out.folder}: a comparison of loops takes two or more; {tested.sum()} of the "
            f"{len(rows)} loops that are asked for are in the test split, and {len(train)} in the "
            "training split"
        )
    audio = torch.from_numpy(held_out.audio(rows))
    return HeldOut(audio, held_out.index["name"].to_numpy()[rows], tested)


def decode_loops(
    vaes: Mapping[str, AudioVAE], x: Float[Tensor, "n samples"], seed: int
) -> dict[str, Float[Tensor, "n samples"]]:
    """Loops from the posterior means of the first audio VAE, through the decoder of each.

    Args:
        vaes: by name. All decode the same latents with the same noise.
        x: the loops.
        seed: of the noise.

    Raises:
        ValueError: one of the others has another encoder than the first.
    """
    first, generator = next(iter(vaes.values())), torch.Generator().manual_seed(seed)
    device = next(first.parameters()).device
    for other in list(vaes.values())[1:]:
        _check_same_latents(first, other, x[:1].to(device))
    parts: dict[str, list[Tensor]] = {name: [] for name in vaes}
    for audio in tqdm(x.split(BATCH), "reconstruct"):
        mu, _ = first.encode(audio.to(device))
        noise = first.draw_noise(mu, generator)
        for name, vae in vaes.items():
            parts[name].append(vae.decode(mu, noise).cpu())
    return {name: torch.cat(decoded) for name, decoded in parts.items()}


def _check_same_latents(before: AudioVAE, after: AudioVAE, x: Tensor) -> None:
    """Refuse a decoder that was tuned from another audio VAE."""
    if (
        before.grid != after.grid
        or before.latent_dim != after.latent_dim
        or not torch.equal(before.encode(x)[0], after.encode(x)[0])
    ):
        raise ValueError(
            "the fine-tuned decoder belongs to another audio VAE: the two encode a loop to "
            "different latents. `dvc repro` tunes it anew."
        )


def spectrum_noise(
    x: Float[Tensor, "n samples"], rng: np.random.Generator
) -> Float[Tensor, "n samples"]:
    """Stationary circular noise, as many loops as `x`, with the mean power spectrum of `x`."""
    amplitude = torch.fft.rfft(x).abs().square().mean(0).sqrt()
    phase = torch.from_numpy(rng.uniform(0, 2 * np.pi, (len(x), len(amplitude)))).float()
    noise: Tensor = torch.fft.irfft(torch.polar(amplitude.expand_as(phase), phase), n=x.shape[1])
    return noise


def compare(
    grid: Grid,
    original: Float[Tensor, "n samples"],
    decoded: Mapping[str, Float[Tensor, "n samples"]],
    noise: Float[Tensor, "n samples"],
) -> Comparison:
    """Levels, errors and tonality of originals, decoded loops and guesses.

    Args:
        grid: of the loops.
        original: the loops as they are.
        decoded: the same loops by name of the decoder.
        noise: see `spectrum_noise`.
    """
    silence = comparison_features(torch.zeros_like(original[:1]), grid)
    mel: dict[str, list[Tensor]] = defaultdict(list)
    errors: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
    tonal: dict[str, list[Tensor]] = defaultdict(list)
    batches = -(-len(original) // BATCH)  # of nearly equal size: each has another loop to compare
    sources = {"original": original, **decoded, "noise": noise}
    split = (audio.tensor_split(batches) for audio in sources.values())
    for parts in tqdm(zip(*split, strict=True), "compare", total=batches, leave=False):
        batch = dict(zip(sources, parts, strict=True))
        features = {name: comparison_features(audio, grid) for name, audio in batch.items()}
        own = features["original"]
        n = len(batch["original"])
        features["silence"] = {k: v.expand(n, *v.shape[1:]) for k, v in silence.items()}
        features["other_loop"] = {k: v.roll(1, 0) for k, v in own.items()}
        for name, values in features.items():
            mel[name].append(values["log_mel_l1_db"])
            if name != "original":
                errors[name].append(loop_errors(own, values))
        for name, audio in batch.items():
            tonal[name].append(tonality(audio, grid))
        tonal["other_loop"].append(tonal["original"][-1].roll(1))
    return Comparison(
        {name: torch.cat(levels) for name, levels in mel.items()},
        {
            name: {key: torch.cat([batch[key] for batch in parts]) for key in parts[0]}
            for name, parts in errors.items()
        },
        {name: torch.cat(values).numpy() for name, values in tonal.items()},
    )


def band_errors_db(mel: Mapping[str, Tensor]) -> dict[str, Float[np.ndarray, " mels"]]:
    """Arrays `band_error_<name>_db`: mean absolute error of each mel band, in dB."""
    return {
        f"band_error_{name}_db": (levels - mel["original"]).abs().mean((0, 2)).numpy()
        for name, levels in mel.items()
        if name != "original"
    }


def error_measurements(
    errors: Mapping[str, Mapping[str, Tensor]], judged: str
) -> list[Measurement]:
    """`fidelity.METRICS` of one of those compared, beside its baselines among the others."""
    values = {name: summarise(of) for name, of in errors.items()}
    return [
        metric.measured(
            values[judged][metric.name],
            None,
            **{name: of[metric.name] for name, of in values.items() if name in metric.baselines},
        )
        for metric in METRICS
    ]


def tonality_measurements(
    tonal: Mapping[str, Float[np.ndarray, " n"]], judged: str, seed: int
) -> list[Measurement]:
    """`tonality.METRICS` of one of those compared, beside its baselines among the others."""
    scores = {
        name: tonality_scores(tonal["original"], values, seed=seed)
        for name, values in tonal.items()
    }
    return [
        metric.measured(
            estimate.value,
            estimate.interval,
            **{name: of[metric].value for name, of in scores.items() if name in metric.baselines},
        )
        for metric, estimate in scores[judged].items()
    ]


def distance_measurements(
    distances: TrainingDistances,
    points: Mapping[str, Float[np.ndarray, "n d"]],
    judged: str,
    seed: int,
) -> list[Measurement]:
    """Distances to all training loops of some embedded loops, beside those of all the others.

    Args:
        distances: to the training loops.
        points: embedded loops; by baseline, but for those to judge.
        judged: the name of these.
        seed: of the bootstrap.
    """
    estimates = {name: distances(of, seed=seed) for name, of in points.items()}
    return [
        metric.measured(
            own.value,
            own.interval,
            **{name: of[metric].value for name, of in estimates.items() if name != judged},
        )
        for metric, own in estimates[judged].items()
    ]


def examples_by_error(error_db: Float[np.ndarray, " n"], examples: int) -> dict[str, int]:
    """Loops evenly spaced from the best to the worst, by the name of their rank.

    Args:
        error_db: of each loop.
        examples: how many; fewer if there are fewer loops.
    """
    n = len(error_db)
    ranks = np.linspace(0, n - 1, min(examples, n)).round().astype(int)
    rows = np.argsort(error_db, kind="stable")[ranks]
    return dict(zip(rank_names(ranks, n), map(int, rows), strict=True))


def rank_names(ranks: Int[np.ndarray, " examples"], n: int) -> list[str]:
    """A different name for each rank among `n` loops: best, median, worst, else its number."""
    middle = next((int(rank) for rank in ranks if rank in ((n - 1) // 2, n // 2)), -1)
    named = {middle: "median", n - 1: "worst", 0: "best"}
    return [named.get(int(rank), f"rank {rank + 1} of {n}") for rank in ranks]


def loop_sounds(
    example: str,
    row: int,
    name: str,
    audio: Mapping[str, Float[Tensor, "n samples"]],
    errors: Mapping[str, Mapping[str, Tensor]],
) -> list[Sound]:
    """A test loop as it is and through each decoder.

    Args:
        example: what the loop is an example of, for the names of its files.
        row: of the loop.
        name: of the loop.
        audio: the originals, then the same loops by name of the decoder.
        errors: `loop_errors` by name.

    Returns:
        Sounds whose facts are `example`, `kind` (the name of the decoder, or `original`), `name`
        and, of a decoder, its log-mel error of the loop, `log_mel_l1_db`.
    """
    sounds = []
    for kind, loops in audio.items():
        facts: dict[str, object] = {"example": example, "kind": kind, "name": name}
        if kind in errors:
            facts["log_mel_l1_db"] = float(errors[kind]["log_mel_l1_db"][row])
        file = f"{example.replace(' ', '-')}-{kind}.wav"
        sounds.append(Sound(file, loops[row].numpy(), facts))
    return sounds

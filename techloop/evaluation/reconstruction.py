"""What the audio VAE preserves of a loop, beside guesses that know less."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from techloop.data.datasets import LoopDataset
from techloop.evaluation.features import mel_range_hz
from techloop.evaluation.metrics.fidelity import (
    GUESSES,
    METRICS,
    comparison_features,
    loop_errors,
    summarise,
)
from techloop.evaluation.result import Evaluation, Sound
from techloop.metric import Measurement, Metric, by_name
from techloop.models.audio_vae import AudioVAE

BATCH = 16
COMPARED = ("reconstruction", *GUESSES)  # each with the original

LOOPS = Metric("loops", "loops")


@torch.inference_mode()
def evaluate_reconstruction(
    vae: AudioVAE, loops: LoopDataset, *, loops_used: int, examples: int, seed: int
) -> Evaluation:
    """How far the audio VAE's reconstructions, from posterior means, are from their originals.

    Three guesses make the numbers readable, as baselines: silence, noise with the average spectrum
    of the loops, and another loop of the same split.

    Args:
        vae: the audio VAE.
        loops: what to reconstruct: the test split.
        loops_used: at most this many loops, sampled by `seed`.
        examples: loops to hear and see, evenly spaced from best to worst; fewer if there are fewer.
        seed: of the sample of loops and of the noise.

    Returns:
        `fidelity.METRICS`; arrays of mel levels in dB of the examples (`original_db`,
        `reconstruction_db`: examples, bands, frames) and of the mean absolute error per mel band
        (`band_error_<compared>_db`); both sounds of each example.

    Raises:
        ValueError: fewer than two loops, or loops of another grid than the model's.
    """
    if min(len(loops), loops_used) < 2:
        raise ValueError(
            f"{loops.folder}: a comparison of loops takes two or more; the split has {len(loops)}, "
            f"and {loops_used} are asked for"
        )
    if loops.grid != vae.grid:
        raise ValueError(f"the loops are on {loops.grid}, the audio VAE on {vae.grid}")
    grid, rng = loops.grid, np.random.default_rng(seed)
    rows = rng.permutation(len(loops))[:loops_used]
    x = torch.from_numpy(loops.audio(rows))
    y, mel, errors = _compare(vae, x, spectrum_noise(x, rng))

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
                "name": loops.index["name"][rows[i]],
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
    facts = {
        "loops": len(x),
        "beats": grid.beats,
        "mel_range_hz": mel_range_hz(grid),
    }
    metrics = by_name(LOOPS.measured(float(len(x))), *_measurements(errors))
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


def _compare(
    vae: AudioVAE, x: Float[Tensor, "n samples"], noise: Float[Tensor, "n samples"]
) -> tuple[Float[Tensor, "n samples"], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Reconstructions; mel levels of originals and all `COMPARED`; `loop_errors` of these."""
    silence = comparison_features(torch.zeros_like(x[:1]), vae.grid)
    decoded: list[Tensor] = []
    mels: dict[str, list[Tensor]] = defaultdict(list)
    errors: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
    batches = -(-len(x) // BATCH)  # of nearly equal size: each has another loop to compare with
    for audio, noise_audio in tqdm(
        zip(x.tensor_split(batches), noise.tensor_split(batches), strict=True),
        "reconstruct",
        total=batches,
    ):
        decoded.append(vae.decode(vae.encode(audio)[0]))
        original = comparison_features(audio, vae.grid)
        guesses = {
            "reconstruction": comparison_features(decoded[-1], vae.grid),
            "silence": {k: v.expand(len(audio), *v.shape[1:]) for k, v in silence.items()},
            "noise": comparison_features(noise_audio, vae.grid),
            "other_loop": {k: v.roll(1, 0) for k, v in original.items()},
        }
        mels["original"].append(original["log_mel_l1_db"])
        for compared, guess in guesses.items():
            errors[compared].append(loop_errors(original, guess))
            mels[compared].append(guess["log_mel_l1_db"])
    mel = {compared: torch.cat(levels) for compared, levels in mels.items()}
    joined = {
        compared: {name: torch.cat([batch[name] for batch in parts]) for name in parts[0]}
        for compared, parts in errors.items()
    }
    return torch.cat(decoded), mel, joined


def _measurements(errors: Mapping[str, Mapping[str, Tensor]]) -> list[Measurement]:
    """`METRICS` of the reconstructions, beside those of each guess."""
    values = {compared: summarise(errors[compared]) for compared in COMPARED}
    return [
        metric.measured(
            values["reconstruction"][metric.name],
            None,
            **{guess: values[guess][metric.name] for guess in GUESSES},
        )
        for metric in METRICS
    ]

"""What the audio VAE preserves of a loop, beside guesses that know less."""

import torch

from techloop.data.datasets import LoopDataset
from techloop.evaluation.judge import judge
from techloop.evaluation.result import Evaluation
from techloop.metric import by_name
from techloop.models.audio_vae import AudioVAE

JUDGED = "reconstruction"


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
    judged = judge(
        {JUDGED: vae},
        JUDGED,
        train,
        held_out,
        loops_used=loops_used,
        examples=examples,
        seed=seed,
    )
    return Evaluation(
        by_name(*judged.metrics),
        judged.arrays(),
        judged.facts(),
        sounds=judged.sounds(judged.examples),
    )

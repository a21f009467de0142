"""What the audio VAE preserves of a loop, beside guesses that know less."""

import numpy as np
import torch

from techloop.data.datasets import LoopDataset
from techloop.evaluation.decoded_loops import (
    HELD_OUT_LOOPS,
    LOOPS,
    band_errors_db,
    compare,
    decode_loops,
    distance_measurements,
    error_measurements,
    examples_by_error,
    loop_sounds,
    sample_held_out,
    spectrum_noise,
    tonality_measurements,
)
from techloop.evaluation.features import log_mel_statistics, mel_range_hz
from techloop.evaluation.result import Evaluation
from techloop.evaluation.training_distances import log_mel_distances
from techloop.metric import by_name
from techloop.models.audio_vae import AudioVAE

JUDGED = "reconstruction"
SHOWN = ("original", JUDGED)


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
    grid, rng = vae.grid, np.random.default_rng(seed)
    sample = sample_held_out(vae, train, held_out, loops_used, rng)
    decoded = decode_loops({JUDGED: vae}, sample.audio, seed)
    audio = {
        name: loops[sample.tested] for name, loops in {"original": sample.audio, **decoded}.items()
    }
    x, names = audio["original"], sample.names[sample.tested]
    mel, errors, tonal = compare(grid, x, {JUDGED: audio[JUDGED]}, spectrum_noise(x, rng))
    chosen = examples_by_error(errors[JUDGED]["log_mel_l1_db"].numpy(), examples)

    distances = log_mel_distances(train, min(len(sample.audio), len(train)), seed=seed)
    points = {
        name: log_mel_statistics(loops.numpy(), grid)
        for name, loops in (("real", sample.audio), (JUDGED, decoded[JUDGED]))
    }
    metrics = by_name(
        LOOPS.measured(float(len(x))),
        HELD_OUT_LOOPS.measured(float(len(sample.audio))),
        *error_measurements(errors, JUDGED),
        *tonality_measurements(tonal, JUDGED, seed),
        *distance_measurements(distances, points, JUDGED, seed),
    )
    arrays = band_errors_db(mel)
    arrays |= {f"{kind}_db": mel[kind][list(chosen.values())].numpy() for kind in SHOWN}
    arrays |= {f"tonality_{kind}": tonal[kind] for kind in SHOWN}
    facts = {"loops": len(x), "beats": grid.beats, "mel_range_hz": mel_range_hz(grid)}
    sounds = [
        sound
        for example, row in chosen.items()
        for sound in loop_sounds(example, row, names[row], audio, errors)
    ]
    return Evaluation(metrics, arrays, facts, sounds=tuple(sounds))

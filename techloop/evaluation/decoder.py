"""What fine-tuning changed of the decoder: the same latents and noise, through both decoders."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
import torch

from techloop.data.datasets import LoopDataset
from techloop.evaluation.close_ups import choose_close_ups, close_up_db
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
from techloop.evaluation.metrics.bootstrap import Estimate
from techloop.evaluation.metrics.fidelity import FINE_STRUCTURE, MULTI_LIN, MULTI_LOG
from techloop.evaluation.metrics.tonality import TONALITY_CORRELATION
from techloop.evaluation.paired import paired_errors, paired_tonality
from techloop.evaluation.result import Evaluation
from techloop.evaluation.training_distances import (
    FRECHET_LOG_MEL,
    KERNEL_LOG_MEL,
    log_mel_distances,
)
from techloop.metric import Measurement, Metric, by_name
from techloop.models.audio_vae import AudioVAE

BEFORE, AFTER = "before", "after"
SHOWN = ("original", BEFORE, AFTER)
HEADLINES = (
    MULTI_LOG,
    MULTI_LIN,
    FINE_STRUCTURE,
    TONALITY_CORRELATION,
    FRECHET_LOG_MEL,
    KERNEL_LOG_MEL,
)


def change_of(metric: Metric) -> Metric:
    """The metric of what fine-tuning changed of a metric: after less before, in pairs."""
    return replace(
        metric, name=f"change_{metric.name}", label=f"change: {metric.label}", baselines=()
    )


@torch.inference_mode()
def evaluate_decoder(
    before: AudioVAE,
    after: AudioVAE,
    train: LoopDataset,
    held_out: LoopDataset,
    *,
    loops_used: int,
    examples: int,
    seed: int,
) -> Evaluation:
    """How far a fine-tuned decoder's loops are from their originals, and what tuning changed.

    Both decoders play the posterior means of the same loops with the same noise. What is measured
    is that of `evaluate_reconstruction`, for the tuned decoder; the untuned one is the baseline
    `before`.

    Args:
        before: the audio VAE as it was trained.
        after: the same with a fine-tuned decoder.
        train: the training split.
        held_out: what to reconstruct: the validation and test splits.
        loops_used: at most this many of the latter, sampled by `seed`.
        examples: loops to hear and see, evenly spaced from best to worst by the tuned decoder's
            log-mel error; fewer if there are fewer.
        seed: of the sample of loops, of the noise and of the bootstrap.

    Returns:
        The metrics of `evaluate_reconstruction`, and `change_of` each of the `HEADLINES`: after
        less before, with 95 % intervals by a paired bootstrap over loops. Arrays of mel levels in
        dB of the examples (`<kind>_db`: examples, bands, frames; kinds are `original`, `before`
        and `after`), of the mean absolute error per mel band (`band_error_<compared>_db`), of the
        tonality of each test loop (`tonality_<kind>`), and of STFT levels in dB of the close-ups
        (`close_up_<what>_db`: the three kinds, bins, columns; see `choose_close_ups`). All three
        sounds of each example and of each loop of a close-up.

    Raises:
        ValueError: the two have different encoders, fewer than two training or test loops, or loops
            of another grid than the models'.
    """
    grid, rng = before.grid, np.random.default_rng(seed)
    sample = sample_held_out(before, train, held_out, loops_used, rng)
    _check_same_latents(before, after, sample.audio[:1])
    decoded = decode_loops({BEFORE: before, AFTER: after}, sample.audio, seed)
    audio = {
        name: loops[sample.tested] for name, loops in {"original": sample.audio, **decoded}.items()
    }
    x, names = audio["original"], sample.names[sample.tested]
    mel, errors, tonal = compare(
        grid, x, {name: audio[name] for name in decoded}, spectrum_noise(x, rng)
    )
    chosen = examples_by_error(errors[AFTER]["log_mel_l1_db"].numpy(), examples)
    views = choose_close_ups(x, tonal["original"], grid)

    distances = log_mel_distances(train, min(len(sample.audio), len(train)), seed=seed)
    points = {
        name: log_mel_statistics(loops.numpy(), grid)
        for name, loops in {"real": sample.audio, **decoded}.items()
    }
    changes = {
        **paired_errors(errors[BEFORE], errors[AFTER], seed=seed),
        **paired_tonality(tonal["original"], tonal[BEFORE], tonal[AFTER], seed=seed),
        **distances.paired(points[BEFORE], points[AFTER], seed=seed),
    }
    metrics = by_name(
        LOOPS.measured(float(len(x))),
        HELD_OUT_LOOPS.measured(float(len(sample.audio))),
        *_change_measurements(changes),
        *error_measurements(errors, AFTER),
        *tonality_measurements(tonal, AFTER, seed),
        *distance_measurements(distances, points, AFTER, seed),
    )
    arrays = band_errors_db(mel)
    arrays |= {f"{kind}_db": mel[kind][list(chosen.values())].numpy() for kind in SHOWN}
    arrays |= {f"tonality_{kind}": tonal[kind] for kind in SHOWN}
    for view in views:
        loop = torch.stack([audio[kind][view.row] for kind in SHOWN])
        arrays[f"close_up_{view.kind}_db"] = close_up_db(loop, view, grid)
    facts = {
        "loops": len(x),
        "beats": grid.beats,
        "mel_range_hz": mel_range_hz(grid),
        "samples_per_beat": grid.samples / grid.beats,
        "close_ups": [
            {
                **asdict(view),
                "name": names[view.row],
                "tonality": {kind: float(tonal[kind][view.row]) for kind in SHOWN},
            }
            for view in views
        ],
    }
    shown = chosen | {view.kind: view.row for view in views}
    sounds = [
        sound
        for example, row in shown.items()
        for sound in loop_sounds(example, row, names[row], audio, errors)
    ]
    return Evaluation(metrics, arrays, facts, sounds=tuple(sounds))


def _check_same_latents(before: AudioVAE, after: AudioVAE, x: torch.Tensor) -> None:
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


def _change_measurements(changes: Mapping[Metric, Estimate]) -> list[Measurement]:
    return [
        change_of(metric).measured(changes[metric].value, changes[metric].interval)
        for metric in HEADLINES
    ]

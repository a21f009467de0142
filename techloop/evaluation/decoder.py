"""What fine-tuning changed of the decoder: the same latents and noise, through both decoders."""

from collections.abc import Mapping
from dataclasses import asdict, replace

import torch

from techloop.data.datasets import LoopDataset
from techloop.evaluation.close_ups import choose_close_ups, close_up_db
from techloop.evaluation.judge import judge
from techloop.evaluation.metrics.bootstrap import Estimate
from techloop.evaluation.metrics.fidelity import FINE_STRUCTURE, MULTI_LIN, MULTI_LOG
from techloop.evaluation.metrics.tonality import TONALITY_CORRELATION
from techloop.evaluation.paired import paired_errors, paired_tonality
from techloop.evaluation.result import Evaluation
from techloop.evaluation.training_distances import FRECHET_LOG_MEL, KERNEL_LOG_MEL
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
    judged = judge(
        {BEFORE: before, AFTER: after},
        AFTER,
        train,
        held_out,
        loops_used=loops_used,
        examples=examples,
        seed=seed,
    )
    grid, audio, points = judged.grid, judged.audio, judged.points
    errors, tonal = judged.comparison.errors, judged.comparison.tonality
    changes = {
        **paired_errors(errors[BEFORE], errors[AFTER], seed=seed),
        **paired_tonality(tonal["original"], tonal[BEFORE], tonal[AFTER], seed=seed),
        **judged.distances.paired(points[BEFORE], points[AFTER], seed=seed),
    }
    loops, held_out_loops, *measured = judged.metrics
    metrics = by_name(loops, held_out_loops, *_change_measurements(changes), *measured)
    views = choose_close_ups(audio["original"], tonal["original"], grid)
    arrays = judged.arrays()
    for view in views:
        loop = torch.stack([audio[kind][view.row] for kind in SHOWN])
        arrays[f"close_up_{view.kind}_db"] = close_up_db(loop, view, grid)
    facts = judged.facts() | {
        "samples_per_beat": grid.samples / grid.beats,
        "close_ups": [
            {
                **asdict(view),
                "name": judged.names[view.row],
                "tonality": {kind: float(tonal[kind][view.row]) for kind in SHOWN},
            }
            for view in views
        ],
    }
    shown = {**judged.examples, **{view.kind: view.row for view in views}}
    return Evaluation(metrics, arrays, facts, sounds=judged.sounds(shown))


def _change_measurements(changes: Mapping[Metric, Estimate]) -> list[Measurement]:
    return [
        change_of(metric).measured(changes[metric].value, changes[metric].interval)
        for metric in HEADLINES
    ]

"""Pictures and sounds of what fine-tuning changed of the decoder: original, before and after."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from techloop.artifacts import read_json
from techloop.evaluation.result import read_arrays
from techloop.metric import read_metrics
from techloop.reporting.close_up_plot import close_up
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.numbers import format_number
from techloop.reporting.plots import band_errors, paired_scatter, spectrogram_grid

KINDS = {  # of sounds and arrays, and what they are called
    "original": "original",
    "before": "before fine-tuning",
    "after": "after fine-tuning",
}
LINES = {"after": KINDS["after"], "before": KINDS["before"], "other_loop": "another loop"}
CLOSE_UPS = {  # by what was chosen: a title, and what to look for
    "noise": (
        "Noise, close up",
        "the test loop that is noisiest above 3 kHz, in the beat with the most noise there. Noise "
        "is grain without a pattern; lines along time would be a ringing that the original lacks",
    ),
    "tone": (
        "Tones, close up",
        "the test loop that is most tonal above 3 kHz, in the beat where its tones are loudest. A "
        "steady tone is a line along time; haze in its place would be noise",
    ),
    "kick": (
        "A kick, close up",
        "the beat of all test loops with the most power below 150 Hz. The kick's pitch falls as "
        "one bright curve; what is beside it would be heard as roughness",
    ),
}


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """What `evaluate_decoder` left: close-ups, figures of all test loops, and sounds.

    Args:
        folder: of the evaluation.
        pictures: where PNGs go.
    """
    arrays, facts = read_arrays(folder), read_json(folder / "facts.json")
    sounds = read_json(folder / "sounds.json")
    views = facts["close_ups"]
    tuned = [s for s in sounds if s["kind"] == "after" and s["example"] not in CLOSE_UPS]
    titles = [f"{sound['example']} ({sound['log_mel_l1_db']:.1f} dB)" for sound in tuned]
    mel_range_hz = tuple(facts["mel_range_hz"])
    spectrogram_grid(
        pictures / "spectrograms.png",
        np.concatenate([arrays[f"{kind}_db"] for kind in KINDS]),
        [*titles, *[""] * (2 * len(titles))],
        columns=len(titles),
        span=(facts["beats"], "beat"),
        mel_range_hz=mel_range_hz,
        rows=list(KINDS.values()),
    )
    band_errors(
        pictures / "bands.png",
        {label: arrays[f"band_error_{name}_db"] for name, label in LINES.items()},
        mel_range_hz,
    )
    original, before, after = (arrays[f"tonality_{kind}"] for kind in KINDS)
    paired_scatter(
        pictures / "tonality.png",
        original,
        {KINDS["before"]: before, KINDS["after"]: after},
        "tonality of the original",
    )
    points = int(np.isfinite([original, before, after]).all(0).sum())
    correlation = read_metrics(folder / "metrics.json")["tonality_correlation"]
    values = (
        format_number(round(value, 2))
        for value in (correlation.baselines["before"], correlation.value)
    )
    return [
        *(_close_up(view, arrays, facts, pictures) for view in views),
        Exhibit(
            "figure",
            pictures / "tonality.png",
            "Noise or tone, before and after",
            f"Tonality from 3 to 8 kHz of {points} test loops that are audible there, a point per "
            "loop: 0 is noise, 1 a steady tone. On the dashed line, what was decoded is as tonal "
            f"as its original. The correlation is {' before and '.join(values)} after fine-tuning.",
        ),
        Exhibit(
            "figure",
            pictures / "spectrograms.png",
            "Test loops before and after fine-tuning",
            f"Mel spectrograms of {len(tuned)} of {facts['loops']} test loops, from the best to "
            "the worst by log-mel error after fine-tuning (in brackets). Both decoders play the "
            "same latents with the same noise. All panels share one colour scale.",
        ),
        Exhibit(
            "figure",
            pictures / "bands.png",
            "Error by frequency, before and after",
            "Mean absolute difference of mel levels to the original, by band.",
        ),
        *(_sound(folder, sound) for sound in sounds),
    ]


def _close_up(
    view: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    pictures: Path,
) -> Exhibit:
    """One close-up, and where it is."""
    picture = pictures / f"close_up_{view['kind']}.png"
    title, words = CLOSE_UPS[view["kind"]]
    tonality = view["tonality"]
    close_up(
        picture,
        arrays[f"close_up_{view['kind']}_db"],
        [
            label if tonality[kind] is None else f"{label} (tonality {tonality[kind]:.2f})"
            for kind, label in KINDS.items()
        ],
        first_beat=view["start"] / facts["samples_per_beat"],
        beats=view["samples"] / facts["samples_per_beat"],
        beats_in_loop=facts["beats"],
        top_hz=view["top_hz"],
    )
    return Exhibit(
        "figure",
        picture,
        title,
        f"{view['name']}: {words}. Chosen by measurement of the originals. Spectrograms with a "
        f"window of {view['window']} samples, on one colour scale.",
    )


def _sound(folder: Path, sound: Mapping[str, Any]) -> Exhibit:
    """A loop to play, as it is or as a decoder plays it."""
    example, kind = sound["example"], sound["kind"]
    error = "" if kind == "original" else f", log-mel error {sound['log_mel_l1_db']:.1f} dB"
    close = ", seen close up" if example in CLOSE_UPS else ""
    return Exhibit(
        "audio",
        folder / sound["file"],
        f"{example.capitalize()}: {KINDS[kind]}",
        f"{sound['name']}{close}{error}.",
        loop=True,
    )

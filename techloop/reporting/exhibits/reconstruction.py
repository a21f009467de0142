"""Pictures and sounds of how an audio VAE reconstructs the test loops."""

from pathlib import Path

import numpy as np

from techloop.artifacts import read_json
from techloop.evaluation.result import read_arrays
from techloop.metric import read_metrics
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.numbers import format_number
from techloop.reporting.plots import band_errors, paired_scatter, spectrogram_grid

LINES = {  # of the errors by frequency
    "reconstruction": "reconstruction",
    "other_loop": "another loop",
    "noise": "noise of the average spectrum",
}


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """What `evaluate_reconstruction` left, as three figures and the sounds of each example.

    Args:
        folder: of the evaluation.
        pictures: where PNGs go.
    """
    arrays, facts = read_arrays(folder), read_json(folder / "facts.json")
    sounds = read_json(folder / "sounds.json")
    shown = [sound for sound in sounds if sound["kind"] == "reconstruction"]
    titles = [f"{sound['example']} ({sound['log_mel_l1_db']:.1f} dB)" for sound in shown]
    mel_range_hz = tuple(facts["mel_range_hz"])
    spectrograms, bands = pictures / "spectrograms.png", pictures / "bands.png"
    spectrogram_grid(
        spectrograms,
        np.concatenate([arrays["original_db"], arrays["reconstruction_db"]]),
        [*titles, *[""] * len(titles)],
        columns=len(titles),
        span=(facts["beats"], "beat"),
        mel_range_hz=mel_range_hz,
        rows=("original", "reconstruction"),
    )
    band_errors(
        bands,
        {label: arrays[f"band_error_{name}_db"] for name, label in LINES.items()},
        mel_range_hz,
    )
    tonal = pictures / "tonality.png"
    original, reconstruction = (
        arrays[f"tonality_{kind}"] for kind in ("original", "reconstruction")
    )
    paired_scatter(
        tonal, original, {"of its reconstruction": reconstruction}, "tonality of the original"
    )
    points = int((np.isfinite(original) & np.isfinite(reconstruction)).sum())
    correlation = read_metrics(folder / "metrics.json")["tonality_correlation"].value
    return [
        Exhibit(
            "figure",
            spectrograms,
            "Test loops and their reconstructions",
            f"Mel spectrograms of {len(shown)} of {facts['loops']} test loops, from the best to "
            "the worst by log-mel error (in brackets). Above: the original; below: what the audio "
            "VAE makes of its posterior mean. All panels share one colour scale.",
        ),
        Exhibit(
            "figure",
            bands,
            "Reconstruction error by frequency",
            "Mean absolute difference of mel levels to the original, by band, for the "
            "reconstruction and for two guesses that know less.",
        ),
        Exhibit(
            "figure",
            tonal,
            "Noise or tone",
            f"Tonality from 3 to 8 kHz of {points} test loops that are audible there, a point per "
            "loop: 0 is noise, 1 a steady tone. On the dashed line, the reconstruction is as tonal "
            f"as its original. The correlation is {format_number(round(correlation, 2))}.",
        ),
        *(
            Exhibit(
                "audio",
                folder / sound["file"],
                f"{sound['example'].capitalize()}: {sound['kind']}",
                f"{sound['name']}, log-mel error {sound['log_mel_l1_db']:.1f} dB."
                if "log_mel_l1_db" in sound
                else f"{sound['name']}.",
                loop=True,
            )
            for sound in sounds
        ),
    ]

"""Exhibits of `evaluate_generation`: generated loops beside real ones."""

from pathlib import Path

from techloop.artifacts import read_json
from techloop.evaluation.result import read_arrays
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.plots import distance_histogram, scatter, spectrogram_grid

COLUMNS = 4
PLANE = {"training": "training", "held_out": "held out", "generated": "generated"}


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """Spectrograms, distances to training loops, a plane of principal components, and sounds.

    Args:
        folder: what `evaluate_generation` left.
        pictures: gets the PNG files.

    Raises:
        ValueError: the folder is damaged.
    """
    arrays, facts = read_arrays(folder), read_json(folder / "facts.json")
    generated, real = facts["generated_shown"], facts["real_shown"]
    spectrogram_grid(
        pictures / "spectrograms.png",
        arrays["levels_db"],
        [f"generated {i + 1}" for i in range(generated)]
        + [f"real {i + 1}" for i in range(real)]
        + [f"real {i + 1}, through both VAEs" for i in range(real)],
        columns=COLUMNS,
        span=(facts["beats"], "beat"),
        mel_range_hz=tuple(facts["mel_range_hz"]),
    )
    distance_histogram(
        pictures / "nearest.png",
        {"generated": arrays["nearest_generated"], "real held-out loops": arrays["nearest_real"]},
        "distance to the nearest training loop / to the average one",
    )
    scatter(
        pictures / "plane.png",
        {label: arrays[f"plane_{name}"] for name, label in PLANE.items()},
        ("first principal component (dB)", "second principal component (dB)"),
    )
    sounds = read_json(folder / "sounds.json")
    return [
        Exhibit(
            "figure",
            pictures / "spectrograms.png",
            "Generated loops",
            f"Mel spectrograms of the first {generated} loops drawn from the prior, none chosen; "
            f"after them {real} real held-out loops, and these after both VAEs. One colour scale.",
        ),
        Exhibit(
            "figure",
            pictures / "nearest.png",
            "Copies or not",
            f"Distance of {facts['loops']} generated and {facts['real_loops']} real held-out loops "
            f"to the nearest of {facts['training_loops']} training loops, over that to the average "
            "one (mel levels by sixteenth, in the best rotation). A copy is at 0.",
        ),
        Exhibit(
            "figure",
            pictures / "plane.png",
            "Where generated loops lie among real ones",
            "First two principal components of the training loops' log-mel statistics, of as many "
            "loops of each kind.",
        ),
        *(
            Exhibit(
                "audio",
                folder / sound["file"],
                f"Generated {sound['number']}",
                "One loop from the prior.",
                loop=True,
            )
            for sound in sounds
        ),
    ]

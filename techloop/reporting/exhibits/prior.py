"""Exhibits of `evaluate_prior`: loops of the audio VAE without a latent VAE."""

from pathlib import Path

from techloop.artifacts import read_json
from techloop.evaluation.result import read_arrays
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.plots import spectrogram_grid


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """Spectrograms and sounds of loops from smooth and from white frames.

    Args:
        folder: what `evaluate_prior` left.
        pictures: gets the PNG file.

    Raises:
        ValueError: the folder is damaged.
    """
    facts, sounds = read_json(folder / "facts.json"), read_json(folder / "sounds.json")
    shown = facts["examples"]
    spectrogram_grid(
        pictures / "spectrograms.png",
        read_arrays(folder)["levels_db"],
        [f"{kind} frames {i + 1}" for kind in facts["kinds"] for i in range(shown)],
        columns=shown,
        span=(facts["beats"], "beat"),
        mel_range_hz=tuple(facts["mel_range_hz"]),
    )
    figure = Exhibit(
        "figure",
        pictures / "spectrograms.png",
        "The audio VAE alone",
        f"Mel spectrograms of the first {shown} loops drawn of each kind: from smooth frames, a "
        "Gaussian process with the spectrum over time that each dimension has in real loops, and "
        "from white ones, each frame N(0, 1). One colour scale.",
    )
    return [
        figure,
        *(
            Exhibit(
                "audio",
                folder / sound["file"],
                f"{sound['kind'].capitalize()} {sound['number']}",
                f"The audio VAE alone, from {sound['kind']} frames.",
                loop=True,
            )
            for sound in sounds
        ),
    ]

"""Exhibits of `evaluate_smoothness`: interpolations and walks, to see and to hear."""

from pathlib import Path

from techloop.artifacts import read_json
from techloop.evaluation.result import read_arrays
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.plots import descriptor_paths, descriptor_walks, spectrogram_grid

LABELS = {
    "latent": "latent space",
    "spherical": "latent space, arc",
    "audio_vae": "audio VAE's latents",
    "crossfade": "cross-fade",
    "shuffled": "latent space, shuffled",
}
PAIRS_SHOWN = 4


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """Descriptors along paths and walks, a morph beside a cross-fade, and sounds.

    Args:
        folder: what `evaluate_smoothness` left.
        pictures: gets the PNG files.

    Raises:
        ValueError: the folder is damaged.
    """
    arrays, facts = read_arrays(folder), read_json(folder / "facts.json")
    paths, points, walk_loops = facts["paths"], facts["points"], facts["walk_loops"]
    pairs = min(PAIRS_SHOWN, paths)
    descriptors = [f"{of['label']} ({of['unit']})" for of in facts["descriptors"]]
    descriptor_paths(
        pictures / "paths.png",
        {LABELS[name]: arrays[f"path_{name}"][:pairs] for name in facts["interpolations"]},
        descriptors,
        [f"pair {i + 1}" for i in range(pairs)],
    )
    descriptor_walks(pictures / "walks.png", arrays["walks"], descriptors)
    spectrogram_grid(
        pictures / "morph.png",
        arrays["levels_db"],
        ["straight line in the latent space", "linear cross-fade of the same ends"],
        columns=1,
        span=(points, "loop"),
        mel_range_hz=tuple(facts["mel_range_hz"]),
    )
    return [
        Exhibit(
            "figure",
            pictures / "paths.png",
            "Loudness and centroid along interpolations",
            "Between the reconstructions of pairs of test loops, one point per loop; the first of "
            f"{paths} random pairs. All interpolations share their ends; the cross-fade is linear.",
        ),
        Exhibit(
            "figure",
            pictures / "morph.png",
            "A morph and a cross-fade",
            "Mel spectrograms of pair 1 from its first loop to its second: along the straight line "
            "in the latent space, and as a linear cross-fade of the same two ends.",
        ),
        Exhibit(
            "figure",
            pictures / "walks.png",
            "Closed random walks",
            f"Loudness and centroid of each of {walk_loops} loops of {len(arrays['walks'])} smooth "
            "random curves in the latent space that end where they began.",
        ),
        Exhibit(
            "audio",
            folder / "morph.wav",
            "Morph",
            f"The straight line of pair 1, {points} loops, decoded as one piece.",
        ),
        Exhibit(
            "audio",
            folder / "crossfade.wav",
            "Cross-fade",
            "To compare: the same ends, mixed linearly.",
        ),
        Exhibit(
            "audio",
            folder / "walk.wav",
            "Walk",
            f"Walk 1: {walk_loops} loops that close into one.",
            loop=True,
        ),
    ]

"""A picture of what each control of an instrument does."""

from pathlib import Path

from techloop.artifacts import read_json
from techloop.evaluation.result import read_arrays
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.plots import control_gains


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """What `evaluate_controls` left, as one figure; nothing where it found no controls.

    Args:
        folder: of the evaluation.
        pictures: where PNGs go.
    """
    facts = read_json(folder / "facts.json")
    controls, descriptors = facts["controls"], facts["descriptors"]
    if not controls:
        return []
    picture = pictures / "controls.png"
    control_gains(
        picture,
        read_arrays(folder)["relative_gains"],
        list(controls),
        list(descriptors.values()),
        [list(descriptors).index(descriptor) for descriptor in controls.values()],
    )
    return [
        Exhibit(
            "figure",
            picture,
            "What each control does",
            "Change of every loop descriptor by one unit of each control (a standard deviation of "
            "the prior), in standard deviations of real test loops. A frame marks the descriptor "
            f"that a control is meant to raise. Directions learned from {facts['loops']} loops of "
            f"the prior, measured on {facts['probes']} others.",
        )
    ]

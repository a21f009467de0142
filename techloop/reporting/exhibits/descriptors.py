"""Pictures and tables of how latents relate to descriptors and ground-truth factors."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from techloop.artifacts import read_json
from techloop.evaluation.result import read_arrays
from techloop.metric import read_metrics
from techloop.reporting.exhibit import Exhibit
from techloop.reporting.plots import correlation_heatmap, probe_bars


def exhibits(folder: Path, pictures: Path) -> list[Exhibit]:
    """What `evaluate_descriptors` left, as two figures and two tables.

    Args:
        folder: of the evaluation.
        pictures: where PNGs go.
    """
    arrays, facts = read_arrays(folder), read_json(folder / "facts.json")
    metrics = read_metrics(folder / "metrics.json")
    descriptors, factors, loops = facts["descriptors"], facts["factors"], facts["loops"]
    order = readable_order(arrays["spearman"])
    correlations, probes = pictures / "correlations.png", pictures / "probes.png"
    correlation_heatmap(
        correlations,
        arrays["spearman"][order],
        arrays["significant"][order],
        [f"z{d}" for d in order],
        list(descriptors.values()),
        "Spearman correlation",
    )
    panels = {
        "frame descriptors": {
            label: metrics[f"probe_r2_{name}"].value for name, label in descriptors.items()
        }
    }
    if factors:
        panels["ground-truth factors of a loop"] = {
            label: metrics[f"factor_r2_{name}"].value for name, label in factors.items()
        }
    probe_bars(probes, panels)

    dots = (
        "A dot: not significant at a false discovery rate of "
        f"{100 * facts['false_discovery_rate']:g} % (bootstrap over loops, Benjamini-Hochberg)."
        if loops > 2
        else "A dot: not tested, two loops are too few for that."
    )
    explained = (
        "Share of the variance that a ridge regression from the audio VAE's latents explains on "
        f"loops it has not seen ({facts['folds']} folds): of descriptors frame by frame"
    )
    if factors:
        explained += ", and of the synthesiser's own settings from a loop's latents over time"
    if loops < facts["folds"]:
        explained += f". {loops} loops are too few for that"
    return [
        Exhibit(
            "figure",
            correlations,
            "Latent dimensions and acoustic descriptors",
            f"Spearman correlation over the frames of {loops} test loops, dimensions ordered by "
            f"the descriptor each follows most. {dots}",
        ),
        Exhibit("figure", probes, "What a linear probe reads from the latents", f"{explained}."),
        Exhibit(
            "table",
            folder / "correlations.csv",
            "All correlations",
            "With 95 % intervals of the bootstrap over loops; p and its Benjamini-Hochberg "
            "adjustment q are of Spearman's.",
        ),
        Exhibit("table", folder / "probes.csv", "All probes", "Held-out R²."),
    ]


def readable_order(values: Float[np.ndarray, "d k"]) -> list[int]:
    """Dimensions sorted for the eye: by the descriptor each follows most, the strongest first."""
    size = np.abs(np.nan_to_num(values))
    best = size.argmax(1)
    return sorted(range(len(values)), key=lambda d: (best[d], -size[d, best[d]], d))

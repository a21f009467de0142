"""The figure of the study."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from techloop.reporting.plots import BLUE, GREEN, GREY, ORANGE, new_figure


def compression(
    path: str | Path,
    measured: Mapping[tuple[str, str], Mapping[str, np.ndarray]],
    baselines: Mapping[str, Mapping[str, Float[np.ndarray, "n three"]]],
) -> None:
    """What fewer points a loop cost and buy: rate against distance, smoothness, coverage.

    Args:
        path: the PNG to write.
        measured: by regulariser and objective: `length` `(n,)`, and `(n, 3)` (mean, lowest, highest
            over seeds) `rate_nats_per_loop`, `decoded_distance`, `smoothness`, `midpoint`,
            `coverage`, `standard_coverage`.
        baselines: by `smoothness`, `midpoint` and `coverage`, named values `(n, 3)` of the same
            kind, a row for each of all lengths, to draw as grey bands.
    """
    regulariser, objective = (list(dict.fromkeys(name[i] for name in measured)) for i in (0, 1))
    colours = dict(zip(objective, (BLUE, ORANGE, GREEN), strict=False))
    lines = dict(zip(regulariser, itertools.cycle(("-", "--", "-.")), strict=False))
    with new_figure(path, 8.4, 6.8) as figure:
        axes = figure.subplots(2, 2)
        cost = axes[0, 0]
        by_length = dict(zip(("smoothness", "midpoint", "coverage"), axes.flat[1:], strict=True))
        for cell, ((which, what), of) in enumerate(measured.items()):
            first = which == regulariser[0]
            look: dict[str, Any] = {
                "color": colours[what],
                "linestyle": lines[which],
                "marker": "o",
                "markersize": 4,
                "markerfacecolor": colours[what] if first else "white",
                "capsize": 2,
                "elinewidth": 0.8,
            }
            rate, distance = of["rate_nats_per_loop"], of["decoded_distance"]
            label = f"{which}, {what}"
            cost.errorbar(
                rate[:, 0], distance[:, 0], _reach(distance), _reach(rate), label=label, **look
            )
            side: dict[str, Any] = {"xytext": (3, 3)}
            if first:
                side = {"xytext": (-3, -3), "ha": "right", "va": "top"}
            for at, length in enumerate(of["length"] if what == objective[0] else ()):
                spot = (rate[at, 0], distance[at, 0])
                cost.annotate(f"{length}", spot, textcoords="offset points", fontsize=7, **side)
            beside = of["length"] * 1.03 ** (cell - (len(measured) - 1) / 2)
            for key, ax in by_length.items():
                ax.errorbar(beside, of[key][:, 0], _reach(of[key]), **look)
            by_length["coverage"].plot(
                of["length"], of["standard_coverage"][:, 0], ":", color=colours[what], linewidth=1
            )
        lengths = sorted({int(n) for of in measured.values() for n in of["length"]})
        for key, ax in by_length.items():
            for name, values in baselines[key].items():
                ax.fill_between(lengths, values[:, 1], values[:, 2], color=GREY, alpha=0.2, lw=0)
                ax.plot(lengths, values[:, 0], color=GREY, linewidth=1, zorder=1)
                ax.annotate(
                    name,
                    (lengths[-1], values[-1, 0]),
                    (8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                    color="#555555",
                )
            ax.set(xscale="log", xlabel="points a loop")
            ax.set_xticks(lengths, [str(n) for n in lengths])
            ax.minorticks_off()
        # A collapsed cell spends nothing: it is to be seen, at the left end.
        cost.set_xscale("symlog", linthresh=1)
        cost.set(xlabel="rate (nats a loop)", ylabel="spectral distance to VAE 1's sound")
        cost.set_title("What compression costs", loc="left", fontweight="bold")
        by_length["smoothness"].set(ylabel="perceptual path / distance of the ends")
        by_length["smoothness"].set_title("Straightness of paths", loc="left", fontweight="bold")
        by_length["midpoint"].set(ylabel="nearest real loop / average one")
        by_length["midpoint"].set_title("What is half-way", loc="left", fontweight="bold")
        by_length["coverage"].set(ylabel="coverage (dotted: independent points)", ylim=(0, 1.05))
        by_length["coverage"].set_title("Loops from the prior", loc="left", fontweight="bold")
        for ax in axes.flat:
            ax.grid(color="#E5E5E5", linewidth=0.6)
            ax.set_axisbelow(True)
        figure.legend(*cost.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def _reach(values: np.ndarray) -> np.ndarray:
    """Error bars `(2, n)` of means with their lowest and highest, `(n, 3)`."""
    return np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]).clip(0)

"""The figure of the study: what fewer points per loop cost, and what they buy."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from jaxtyping import Float, Int

from techloop.reporting.plots import BLUE, GREEN, GREY, ORANGE, new_figure


@dataclass(frozen=True)
class Curve:
    """Cells of one regulariser and objective, by length.

    All but `length` are mean, lowest and highest over seeds.

    Attributes:
        length: points per loop, ascending.
        rate: nats per loop.
        distance: spectral distance of decoded loops to the audio VAE's sound.
        smoothness: perceptual path length over the distance of the ends.
        midpoint: distance of the midpoint to the nearest real loop over that to the average one.
        coverage: of loops from the prior.
        standard_normal_coverage: of loops from independent points.
    """

    length: Int[np.ndarray, " n"]
    rate: Float[np.ndarray, "n three"]
    distance: Float[np.ndarray, "n three"]
    smoothness: Float[np.ndarray, "n three"]
    midpoint: Float[np.ndarray, "n three"]
    coverage: Float[np.ndarray, "n three"]
    standard_normal_coverage: Float[np.ndarray, "n three"]


@dataclass(frozen=True)
class Bands:
    """What the curves are compared with, to draw as grey bands: by label, a row for each length.

    Each row is a mean and the two ends of its band.
    """

    smoothness: Mapping[str, Float[np.ndarray, "n three"]]
    midpoint: Mapping[str, Float[np.ndarray, "n three"]]
    coverage: Mapping[str, Float[np.ndarray, "n three"]]


class _Look(TypedDict):
    color: str
    linestyle: str
    marker: str
    markersize: float
    markerfacecolor: str
    capsize: float
    elinewidth: float


def compression(path: str | Path, curves: Mapping[tuple[str, str], Curve], bands: Bands) -> None:
    """What compression costs and buys: rate against distance, smoothness, midpoint, coverage.

    Args:
        path: the PNG to write.
        curves: by regulariser and objective.
        bands: baselines at all lengths of the curves.
    """
    regularisers, objectives = (list(dict.fromkeys(name[i] for name in curves)) for i in (0, 1))
    colours = dict(zip(objectives, (BLUE, ORANGE, GREEN), strict=False))
    styles = dict(zip(regularisers, itertools.cycle(("-", "--", "-.")), strict=False))
    lengths = sorted({int(n) for curve in curves.values() for n in curve.length})
    with new_figure(path, 8.4, 6.8) as figure:
        axes = figure.subplots(2, 2)
        cost, smoothness, midpoint, coverage = axes.flat
        for cell, ((regulariser, objective), curve) in enumerate(curves.items()):
            first = regulariser == regularisers[0]
            colour = colours[objective]
            look: _Look = {
                "color": colour,
                "linestyle": styles[regulariser],
                "marker": "o",
                "markersize": 4,
                "markerfacecolor": colour if first else "white",
                "capsize": 2,
                "elinewidth": 0.8,
            }
            rate, distance = curve.rate, curve.distance
            cost.errorbar(
                rate[:, 0],
                distance[:, 0],
                _error_bars(distance),
                _error_bars(rate),
                label=f"{regulariser}, {objective}",
                **look,
            )
            for i, length in enumerate(curve.length if objective == objectives[0] else ()):
                cost.annotate(
                    f"{length}",
                    (rate[i, 0], distance[i, 0]),
                    (-3, -3) if first else (3, 3),
                    textcoords="offset points",
                    fontsize=7,
                    ha="right" if first else "left",
                    va="top" if first else "baseline",
                )
            beside = curve.length * 1.03 ** (cell - (len(curves) - 1) / 2)
            for ax, values in (
                (smoothness, curve.smoothness),
                (midpoint, curve.midpoint),
                (coverage, curve.coverage),
            ):
                ax.errorbar(beside, values[:, 0], _error_bars(values), **look)
            coverage.plot(
                curve.length, curve.standard_normal_coverage[:, 0], ":", color=colour, linewidth=1
            )
        for ax, named in (
            (smoothness, bands.smoothness),
            (midpoint, bands.midpoint),
            (coverage, bands.coverage),
        ):
            for name, values in named.items():
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
            ax.set(xscale="log", xlabel="points per loop")
            ax.set_xticks(lengths, [str(n) for n in lengths])
            ax.minorticks_off()
        # A collapsed cell spends nothing: symlog shows it at the left end.
        cost.set_xscale("symlog", linthresh=1)
        cost.set(xlabel="rate (nats per loop)", ylabel="spectral distance to the audio VAE's sound")
        smoothness.set(ylabel="perceptual path / distance of the ends")
        midpoint.set(ylabel="nearest real loop / average one")
        coverage.set(ylabel="coverage (dotted: independent points)", ylim=(0, 1.05))
        for ax, title in (
            (cost, "What compression costs"),
            (smoothness, "Straightness of paths"),
            (midpoint, "Midpoints of paths"),
            (coverage, "Loops from the prior"),
        ):
            ax.set_title(title, loc="left", fontweight="bold")
            ax.grid(color="#E5E5E5", linewidth=0.6)
            ax.set_axisbelow(True)
        figure.legend(*cost.get_legend_handles_labels(), loc="outside upper center", ncols=3)


def _error_bars(values: Float[np.ndarray, "n three"]) -> Float[np.ndarray, "two n"]:
    """Distances of means to their lowest and highest, as matplotlib takes them."""
    return np.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]).clip(0)

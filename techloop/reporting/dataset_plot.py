"""What a dataset holds, as one picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from techloop.reporting.plots import BLUE, GREY, ORANGE, new_figure


class Bins(NamedTuple):
    """A histogram: counts from an edge up to the next, and where the axis has marks."""

    title: str
    unit: str
    of: str
    edges: np.ndarray
    counts: np.ndarray
    ticks: Sequence[float]
    log: bool


def dataset_overview(path: str | Path, panels: Sequence[Bins], left_out: Mapping[str, int]) -> None:
    """Histograms, and as bars how much was left out for which reason.

    Args:
        path: the PNG to write.
        panels: without counts where nothing is known.
        left_out: rows by reason, the most frequent first.
    """
    columns = 2
    lines = -(-(len(panels) + 1) // columns)
    tall = max(2.6, 1.0 + 0.19 * len(left_out))
    with new_figure(path, 8.4, 2.6 * (lines - 1) + tall) as figure:
        figure.set_layout_engine("constrained", hspace=0.06, wspace=0.04)
        ratios = [2.6] * (lines - 1) + [tall]
        axes = figure.subplots(lines, columns, squeeze=False, height_ratios=ratios).ravel()
        for ax in axes[len(panels) + 1 :]:
            ax.axis("off")
        for ax, panel in zip(axes, panels, strict=False):
            edges, counts = panel.edges, panel.counts
            ax.set_title(panel.title, loc="left", fontweight="bold")
            if not counts.size:
                _only_words(ax, "not known of any")
                continue
            ax.set_xlabel(panel.unit)
            ax.set_ylabel(panel.of)
            widths = 0.96 * np.diff(edges)  # no white lines between: they hide what is low
            ax.bar(edges[:-1], counts, widths, align="edge", color=BLUE)
            if panel.log:
                ax.set_xscale("log")
            ax.set_xticks(panel.ticks, [_thousands(tick) for tick in panel.ticks])
            ax.minorticks_off()
            ax.set_xlim(edges[0], edges[-1])
            ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
            ax.yaxis.set_major_formatter(lambda count, _: _thousands(count))
            ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
            ax.set_axisbelow(True)
        ax = axes[len(panels)]
        ax.set_title("Left out", loc="left", fontweight="bold")
        if not left_out:
            _only_words(ax, "nothing")
            return
        ax.set_xlabel("rows (recordings or bars)")
        names, rows = list(left_out)[::-1], list(left_out.values())[::-1]
        ax.barh(names, rows, color=ORANGE, height=0.7)
        for place, count in enumerate(rows):
            ax.text(count, place, f" {count:,}", va="center", fontsize=7)
        ax.set_xlim(0, 1.18 * max(rows))
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        ax.xaxis.set_major_formatter(lambda count, _: _thousands(count))
        ax.tick_params(axis="y", length=0)


def _thousands(value: float) -> str:
    return f"{value:,.10g}".replace("-", "\N{MINUS SIGN}")


def _only_words(ax: Axes, words: str) -> None:
    """A panel that has only words."""
    ax.text(0.5, 0.5, words, ha="center", va="center", color=GREY, transform=ax.transAxes)
    ax.set_xticks([])
    ax.set_yticks([])

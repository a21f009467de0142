"""A dataset of loops as one picture: histograms, and what was left out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from techloop.data.loops_folder import LoopsFolder
from techloop.data.summary import Histogram, histograms, reasons, ticks
from techloop.reporting.numbers import format_number
from techloop.reporting.plots import BLUE, GREY, ORANGE, new_figure


def draw_dataset(loops: LoopsFolder, path: Path) -> Path:
    """Draw the picture of a dataset to a PNG, whose folder is created where it is missing."""
    rejections = [] if loops.rejected is None else reasons(loops.rejected, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {reason.reason.replace("_", " "): reason.rows for reason in rejections}
    dataset_overview(path, histograms(loops.index), rows)
    return path


def dataset_overview(
    path: str | Path, panels: Sequence[Histogram], rejections: Mapping[str, int]
) -> None:
    """A panel per histogram, and one with the number of rejections per reason.

    Args:
        path: the PNG to write.
        panels: histograms; those without counts become panels that say so.
        rejections: rows of the reject table by reason, the most frequent first.
    """
    columns = 2
    lines = -(-(len(panels) + 1) // columns)
    tall = max(2.6, 1.0 + 0.19 * len(rejections))
    with new_figure(path, 8.4, 2.6 * (lines - 1) + tall) as figure:
        figure.set_layout_engine("constrained", hspace=0.06, wspace=0.04)
        ratios = [2.6] * (lines - 1) + [tall]
        axes = figure.subplots(lines, columns, squeeze=False, height_ratios=ratios).ravel()
        for ax in axes[len(panels) + 1 :]:
            ax.axis("off")
        for ax, histogram in zip(axes, panels, strict=False):
            edges, counts = histogram.edges, histogram.counts
            ax.set_title(histogram.title, loc="left", fontweight="bold")
            if not counts.size:
                _only_words(ax, "not known of any")
                continue
            ax.set_xlabel(histogram.unit)
            ax.set_ylabel(histogram.of)
            widths = 0.96 * np.diff(edges)  # narrow gaps, which do not hide low bars
            ax.bar(edges[:-1], counts, widths, align="edge", color=BLUE)
            if histogram.log:
                ax.set_xscale("log")
            marks = ticks(histogram)
            ax.set_xticks(marks, [format_number(mark) for mark in marks])
            ax.minorticks_off()
            ax.set_xlim(edges[0], edges[-1])
            ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
            ax.yaxis.set_major_formatter(lambda count, _: format_number(count))
            ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
            ax.set_axisbelow(True)
        ax = axes[len(panels)]
        ax.set_title("Left out", loc="left", fontweight="bold")
        if not rejections:
            _only_words(ax, "nothing")
            return
        ax.set_xlabel("rows (recordings or bars)")
        names, rows = list(rejections)[::-1], list(rejections.values())[::-1]
        ax.barh(names, rows, color=ORANGE, height=0.7)
        for place, count in enumerate(rows):
            ax.text(count, place, f" {count:,}", va="center", fontsize=7)
        ax.set_xlim(0, 1.18 * max(rows))
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
        ax.xaxis.set_major_formatter(lambda count, _: format_number(count))
        ax.tick_params(axis="y", length=0)


def _only_words(ax: Axes, words: str) -> None:
    """A panel that shows only words."""
    ax.text(0.5, 0.5, words, ha="center", va="center", color=GREY, transform=ax.transAxes)
    ax.set_xticks([])
    ax.set_yticks([])

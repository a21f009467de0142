"""Pictures: arrays in, a PNG out, the same bytes for the same arrays. One function per picture."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# Okabe & Ito (2008): colour-blind readers can tell them apart.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#8C8C8C"
MEL_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000)
RANGE_DB = 70.0
STYLE = mpl.RcParams(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "lines.linewidth": 1.6,
        "figure.dpi": 150,
        "figure.facecolor": "white",
    }
)


class Look(TypedDict, total=False):
    """How a line looks."""

    color: str
    linestyle: str
    linewidth: float
    marker: str
    markersize: float
    zorder: float


@contextmanager
def new_figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A new figure in the house style, written to `path` as PNG; pyplot does not hold it."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        # Neither date nor version: the same arrays give the same file.
        figure.savefig(path, format="png", metadata={"Software": None})


def spectrogram_grid(
    path: str | Path,
    levels_db: Float[np.ndarray, "n mels frames"],
    titles: Sequence[str],
    *,
    columns: int,
    span: tuple[int, str],
    mel_range_hz: tuple[float, float],
    rows: Sequence[str] = (),
) -> None:
    """Mel spectrograms in a grid, all on one scale of 70 dB below the loudest.

    Args:
        path: the PNG to write.
        levels_db: mel levels of each panel, in reading order.
        titles: one per panel.
        columns: panels in a row.
        span: how many units of time a panel spans, and what a unit is called (`4, "beat"`).
        mel_range_hz: lowest and highest frequency of the mel bands.
        rows: names of the rows, if they have any.

    Raises:
        ValueError: no panels, or not as many titles as panels.
    """
    if len(levels_db) == 0 or len(titles) != len(levels_db):
        raise ValueError(f"{len(levels_db)} spectrograms with {len(titles)} titles")
    lines = -(-len(levels_db) // columns)
    top = float(levels_db.max())
    units, unit = span
    width = 7.2 if columns == 1 else 2.4 * columns
    with new_figure(path, 0.7 + width, 0.5 + 1.55 * lines) as figure:
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for ax in axes.flat[len(levels_db) :]:
            ax.axis("off")
        for ax, level, title in zip(axes.flat, levels_db, titles, strict=False):
            image = ax.imshow(
                level,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=top - RANGE_DB,
                vmax=top,
                extent=(0, units, 0, 1),
                interpolation="nearest",
            )
            ax.set_title(title, pad=3)
            _mel_axis(ax, mel_range_hz)
            ticks = range(0, units, max(units // 16, 1))
            ax.set_xticks(ticks, [str(tick + 1) for tick in ticks])
            ax.set_xlim(0, units)
            ax.spines[:].set_visible(False)
        for ax in axes[-1]:
            ax.set_xlabel(unit)
        for line, ax in enumerate(axes[:, 0]):
            ax.set_ylabel(f"{rows[line]}\nfrequency (Hz)" if rows else "frequency (Hz)")
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 2 / lines), pad=0.01, aspect=25)
        bar.set_label("level (dB re full scale)")
        bar.outline.set_visible(False)


def correlation_heatmap(
    path: str | Path,
    values: Float[np.ndarray, "dimensions descriptors"],
    significant: Bool[np.ndarray, "dimensions descriptors"],
    dimensions: Sequence[str],
    descriptors: Sequence[str],
    label: str,
) -> None:
    """Correlations by dimension (rows) and descriptor (columns); a dot where insignificant."""
    n, k = values.shape
    with new_figure(path, 1.9 + 0.62 * k, 1.5 + 0.27 * n) as figure:
        ax = figure.subplots()
        image = ax.imshow(np.nan_to_num(values), cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        for i in range(n):
            for j in range(k):
                if not significant[i, j]:
                    ax.text(j, i, "·", ha="center", va="center", color=GREY)
                    continue
                dark = abs(values[i, j]) > 0.6
                ax.text(
                    j,
                    i,
                    f"{values[i, j]:.2f}".replace("-", "\N{MINUS SIGN}"),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "black",
                )
        ax.set_xticks(range(k), descriptors, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(n), dimensions)
        ax.set_ylabel("latent dimension")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
        bar.set_label(label)
        bar.outline.set_visible(False)


def control_gains(
    path: str | Path,
    gains: Float[np.ndarray, "controls descriptors"],
    controls: Sequence[str],
    descriptors: Sequence[str],
    own: Sequence[int],
) -> None:
    """How each control changes each descriptor; a frame marks the one that it is meant to raise.

    Args:
        path: the PNG to write.
        gains: in standard deviations of real loops; NaN where real loops do not differ.
        controls, descriptors: names of the rows and columns.
        own: the column that each control is meant to raise.
    """
    n, k = gains.shape
    with new_figure(path, 2.2 + 0.58 * k, 1.6 + 0.34 * n) as figure:
        ax = figure.subplots()
        reach = max(1.0, float(np.nanmax(np.abs(gains), initial=0)))
        image = ax.imshow(
            np.nan_to_num(gains), cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto"
        )
        for i, j in itertools.product(range(n), range(k)):
            value = gains[i, j]
            text = "–" if np.isnan(value) else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
            colour = "white" if abs(value) > 0.6 * reach else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
        for i, j in enumerate(own):
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black"))
        ax.set_xticks(range(k), descriptors, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(n), controls)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=ax, shrink=0.9, pad=0.02)
        bar.set_label("standard deviations of real loops per unit")
        bar.outline.set_visible(False)


def probe_bars(path: str | Path, panels: Mapping[str, Mapping[str, float]]) -> None:
    """Coefficients of determination as bars, one panel per group, the highest on top."""
    heights = [len(bars) for bars in panels.values()]
    with new_figure(path, 5.2, 0.5 + 0.35 * len(heights) + 0.18 * sum(heights)) as figure:
        axes = figure.subplots(len(heights), 1, squeeze=False, sharex=True, height_ratios=heights)
        for ax, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
            ranked = sorted(bars.items(), key=lambda bar: -np.inf if np.isnan(bar[1]) else bar[1])
            names, values = [name for name, _ in ranked], np.array([value for _, value in ranked])
            ax.barh(names, np.nan_to_num(values).clip(0, 1), color=BLUE, height=0.7)
            for y, value in enumerate(values):
                text = "undefined" if np.isnan(value) else "≤ 0" if value <= 0 else f"{value:.2f}"
                ax.text(max(np.nan_to_num(value), 0) + 0.01, y, text, va="center", fontsize=7)
            ax.set_xlim(0, 1.08)
            ax.set_ylim(-0.6, len(bars) - 0.4)
            ax.set_title(title, loc="left", fontweight="bold")
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="x", color="#E5E5E5", linewidth=0.6)
            ax.set_axisbelow(True)
        axes[-1, 0].set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes[-1, 0].set_xlabel("R² of a linear probe on held-out loops")


def descriptor_paths(
    path: str | Path,
    curves: Mapping[str, Float[np.ndarray, "paths points descriptors"]],
    descriptors: Sequence[str],
    titles: Sequence[str],
) -> None:
    """Descriptors along paths: a column per path, a row per descriptor, a line per interpolation.

    Args:
        path: the PNG to write.
        curves: values by interpolation; the first is the one to judge, the others are baselines.
        descriptors: labels of the rows, with units.
        titles: one per path.
    """
    columns = len(titles)
    looks: list[Look] = [
        {"color": BLUE, "marker": "o", "markersize": 3.5, "zorder": 3},
        {"color": PINK, "linewidth": 1.2},
        {"color": ORANGE, "linestyle": "--"},
        {"color": GREEN, "linestyle": "-."},
        {"color": GREY, "linestyle": ":", "linewidth": 1.0, "zorder": 1},
    ]
    with new_figure(path, 0.6 + 2.1 * columns, 0.6 + 1.75 * len(descriptors)) as figure:
        axes = figure.subplots(len(descriptors), columns, squeeze=False, sharex=True, sharey="row")
        for row, descriptor in enumerate(descriptors):
            axes[row, 0].set_ylabel(descriptor)
            for column in range(columns):
                ax = axes[row, column]
                for (name, values), look in zip(curves.items(), looks, strict=False):
                    t = np.linspace(0, 1, values.shape[1])
                    ax.plot(t, values[column, :, row], label=name, **look)
                ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
                ax.set_axisbelow(True)
        for column, title in enumerate(titles):
            axes[0, column].set_title(title)
            axes[-1, column].set_xlabel("position on the path")
            axes[-1, column].set_xticks([0, 0.5, 1], ["A", "½", "B"])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


def descriptor_walks(
    path: str | Path,
    values: Float[np.ndarray, "walks loops descriptors"],
    descriptors: Sequence[str],
) -> None:
    """Descriptors of each loop of closed walks, a line per walk; its last point is its first."""
    colours = (BLUE, ORANGE, GREEN, PINK)
    loops = values.shape[1]
    with new_figure(path, 6.6, 0.6 + 1.6 * len(descriptors)) as figure:
        axes = figure.subplots(len(descriptors), 1, squeeze=False, sharex=True)[:, 0]
        for row, (ax, descriptor) in enumerate(zip(axes, descriptors, strict=True)):
            for i, walk in enumerate(values[..., row]):
                ax.plot(
                    range(1, loops + 2),
                    [*walk, walk[0]],
                    color=colours[i % len(colours)],
                    marker="o",
                    markersize=2.5,
                    linewidth=1.3,
                    label=f"walk {i + 1}",
                )
            ax.set_ylabel(descriptor)
            ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
        step = max(loops // 8, 1)
        axes[-1].set_xticks(range(1, loops + 2, step))
        axes[-1].set_xlim(1, loops + 1)
        axes[-1].set_xlabel("loop (the last is the first again)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


def distance_histogram(
    path: str | Path,
    samples: Mapping[str, Float[np.ndarray, " _"]],
    label: str,
) -> None:
    """Distributions on one axis, each in percent of its own sample; dashed lines are medians."""
    everything = np.concatenate(list(samples.values()))
    bins = np.linspace(0, float(everything.max()) * 1.02 + 1e-9, 41).tolist()
    with new_figure(path, 5.2, 2.7) as figure:
        ax = figure.subplots()
        for (name, values), colour in zip(samples.items(), (BLUE, ORANGE, GREEN), strict=False):
            weights = np.full(len(values), 100 / len(values))
            median = float(np.median(values))
            shown = f"{name} (median {median:.2f})"
            ax.hist(values, bins, weights=weights, color=colour, alpha=0.35)
            ax.hist(
                values, bins, weights=weights, color=colour, histtype="step", lw=1.4, label=shown
            )
            ax.axvline(median, color=colour, linestyle="--", linewidth=1.2)
        ax.set_xlim(0, bins[-1])
        ax.set_xlabel(label)
        ax.set_ylabel("share of loops (%)")
        ax.legend(loc="upper left")


def scatter(
    path: str | Path,
    samples: Mapping[str, Float[np.ndarray, "_ two"]],
    labels: tuple[str, str],
) -> None:
    """Points of each sample in one plane; the last is on top."""
    with new_figure(path, 4.4, 3.6) as figure:
        ax = figure.subplots()
        looks = (("o", GREY), ("^", ORANGE), ("o", BLUE))
        for (name, points), (marker, colour) in zip(samples.items(), looks, strict=False):
            x, y = points.T
            ax.scatter(x, y, s=14, c=colour, marker=marker, alpha=0.65, linewidths=0, label=name)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        ax.legend(loc="best", handletextpad=0.2)


def paired_scatter(
    path: str | Path,
    x: Float[np.ndarray, " n"],
    panels: Mapping[str, Float[np.ndarray, " n"]],
    label: str,
) -> None:
    """A point per loop, in a panel for each second value; the diagonal is where both are equal.

    Args:
        path: the PNG to write.
        x: the first value of each loop, which is called `label`.
        panels: second values by label. All axes have one scale, which holds what has both values.
    """
    pairs = [np.stack([x, y])[:, np.isfinite(x + y)] for y in panels.values()]
    low, high = np.hstack(pairs).min(initial=0), np.hstack(pairs).max(initial=0.2)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    with new_figure(path, 0.2 + 3.7 * len(panels), 3.8) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (name, y) in zip(axes, panels.items(), strict=True):
            ax.plot([low, high], [low, high], color=GREY, linewidth=1.0, linestyle="--", zorder=1)
            ax.scatter(x, y, s=14, c=BLUE, alpha=0.65, linewidths=0)
            ax.set_xlim(low, high)
            ax.set_aspect("equal")
            ax.set_yticks(ax.get_xticks())
            ax.set_ylim(low, high)
            ax.set_xlim(low, high)
            ax.set_xlabel(label)
            ax.set_ylabel(name)


def band_errors(
    path: str | Path,
    errors_db: Mapping[str, Float[np.ndarray, " mels"]],
    mel_range_hz: tuple[float, float],
) -> None:
    """Error by frequency, a line per prediction: the one to judge first, then baselines."""
    looks: list[Look] = [
        {"color": BLUE, "linewidth": 2.0},
        {"color": ORANGE, "linestyle": "--"},
        {"color": GREEN, "linestyle": "-."},
    ]
    with new_figure(path, 5.2, 2.7) as figure:
        ax = figure.subplots()
        for (name, values), look in zip(errors_db.items(), looks, strict=False):
            centres = (np.arange(len(values)) + 1) / (len(values) + 1)
            ax.plot(centres, values, label=name, **look)
        _mel_axis(ax, mel_range_hz, horizontal=True)
        ax.set_xlabel("frequency (Hz)")
        ax.set_ylabel("mean absolute error (dB)")
        ax.set_ylim(bottom=0)
        ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=len(errors_db))


def _mel_axis(ax: Axes, range_hz: tuple[float, float], horizontal: bool = False) -> None:
    """Hertz on an axis that runs from 0 to 1 evenly in mel (HTK)."""
    low, high = _mel(np.array(range_hz))
    shown = [hz for hz in MEL_TICKS_HZ if range_hz[0] <= hz <= range_hz[1]]
    places = (_mel(np.array(shown)) - low) / (high - low)
    labels = [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in shown]
    (ax.set_xticks if horizontal else ax.set_yticks)(places.tolist(), labels)
    (ax.set_xlim if horizontal else ax.set_ylim)(0, 1)


def _mel(hz: np.ndarray) -> np.ndarray:
    return 2595 * np.log10(1 + hz / 700)

"""Figures: the only place that draws. Arrays in, a PNG out, the same bytes for the same arrays.

Charts of a page are specifications instead, drawn by JavaScript in the colours of the page.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

# Okabe & Ito (2008): told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#8C8C8C"
# Hues like theirs for lines on a page, which calls them --c0, --c1, ...: in the light, in the dark;
# each with a contrast of 3 and more to the paper.
ON_PAGE = (
    ("#0072b2", "#5ab4f0"),
    ("#d55e00", "#ff9a52"),
    ("#00805e", "#3fcf9f"),
    ("#b5518f", "#ec9ccb"),
    ("#8a6d00", "#e2c34a"),
    ("#56606e", "#aab3bf"),
)
DASHES = ((1, 0), (6, 3), (2, 2))  # drawn and left out, in pixels
MEL_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000)
RANGE_DB = 70.0
STYLE: Any = {
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


@contextmanager
def _figure(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """A new figure in the house style, written to `path` as PNG; pyplot never hears of it."""
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
        titles: one a panel.
        columns: panels in a row.
        span: how many beats, or whatever else, a panel spans, and what one is called.
        mel_range_hz: lowest and highest frequency of the mel bands.
        rows: names of the rows, if they have any.

    Raises:
        ValueError: there is no panel, or not a title for each.
    """
    if len(levels_db) == 0 or len(titles) != len(levels_db):
        raise ValueError(f"{len(levels_db)} spectrograms with {len(titles)} titles")
    lines = -(-len(levels_db) // columns)
    top = float(levels_db.max())
    units, unit = span
    width = 7.2 if columns == 1 else 2.4 * columns
    with _figure(path, 0.7 + width, 0.5 + 1.55 * lines) as figure:
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
    with _figure(path, 1.9 + 0.62 * k, 1.5 + 0.27 * n) as figure:
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
    """What each control does to each descriptor; what it is meant to raise has a frame.

    Args:
        path: the PNG to write.
        gains: in deviations of real loops; nan where these do not differ.
        controls, descriptors: names of the rows and columns.
        own: the column each control is meant for.
    """
    n, k = gains.shape
    with _figure(path, 2.2 + 0.58 * k, 1.6 + 0.34 * n) as figure:
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
        bar.set_label("deviations of real loops, a unit")
        bar.outline.set_visible(False)


def probe_bars(path: str | Path, panels: Mapping[str, Mapping[str, float]]) -> None:
    """Coefficients of determination as bars, a panel a group, the highest on top."""
    heights = [len(bars) for bars in panels.values()]
    with _figure(path, 5.2, 0.5 + 0.35 * len(heights) + 0.18 * sum(heights)) as figure:
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
    """Descriptors along paths: a column a path, a row a descriptor, a line a way of getting there.

    Args:
        path: the PNG to write.
        curves: values by way; the first is what it is about, the others are to compare with.
        descriptors: labels of the rows, with units.
        titles: one a path.
    """
    columns = len(titles)
    looks: list[dict[str, Any]] = [
        {"color": BLUE, "marker": "o", "markersize": 3.5, "zorder": 3},
        {"color": PINK, "linewidth": 1.2},
        {"color": ORANGE, "linestyle": "--"},
        {"color": GREEN, "linestyle": "-."},
        {"color": GREY, "linestyle": ":", "linewidth": 1.0, "zorder": 1},
    ]
    with _figure(path, 0.6 + 2.1 * columns, 0.6 + 1.75 * len(descriptors)) as figure:
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
    """Descriptors of each loop of closed walks, one line a walk, back at the start on the right."""
    colours = (BLUE, ORANGE, GREEN, PINK)
    loops = values.shape[1]
    with _figure(path, 6.6, 0.6 + 1.6 * len(descriptors)) as figure:
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
    samples: Mapping[str, Float[np.ndarray, "_"]],
    label: str,
) -> None:
    """Distributions on one axis, each a share of its own sample, medians marked."""
    everything = np.concatenate(list(samples.values()))
    bins = np.linspace(0, float(everything.max()) * 1.02 + 1e-9, 41).tolist()
    with _figure(path, 5.2, 2.7) as figure:
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
    with _figure(path, 4.4, 3.6) as figure:
        ax = figure.subplots()
        looks = (("o", GREY), ("^", ORANGE), ("o", BLUE))
        for (name, points), (marker, colour) in zip(samples.items(), looks, strict=False):
            x, y = points.T
            ax.scatter(x, y, s=14, c=colour, marker=marker, alpha=0.65, linewidths=0, label=name)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        ax.legend(loc="best", handletextpad=0.2)


def band_errors(
    path: str | Path,
    errors_db: Mapping[str, Float[np.ndarray, "mels"]],
    mel_range_hz: tuple[float, float],
) -> None:
    """Error by frequency: one line a kind of guess, the first of them what it is about."""
    looks: list[dict[str, Any]] = [
        {"color": BLUE, "linewidth": 2.0},
        {"color": ORANGE, "linestyle": "--"},
        {"color": GREEN, "linestyle": "-."},
    ]
    with _figure(path, 5.2, 2.7) as figure:
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


def sweeps(
    path: str | Path,
    measured: Mapping[str, Mapping[str, Sequence[float]]],
    chosen: Mapping[str, float],
    latent_dim: int,
) -> None:
    """What a regulariser's weight does: rate against distortion, active units, MMD.

    Args:
        path: the PNG to write.
        measured: by regulariser, lists of equal length: `weight`, `kl_nats_per_frame`,
            `distance`, `active_units`, `mmd`.
        chosen: the default weight of some regularisers; the nearest one measured has a ring.
        latent_dim: how many units there are.
    """
    looks = {
        name: (c, m) for name, c, m in zip(measured, (BLUE, ORANGE, GREEN), "osD", strict=False)
    }
    with _figure(path, 9.6, 3.0) as figure:
        left, middle, right = figure.subplots(1, 3)
        for name, of in measured.items():
            colour, marker = looks[name]
            look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
            left.plot(of["kl_nats_per_frame"], of["distance"], label=name, **look)
            weight = np.asarray(of["weight"])
            middle.plot(weight, of["active_units"], **look)
            right.plot(weight, of["mmd"], **look)
            if name in chosen:
                at = int(np.argmin(np.abs(np.log(weight / chosen[name]))))
                ring: dict[str, Any] = {"s": 110, "facecolors": "none", "edgecolors": colour}
                left.scatter(of["kl_nats_per_frame"][at], of["distance"][at], **ring)
                middle.scatter(weight[at], of["active_units"][at], **ring)
                right.scatter(weight[at], of["mmd"][at], **ring)
        left.set(xlabel="rate (nats a frame)", ylabel="spectral distance, log + linear")
        middle.set(xlabel="weight", ylabel="active units", ylim=(0, latent_dim * 1.05))
        middle.axhline(latent_dim / 2, color=GREY, linestyle=":", linewidth=1)
        right.set(xlabel="weight", ylabel="MMD to the prior")
        for ax in (middle, right):
            ax.set_xscale("log")
        for ax in (left, middle, right):
            ax.grid(color="#E5E5E5", linewidth=0.6)
        figure.legend(loc="outside upper center", ncols=len(measured))


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
    with _figure(path, 8.4, 6.8) as figure:
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
    with _figure(path, 8.4, 2.6 * (lines - 1) + tall) as figure:
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


class Line(NamedTuple):
    """A line of a chart: what it is called, its look, and its points (x, y)."""

    name: str  # in the legend, which hides and shows all lines of the name
    title: str  # its own
    colour: int  # of `ON_PAGE`
    dash: int  # of `DASHES`; dots of what is not solid are hollow
    thin: bool
    points: Sequence[tuple[float, float]]


def line_chart(
    lines: Sequence[Line],
    description: str,
    titles: tuple[str, str],
    *,
    log: bool = False,
    steps: Sequence[float] = (),
    bands: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """The Vega-Lite specification of lines on a page that has the colours as CSS variables.

    The chart is as wide as its place and names the nearest point. Its parameter `hidden` takes
    names of lines that are not to be seen. Its title is left to the page.

    Args:
        lines: what is drawn, the first at the bottom.
        description: what those hear who do not see it.
        titles: of x, and of y, which is only seen when a point is named.
        log: whether y is logarithmic.
        steps: all values of x there are; then x is logarithmic and each point has a dot.
        bands: named ranges of y, drawn from side to side behind the lines.
    """
    import altair as alt  # a second and more, which other figures need not pay

    rows = [
        {"line": i, "name": line.name, "title": line.title, "x": x, "y": float(f"{y:.6g}")}
        for i, line in enumerate(lines)
        for x, y in line.points
    ]
    colours = [f"var(--c{line.colour % len(ON_PAGE)})" for line in lines]
    pairs = zip(lines, colours, strict=True)
    fills = ["var(--paper)" if line.dash else colour for line, colour in pairs]

    def each(looks: Sequence[Any]) -> Any:
        """What tells the lines apart: a look each. The legend is the page's."""
        scale = alt.Scale(type="ordinal", domain=list(range(len(lines))), range=list(looks))
        return {"field": "line", "type": "ordinal", "scale": scale, "legend": None}

    x, y = _axes(titles[0], steps or max(x for line in lines for x, _ in line.points), log)
    base = (
        alt.Chart(alt.InlineData(values=rows))
        .transform_filter("indexof(hidden, datum.name) < 0")
        .encode(x=x, y=y, color=alt.Color(**each(colours)))
    )
    drawn = base.mark_line(clip=True).encode(
        strokeDash=alt.StrokeDash(**each([DASHES[line.dash % len(DASHES)] for line in lines])),
        strokeWidth=alt.StrokeWidth(**each([1 if line.thin else 2 for line in lines])),
    )
    nearest = alt.selection_point(
        name="nearest", on="pointerover", nearest=True, clear="pointerout", empty=False
    )
    # An expression, not an encoding: Vega-Lite 6.4 seeks words in what the nearest point is hit by,
    # rather than in the point, its datum.
    hit = "(datum.datum || datum)"
    x_told, y_told = (json.dumps(title) for title in titles)
    told = f"{x_told}: format({hit}.x, ',~r'), {y_told}: format({hit}.y, ',.4~r')"
    dots = (
        base.mark_point(strokeWidth=1.5, tooltip={"expr": f"{{title: {hit}.title, {told}}}"})
        .encode(
            fill=alt.Fill(**each(fills)),
            opacity=alt.condition(nearest, alt.value(1), alt.value(1 if steps else 0)),
            size=alt.condition(nearest, alt.value(80), alt.value(45)),
        )
        .properties(name="dots")  # else altair numbers it, counting all charts of the process
        .add_params(nearest)
    )
    whole = alt.layer(*_bands(bands or {}), drawn, dots)
    whole = whole.add_params(alt.param(name="hidden", value=[]))
    soft = dict.fromkeys(("labelColor", "titleColor"), "var(--soft)")
    faint = dict.fromkeys(("gridColor", "domainColor", "tickColor"), "var(--line)")
    text: Any = {"titleFontWeight": "normal", "titleFontSize": 11, "labelFontSize": 11}
    specification: dict[str, Any] = (
        whole.properties(width="container", height=150, description=description)
        .configure(background="transparent", font="system-ui, sans-serif")
        .configure_axis(**soft, **faint, **text, aria=False)
        .configure_mark(aria=False)
        .configure_view(stroke=None)
        .to_dict()
    )
    return specification


def _axes(title: str, across: Sequence[float] | float, log: bool) -> tuple[Any, Any]:
    """X over these steps, or else from 0 to this; y over what is shown."""
    import altair as alt

    if isinstance(across, Sequence):
        reach = [min(across) / 1.3, max(across) * 1.3]
        x_scale = alt.Scale(type="log", domain=reach, nice=False)
        x_axis = alt.Axis(values=list(across), format="d", grid=False)
    else:
        x_scale = alt.Scale(domain=[0, across], nice=False)
        x_axis = alt.Axis(labelExpr="format(datum.value, '~s')", tickCount=4, grid=False)
    labelled = alt.condition("datum.label", alt.value(1), alt.value(0))  # on a log axis, a few
    y_axis = alt.Axis(
        # Not `format`, which rounds to the step and then says 8e+2.
        labelExpr="datum.label && format(datum.value, ',.4~r')",
        tickCount=4,
        gridOpacity=labelled,
        tickOpacity=labelled,
    )
    y_scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    x = alt.X("x:Q", title=title, scale=x_scale, axis=x_axis)
    return x, alt.Y("y:Q", title=None, scale=y_scale, axis=y_axis)


def _bands(bands: Mapping[str, tuple[float, float]]) -> list[Any]:
    """Layers of a chart: ranges of y from side to side, named at the right end."""
    import altair as alt

    if not bands:
        return []
    rows = [{"name": name, "low": low, "high": high} for name, (low, high) in bands.items()]
    base = alt.Chart(alt.InlineData(values=rows)).encode(y=alt.Y("high:Q", title=None))
    soft = "var(--soft)"
    names = base.mark_text(align="right", baseline="bottom", dy=-2, fontSize=10, color=soft)
    return [
        base.mark_rect(fillOpacity=0.22, fill=soft, stroke=soft, strokeOpacity=0.3).encode(
            y2="low:Q"
        ),
        names.encode(x=alt.value("width"), text="name:N"),
    ]


@functools.cache
def chart_script() -> str:
    """Vega, Vega-Lite and Vega-Embed as one JavaScript module, which sets `window.vegaEmbed`."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    assert "</script" not in script.lower(), "it would end in the middle of the page"
    return script

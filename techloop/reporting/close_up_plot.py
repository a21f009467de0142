"""A beat close up: spectrograms on a linear frequency axis, where noise and lines can be seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from techloop.reporting.plots import RANGE_DB, new_figure

KHZ_FROM = 2000.0  # a reach of so many Hz is labelled in kHz


def close_up(
    path: str | Path,
    levels_db: Float[np.ndarray, "n bins columns"],
    titles: Sequence[str],
    *,
    first_beat: float,
    beats: float,
    beats_in_loop: int,
    top_hz: float,
) -> None:
    """Spectrograms of one stretch of time side by side, on one scale of 70 dB below the loudest.

    Args:
        path: the PNG to write.
        levels_db: levels of each panel.
        titles: one per panel.
        first_beat: where the stretch begins, in beats after the loop's first.
        beats: how long it is.
        beats_in_loop: beats are counted from 1 to this, then from 1 again.
        top_hz: frequency of the highest bin; that of the lowest is 0.

    Raises:
        ValueError: no panels, or not as many titles as panels.
    """
    if len(levels_db) == 0 or len(titles) != len(levels_db):
        raise ValueError(f"{len(levels_db)} spectrograms with {len(titles)} titles")
    top = float(levels_db.max())
    unit_hz, unit = (1000.0, "kHz") if top_hz >= KHZ_FROM else (1.0, "Hz")
    half_column = beats / levels_db.shape[2] / 2
    half_bin = top_hz / max(levels_db.shape[1] - 1, 1) / 2
    sixteenths = np.arange(0, beats + 1e-6, 0.25)
    with new_figure(path, 0.9 + 2.9 * len(levels_db), 3.6) as figure:
        axes = figure.subplots(1, len(levels_db), squeeze=False, sharex=True, sharey=True)[0]
        for ax, level, title in zip(axes, levels_db, titles, strict=True):
            image = ax.imshow(
                level,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=top - RANGE_DB,
                vmax=top,
                extent=(
                    -half_column,
                    beats - half_column,
                    -half_bin / unit_hz,
                    (top_hz + half_bin) / unit_hz,
                ),
                interpolation="nearest",
            )
            ax.set_title(title, pad=3)
            ax.set_xticks(
                sixteenths, [f"{(first_beat + s) % beats_in_loop + 1:g}" for s in sixteenths]
            )
            ax.set_xlim(0, beats - half_column)
            ax.set_ylim(0, top_hz / unit_hz)
            ax.set_xlabel("beat")
            ax.spines[:].set_visible(False)
        axes[0].set_ylabel(f"frequency ({unit})")
        bar = figure.colorbar(image, ax=list(axes), pad=0.01, aspect=25)
        bar.set_label("level (dB re full scale)")
        bar.outline.set_visible(False)

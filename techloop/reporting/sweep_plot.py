"""The picture of a sweep over weights of a regulariser."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from techloop.reporting.plots import BLUE, GREEN, GREY, ORANGE, Look, new_figure


def sweeps(
    path: str | Path,
    measured: Mapping[str, Mapping[str, Sequence[float]]],
    chosen: Mapping[str, float],
    latent_dim: int,
) -> None:
    """The effect of a regulariser's weight on rate and distortion, active units, and MMD.

    Args:
        path: the PNG to write.
        measured: by regulariser, lists of equal length: `weight`, `kl_nats_per_frame`,
            `distance`, `active_units`, `mmd`.
        chosen: default weights of some regularisers; a ring marks the nearest measured weight.
        latent_dim: number of latent units.
    """
    with new_figure(path, 9.6, 3.0) as figure:
        left, middle, right = figure.subplots(1, 3)
        for (name, values), colour, marker in zip(
            measured.items(), (BLUE, ORANGE, GREEN), "osD", strict=False
        ):
            look: Look = {"color": colour, "marker": marker, "markersize": 4}
            weight = np.asarray(values["weight"])
            panels = (
                (left, values["kl_nats_per_frame"], values["distance"]),
                (middle, weight, values["active_units"]),
                (right, weight, values["mmd"]),
            )
            for ax, x, y in panels:
                ax.plot(x, y, label=name, **look)
                if name in chosen:
                    at = int(np.argmin(np.abs(np.log(weight / chosen[name]))))
                    ax.scatter(x[at], y[at], s=110, facecolors="none", edgecolors=colour)
        left.set(xlabel="rate (nats per frame)", ylabel="spectral distance, log + linear")
        middle.set(xlabel="weight", ylabel="active units", ylim=(0, latent_dim * 1.05))
        middle.axhline(latent_dim / 2, color=GREY, linestyle=":", linewidth=1)
        right.set(xlabel="weight", ylabel="MMD to the prior")
        for ax in (middle, right):
            ax.set_xscale("log")
        for ax in (left, middle, right):
            ax.grid(color="#E5E5E5", linewidth=0.6)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(measured))

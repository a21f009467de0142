"""Axes as tests look at them."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def panels(figure: Figure) -> list[Axes]:
    """The axes of a figure, without its colour bars and those switched off."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.axison]


def tick_labels(ax: Axes) -> tuple[list[str], list[str]]:
    """Texts of the ticks along x and along y."""
    x, y = ax.get_xticklabels(), ax.get_yticklabels()
    return [t.get_text() for t in x], [t.get_text() for t in y]

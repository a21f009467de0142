"""Looks at the figures that plots save: their artists rather than their bytes."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def record_figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures saved from now on, by the name of their file; they are written as well."""
    saved: dict[str, Figure] = {}
    save = Figure.savefig

    def savefig(figure: Figure, path: str | Path, **options: Any) -> None:
        saved[Path(path).name] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def panels(figure: Figure) -> list[Axes]:
    """The axes of a figure, without its colour bars and those switched off."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.axison]


def tick_labels(ax: Axes) -> tuple[list[str], list[str]]:
    """Texts of the ticks along x and along y."""
    x, y = ax.get_xticklabels(), ax.get_yticklabels()
    return [t.get_text() for t in x], [t.get_text() for t in y]

"""Figures and axes as tests look at them: by what was drawn, not only by bytes."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def capture_figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Every figure that is saved from here on, by the name of its file; files are still written."""
    figures: dict[str, Figure] = {}
    save = Figure.savefig

    def savefig(figure: Figure, path: Path, **options: object) -> None:
        figures[Path(path).name] = figure
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def new_folder(folder: Path) -> Path:
    """A folder for pictures, as the report hands it out."""
    folder.mkdir(parents=True)
    return folder


def panel_titles(figure: Figure) -> list[str]:
    """Titles of the panels that have one, in reading order."""
    return [title for ax in figure.axes if (title := ax.get_title() or ax.get_title("left"))]


def legend_texts(figure: Figure | Axes) -> list[str]:
    """What the legend says."""
    legend = figure.legends[0] if isinstance(figure, Figure) else figure.get_legend()
    return [text.get_text() for text in legend.get_texts()]


def panels(figure: Figure) -> list[Axes]:
    """The axes of a figure, without its colour bars and those switched off."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.axison]


def tick_labels(ax: Axes) -> tuple[list[str], list[str]]:
    """Texts of the ticks along x and along y."""
    x, y = ax.get_xticklabels(), ax.get_yticklabels()
    return [t.get_text() for t in x], [t.get_text() for t in y]

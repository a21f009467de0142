"""The picture of decoders that were tuned against different discriminators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from techloop.reporting.plots import BLUE, GREEN, GREY, ORANGE, PINK, Look, new_figure

BLACK = "#000000"
COLOURS, MARKERS = (BLUE, ORANGE, GREEN, PINK), "osD^P"
REAL = "real held-out loops"
LINEAR_TO = 4.0  # kernel distances up to here have a linear axis, larger ones a logarithmic one
TICKS = (0, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Decoder:
    """What was measured of one decoder, each number with its deviation.

    Attributes:
        discriminators: what it was tuned against; a key of the markers.
        objective: a key of the colours.
        kernel: kernel distance of reconstructions to all training loops.
        tonality: correlation of tonality with the originals'.
        distance: log + linear spectral distance.
    """

    discriminators: str
    objective: str
    kernel: tuple[float, float]
    tonality: tuple[float, float]
    distance: tuple[float, float]


def adversaries(
    path: str | Path,
    decoders: Sequence[Decoder],
    references: Mapping[str, Decoder],
    real_kernel: float,
) -> None:
    """Kernel distance against tonality, and against spectral distance; bars are deviations.

    Args:
        path: the PNG to write.
        decoders: those that were tuned against discriminators, at most five kinds of them and four
            objectives; several seeds of one kind and objective look alike.
        references: others by name, in black.
        real_kernel: kernel distance of the originals, a dotted line.
    """
    markers = dict(zip(dict.fromkeys(d.discriminators for d in decoders), MARKERS, strict=False))
    colours = dict(zip(dict.fromkeys(d.objective for d in decoders), COLOURS, strict=False))
    drawn = [(d, colours[d.objective], markers[d.discriminators]) for d in decoders]
    others = dict(zip(references, "*X", strict=False))
    drawn += [(references[name], BLACK, marker) for name, marker in others.items()]
    with new_figure(path, 8.4, 3.8) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for ax in (left, right):
            ax.set_yscale("symlog", linthresh=LINEAR_TO, linscale=1.5)
            ax.axhline(real_kernel, color=GREY, linestyle=":", linewidth=1, label=REAL)
            ax.grid(color="#E5E5E5", linewidth=0.6)
        for decoder, colour, marker in drawn:
            y, y_deviation = decoder.kernel
            for ax, (x, x_deviation) in ((left, decoder.tonality), (right, decoder.distance)):
                ax.errorbar(
                    x,
                    y,
                    y_deviation,
                    x_deviation,
                    color=colour,
                    marker=marker,
                    markersize=9 if marker == "*" else 5,
                    elinewidth=0.6,
                    alpha=0.85,
                )
        left.set_yticks(TICKS, [str(tick) for tick in TICKS])
        left.minorticks_off()
        kernels = [decoder.kernel for decoder, _, _ in drawn]
        left.set_ylim(
            min(0.0, real_kernel, *(value for value, _ in kernels)) - 1,
            max(LINEAR_TO, *map(sum, kernels)) * 1.1,
        )
        left.set(
            xlabel="tonality above 3 kHz, correlation with the originals'",
            ylabel="kernel distance to the training loops x 1,000",
        )
        right.set(xlabel="spectral distance, log + linear")
        keys: list[tuple[str, str, str]] = [
            *((kind, GREY, marker) for kind, marker in markers.items()),
            *((name, colour, "s") for name, colour in colours.items()),
            *((name, BLACK, marker) for name, marker in others.items()),
        ]
        handles = []
        for name, colour, marker in keys:
            look: Look = {"color": colour, "marker": marker, "markersize": 5, "linestyle": "none"}
            handles += right.plot([], [], label=name, **look)
        handles.append(right.lines[0])
        figure.legend(handles=handles, loc="outside right center")

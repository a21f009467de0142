"""Charts of the page: Vega-Lite specifications, drawn by JavaScript in the colours of the page."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from techloop.metric import Metric

if TYPE_CHECKING:
    import altair as alt

# Colours of lines on the page, which calls them --c0, --c1, ...: in light mode, in dark mode; each
# with a contrast of at least 3 to the page's background.
ON_PAGE = (
    ("#0072b2", "#5ab4f0"),
    ("#d55e00", "#ff9a52"),
    ("#00805e", "#3fcf9f"),
    ("#b5518f", "#ec9ccb"),
    ("#8a6d00", "#e2c34a"),
    ("#56606e", "#aab3bf"),
)
DASHES = ((1, 0), (6, 3), (2, 2))  # length of a dash and of the gap after it, in pixels

Specification = dict[str, object]  # of Vega-Lite, as JSON takes it


class Line(NamedTuple):
    """A line of a chart: its names, its look, and its points (x, y)."""

    name: str  # in the legend, which hides and shows all lines of one name
    title: str  # its own
    colour: int  # index into `ON_PAGE`
    dash: int  # index into `DASHES`; the dots of a dashed line are hollow
    thin: bool
    points: Sequence[tuple[float, float]]


class LegendEntry(NamedTuple):
    """A name in the legend and the look of its lines."""

    name: str
    colour: int
    dash: int


class Chart(NamedTuple):
    """A chart of one metric."""

    metric: Metric
    log: bool
    spec: Specification


class ChartGroup(NamedTuple):
    """Charts that share a legend."""

    legend: Sequence[LegendEntry]
    charts: Sequence[Chart]


class _ByLine(TypedDict):
    """An encoding that gives each line its own look; the page draws the legend."""

    field: str
    type: Literal["ordinal"]
    scale: "alt.Scale"
    legend: None


def line_chart(
    lines: Sequence[Line],
    description: str,
    titles: tuple[str, str],
    *,
    log: bool = False,
    steps: Sequence[float] = (),
    bands: Mapping[str, tuple[float, float]] | None = None,
) -> Specification:
    """The Vega-Lite specification of lines on a page that has the colours as CSS variables.

    The chart is as wide as its place and names the nearest point. Its parameter `hidden` takes
    names of lines to hide. The page writes its title.

    Args:
        lines: what is drawn, the first at the bottom.
        description: for readers who do not see the chart.
        titles: of x, and of y, which is shown only when a point is named.
        log: whether y is logarithmic.
        steps: every value of x; with them x is logarithmic and each point has a dot.
        bands: named ranges of y, drawn from side to side behind the lines.

    Raises:
        ValueError: x and y have one title, so the named point would have two values under it.
    """
    if titles[0] == titles[1]:
        raise ValueError(f"x and y of a chart are both called {titles[0]!r}")
    import altair as alt  # takes over a second, which other pictures need not wait for

    rows = [
        {"line": i, "name": line.name, "title": line.title, "x": x, "y": float(f"{y:.6g}")}
        for i, line in enumerate(lines)
        for x, y in line.points
    ]
    colours = [f"var(--c{line.colour % len(ON_PAGE)})" for line in lines]
    fills = [
        "var(--paper)" if line.dash else colour for line, colour in zip(lines, colours, strict=True)
    ]

    def by_line(looks: Sequence[str | int | tuple[int, int]]) -> _ByLine:
        """One of these looks per line."""
        scale = alt.Scale(type="ordinal", domain=list(range(len(lines))), range=list(looks))
        return {"field": "line", "type": "ordinal", "scale": scale, "legend": None}

    x, y = _axes(titles[0], steps or max(x for line in lines for x, _ in line.points), log)
    base = (
        alt.Chart(alt.InlineData(values=rows))
        .transform_filter("indexof(hidden, datum.name) < 0")
        .encode(x=x, y=y, color=alt.Color(**by_line(colours)))
    )
    strokes = base.mark_line(clip=True).encode(
        strokeDash=alt.StrokeDash(**by_line([DASHES[line.dash % len(DASHES)] for line in lines])),
        strokeWidth=alt.StrokeWidth(**by_line([1 if line.thin else 2 for line in lines])),
    )
    nearest = alt.selection_point(
        name="nearest", on="pointerover", nearest=True, clear="pointerout", empty=False
    )
    # An expression, not an encoding: Vega-Lite 6.4 looks up the tooltip's fields in the invisible
    # shape that catches the pointer; the point itself is that shape's datum.
    point = "(datum.datum || datum)"
    x_title, y_title = (json.dumps(title) for title in titles)
    values = f"{x_title}: format({point}.x, ',~r'), {y_title}: format({point}.y, ',.4~r')"
    dots = (
        base.mark_point(strokeWidth=1.5, tooltip={"expr": f"{{title: {point}.title, {values}}}"})
        .encode(
            fill=alt.Fill(**by_line(fills)),
            opacity=alt.condition(nearest, alt.value(1), alt.value(1 if steps else 0)),
            size=alt.condition(nearest, alt.value(80), alt.value(45)),
        )
        .properties(name="dots")  # otherwise Altair numbers it, counting all charts of the process
        .add_params(nearest)
    )
    layers = alt.layer(*_bands(bands or {}), strokes, dots)
    specification: Specification = (
        layers.add_params(alt.param(name="hidden", value=[]))
        .properties(width="container", height=150, description=description)
        .configure(background="transparent", font="system-ui, sans-serif")
        .configure_axis(
            labelColor="var(--soft)",
            titleColor="var(--soft)",
            gridColor="var(--line)",
            domainColor="var(--line)",
            tickColor="var(--line)",
            titleFontWeight="normal",
            titleFontSize=11,
            labelFontSize=11,
            aria=False,
        )
        .configure_mark(aria=False)
        .configure_view(stroke=None)
        .to_dict()
    )
    return specification


def _axes(title: str, across: Sequence[float] | float, log: bool) -> tuple["alt.X", "alt.Y"]:
    """X over these steps, or from 0 to this value; y over the values that are shown."""
    import altair as alt

    if isinstance(across, Sequence):
        limits = [min(across) / 1.3, max(across) * 1.3]
        x_scale = alt.Scale(type="log", domain=limits, nice=False)
        x_axis = alt.Axis(values=list(across), format="d", grid=False)
    else:
        x_scale = alt.Scale(domain=[0, across], nice=False)
        x_axis = alt.Axis(labelExpr="format(datum.value, '~s')", tickCount=4, grid=False)
    labelled = alt.condition("datum.label", alt.value(1), alt.value(0))  # few on a log axis
    y_axis = alt.Axis(
        # Not `format`, which rounds to the step and then writes 8e+2.
        labelExpr="datum.label && format(datum.value, ',.4~r')",
        tickCount=4,
        gridOpacity=labelled,
        tickOpacity=labelled,
    )
    y_scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    x = alt.X("x:Q", title=title, scale=x_scale, axis=x_axis)
    return x, alt.Y("y:Q", title=None, scale=y_scale, axis=y_axis)


def _bands(bands: Mapping[str, tuple[float, float]]) -> list["alt.Chart"]:
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

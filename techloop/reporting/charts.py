"""Charts of the page: Vega-Lite specifications, drawn by JavaScript in the colours of the page."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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

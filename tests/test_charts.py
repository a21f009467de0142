"""Charts of the page: a specification holds its data and follows the colours of the page."""

import json

import numpy as np
import pytest

from techloop.reporting.charts import ON_PAGE, Line, line_chart


def lines() -> list[Line]:
    return [
        Line("kl", f"kl, {title}", 0, 0, thin, [(1.0, 2.0), (4.0, 3.123456789)])
        for title, thin in (("training", True), ("validation", False))
    ]


def rows(chart: dict, layer: int) -> list[dict]:
    """Data of a layer of a chart."""
    name = (chart["layer"][layer].get("data") or chart["data"])["name"]
    return chart["datasets"][name]


def encoding(chart: dict, layer: int) -> dict:
    return chart["layer"][layer]["encoding"]


def test_a_chart_holds_its_points() -> None:
    chart = line_chart(lines(), "words", ("loops seen", "loss"))
    points = [(row["title"], row["x"], row["y"]) for row in rows(chart, -1)]
    assert points == [
        *(("kl, training", 1, 2), ("kl, training", 4, 3.12346)),
        *(("kl, validation", 1, 2), ("kl, validation", 4, 3.12346)),
    ], "six digits are enough"
    assert chart["description"] == "words"
    assert '"url"' not in json.dumps(chart), "data are inside"
    assert chart == line_chart(lines(), "words", ("loops seen", "loss"))


def test_looks_tell_lines_apart() -> None:
    dashed = Line("wae", "wae", 7, 1, False, [(1.0, 1.0), (2.0, 2.0)])
    chart = line_chart([*lines(), dashed], "words", ("x", "y"))
    assert encoding(chart, 0)["strokeWidth"]["scale"]["range"] == [1, 2, 2]
    assert encoding(chart, 0)["strokeDash"]["scale"]["range"] == [[1, 0], [1, 0], [6, 3]]
    assert encoding(chart, 0)["color"]["scale"]["range"] == ["var(--c0)", "var(--c0)", "var(--c1)"]
    hollow = encoding(chart, 1)["fill"]["scale"]["range"]
    assert hollow == ["var(--c0)", "var(--c0)", "var(--paper)"]


def test_axes() -> None:
    plain = line_chart(lines(), "words", ("x", "y"))
    assert encoding(plain, 0)["x"]["title"] == "x"
    assert encoding(plain, 0)["x"]["scale"] == {"domain": [0, 4], "nice": False}
    assert encoding(plain, 0)["y"]["scale"] == {"zero": False}
    log = line_chart(lines(), "words", ("x", "y"), log=True)
    assert encoding(log, 0)["y"]["scale"] == {"type": "log"}
    steps = line_chart(lines(), "words", ("x", "y"), steps=[1.0, 4.0])
    assert encoding(steps, 0)["x"]["scale"]["type"] == "log"
    assert encoding(steps, 0)["x"]["axis"]["values"] == [1, 4]


def test_axes_of_one_title_are_refused() -> None:
    """The browser could not read what the nearest point is called by."""
    with pytest.raises(ValueError, match="x and y of a chart are both called 'loops seen'"):
        line_chart(lines(), "words", ("loops seen", "loops seen"))


def test_dots_are_seen_only_where_x_has_steps() -> None:
    for steps, opacity in (((), 0), ((1.0, 4.0), 1)):
        chart = line_chart(lines(), "words", ("x", "y"), steps=steps)
        assert encoding(chart, 1)["opacity"]["value"] == opacity


def test_bands_lie_behind_the_lines() -> None:
    chart = line_chart(lines(), "words", ("x", "y"), bands={"real": (1.0, 2.0)})
    assert rows(chart, 0) == [{"name": "real", "low": 1, "high": 2}]
    assert [layer["mark"]["type"] for layer in chart["layer"]] == ["rect", "text", "line", "point"]


def test_a_chart_has_the_colours_of_the_page() -> None:
    text = json.dumps(line_chart(lines(), "words", ("x", "y"), bands={"b": (1.0, 2.0)}))
    assert "var(--c0)" in text
    assert "#" not in text, "a colour that does not follow the page"


@pytest.mark.parametrize(("paper", "shade"), [("#faf9f6", 0), ("#121316", 1)])
def test_lines_stand_out_from_the_paper(paper: str, shade: int) -> None:
    """WCAG 2.2, 1.4.11: three to one."""

    def luminance(colour: str) -> float:
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for colours in ON_PAGE:
        dark, light = sorted((luminance(colours[shade]), luminance(paper)))
        assert (light + 0.05) / (dark + 0.05) >= 3, colours[shade]

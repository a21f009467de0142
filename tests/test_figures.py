"""Figures: written, the same bytes twice, different for different data, and nothing left open."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from techloop import figures

RNG = np.random.default_rng(0)
LEVELS = RNG.uniform(-80, -10, (3, 64, 240))
VALUES = RNG.uniform(-1, 1, (4, 3))
CURVES = RNG.uniform(size=(2, 9, 2))
POINTS = RNG.standard_normal((30, 2))
MEL = (30.0, 8000.0)

DRAWINGS = {
    "spectrograms": lambda path, x: figures.spectrogram_grid(
        path,
        LEVELS + x * np.linspace(0, 9, 240),
        ["one", "two", "three"],
        columns=2,
        span=(4, "beat"),
        mel_range_hz=MEL,
    ),
    "heatmap": lambda path, x: figures.correlation_heatmap(
        path, VALUES + x, np.abs(VALUES) > 0.2, list("abcd"), list("efg"), "Spearman"
    ),
    "probes": lambda path, x: figures.probe_bars(
        path, {"one": {"a": 0.4 + x, "b": np.nan}, "two": {"c": -0.1, "d": 0.2, "e": 0.9}}
    ),
    "paths": lambda path, x: figures.descriptor_paths(
        path, {"top": CURVES + x * CURVES**2, "cross-fade": CURVES}, ["LUFS", "Hz"], ["1", "2"]
    ),
    "walks": lambda path, x: figures.descriptor_walks(path, CURVES + x * CURVES**2, ["a", "b"]),
    "histogram": lambda path, x: figures.distance_histogram(
        path, {"generated": POINTS[:, 0] ** 2 + x, "real": POINTS[:, 1] ** 2}, "distance"
    ),
    "scatter": lambda path, x: figures.scatter(
        path, {"train": POINTS, "generated": POINTS * (0.5 + x)}, ("first", "second")
    ),
    "sweeps": lambda path, x: figures.sweeps(
        path,
        {
            name: {
                "weight": [0.1, 1.0, 10.0],
                "kl_nats_per_frame": [40 + x, 20, 5],
                "distance": [1.0, 1.1, 1.4 + i],
                "active_units": [16, 16 - i, 3],
                "mmd": [0.2, 0.1, 0.05],
            }
            for i, name in enumerate(("kl", "wae", "wae-gan"))
        },
        {"kl": 1.0, "wae": 0.1},
        16,
    ),
    "bands": lambda path, x: figures.band_errors(
        path, {"VAE": LEVELS[0, :, 0] + x, "noise": LEVELS[1, :, 0]}, MEL
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_figure_is_its_data(tmp_path, name):
    draw = DRAWINGS[name]
    for file, x in (("a", 0.0), ("b", 0.0), ("c", 0.3)):
        draw(tmp_path / f"{file}.png", x)
    a, b, c = ((tmp_path / f"{file}.png").read_bytes() for file in "abc")
    assert a == b
    assert a != c
    assert plt.get_fignums() == []
    pixels = plt.imread(tmp_path / "a.png")
    assert min(pixels.shape[:2]) > 200
    assert pixels[..., :3].std() > 0.02  # something is drawn
    assert b"Software" not in a
    assert b"tIME" not in a


def test_the_scale_is_shared_and_its_range_is_70_db(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(plt.Figure, "savefig", lambda figure, *_, **__: seen.append(figure))
    DRAWINGS["spectrograms"](tmp_path / "a.png", 0.0)
    limits = {image.get_clim() for ax in seen[0].axes for image in ax.images}
    assert limits == {(LEVELS.max() - 70, LEVELS.max())}


def test_panels_without_titles_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="3 spectrograms with 1 titles"):
        figures.spectrogram_grid(
            tmp_path / "a.png", LEVELS, ["one"], columns=2, span=(4, "beat"), mel_range_hz=MEL
        )
    assert not (tmp_path / "a.png").exists()
    assert plt.get_fignums() == []


def lines(x=0.0):
    return [
        figures.Line("kl", f"kl, {title}", 0, 0, thin, [(1.0, 2.0 + x), (4.0, 3.123456789)])
        for title, thin in (("training", True), ("validation", False))
    ]


def test_a_chart_is_its_data():
    def draw(x, **told):
        return json.dumps(figures.line_chart(lines(x), "words", ("x", "y"), **told), sort_keys=True)

    plain = draw(0.0)
    assert draw(0.0) == plain
    others = [
        draw(0.3),
        draw(0.0, log=True),
        draw(0.0, steps=[1.0, 4.0]),
        draw(0.0, bands={"b": (1.0, 2.0)}),
    ]
    assert len({plain, *others}) == 5
    assert "words" in plain
    assert "3.12346" in plain, "six digits are enough"
    assert "3.123456" not in plain
    assert '"url"' not in plain, "data are inside"


def test_a_chart_has_the_colours_of_the_page():
    text = json.dumps(figures.line_chart(lines(), "words", ("x", "y"), bands={"b": (1.0, 2.0)}))
    assert "var(--c0)" in text
    assert "#" not in text, "a colour that does not follow the page"


@pytest.mark.parametrize(("paper", "shade"), [("#faf9f6", 0), ("#121316", 1)])
def test_lines_stand_out_from_the_paper(paper, shade):
    """WCAG 2.2, 1.4.11: three to one."""

    def luminance(colour):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    for colours in figures.ON_PAGE:
        dark, light = sorted((luminance(colours[shade]), luminance(paper)))
        assert (light + 0.05) / (dark + 0.05) >= 3, colours[shade]

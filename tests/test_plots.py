"""Pictures: their artists hold the data they are given, and the same data give the same bytes."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from techloop.reporting import plots
from techloop.reporting.adversaries_plot import Decoder, adversaries
from techloop.reporting.close_up_plot import close_up
from techloop.reporting.sweep_plot import sweeps
from tests.helpers.figures import capture_figures

RNG = np.random.default_rng(0)
LEVELS = RNG.uniform(-80, -10, (3, 64, 240))
VALUES = RNG.uniform(-1, 1, (4, 3))
CURVES = RNG.uniform(size=(2, 9, 2))
POINTS = RNG.standard_normal((30, 2))
PAIRS = np.array([[0.1, 0.5, np.nan, 0.9], [-0.1, 0.3, 0.4, np.nan], [0.2, 0.4, 0.7, np.nan]])
MEL = (30.0, 8000.0)
SWEEPS = {
    name: {
        "weight": [0.1, 1.0, 10.0],
        "kl_nats_per_frame": [40.0, 20.0, 5.0],
        "distance": [1.0, 1.1, 1.4 + i],
        "active_units": [16.0, 16.0 - i, 3.0],
        "mmd": [0.2, 0.1, 0.05],
    }
    for i, name in enumerate(("kl", "wae", "wae-gan"))
}
Draw = Callable[[Path], None]
TUNED = [
    Decoder("scale", "hinge", (3.0, 1.0), (0.4, 0.05), (1.1, 0.01)),
    Decoder("scale", "classical", (20.0, 3.0), (0.2, 0.04), (1.2, 0.02)),
    Decoder("stft", "hinge", (2.0, 1.5), (0.6, 0.03), (1.05, 0.01)),
]
UNTUNED = Decoder("none", "not tuned", (2.8, 1.6), (0.34, 0.06), (1.21, 0.01))
DRAWINGS: dict[str, Draw] = {
    "spectrogram_grid": lambda path: plots.spectrogram_grid(
        path,
        LEVELS,
        ["one", "two", "three"],
        columns=2,
        span=(4, "beat"),
        mel_range_hz=MEL,
        rows=["above", "below"],
    ),
    "correlation_heatmap": lambda path: plots.correlation_heatmap(
        path, VALUES, np.abs(VALUES) > 0.2, list("abcd"), list("efg"), "Spearman"
    ),
    "control_gains": lambda path: plots.control_gains(
        path, np.array([[0.5, -2.0, np.nan], [0.0, 0.25, 1.0]]), ["up", "down"], list("efg"), [1, 2]
    ),
    "probe_bars": lambda path: plots.probe_bars(
        path, {"one": {"a": 0.4, "b": np.nan}, "two": {"c": -0.1, "d": 0.2, "e": 0.9}}
    ),
    "descriptor_paths": lambda path: plots.descriptor_paths(
        path, {"line": CURVES, "cross-fade": CURVES**2}, ["LUFS", "Hz"], ["1", "2"]
    ),
    "descriptor_walks": lambda path: plots.descriptor_walks(path, CURVES, ["a", "b"]),
    "distance_histogram": lambda path: plots.distance_histogram(
        path, {"generated": POINTS[:, 0] ** 2, "real": POINTS[:, 1] ** 2}, "distance"
    ),
    "paired_scatter": lambda path: plots.paired_scatter(
        path, PAIRS[0], {"before": PAIRS[1], "after": PAIRS[2]}, "original"
    ),
    "scatter": lambda path: plots.scatter(
        path, {"train": POINTS, "generated": POINTS / 2}, ("first", "second")
    ),
    "band_errors": lambda path: plots.band_errors(
        path, {"VAE": LEVELS[0, :, 0], "noise": LEVELS[1, :, 0]}, MEL
    ),
    "adversaries": lambda path: adversaries(path, TUNED, {"not tuned": UNTUNED}, 1.5),
    "close_up": lambda path: close_up(
        path,
        LEVELS,
        ["one", "two", "three"],
        first_beat=3.5,
        beats=1.0,
        beats_in_loop=4,
        top_hz=8000.0,
    ),
    "sweeps": lambda path: sweeps(path, SWEEPS, {"kl": 1.4, "wae": 0.1}, 16),
}


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Figure]:
    """Draws by name, and hands out the figure."""
    figures = capture_figures(monkeypatch)

    def drawn(name: str) -> Figure:
        DRAWINGS[name](tmp_path / "drawn.png")
        return figures["drawn.png"]

    return drawn


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def lines(ax: Axes) -> dict[str, list[float]]:
    """Values of y of each line, by its label."""
    return {str(line.get_label()): list(line.get_ydata()) for line in ax.lines}


@pytest.mark.parametrize("name", DRAWINGS)
def test_the_same_data_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    for file in ("a", "b"):
        DRAWINGS[name](tmp_path / f"{file}.png")
    a, b = ((tmp_path / f"{file}.png").read_bytes() for file in "ab")
    assert a == b
    assert plt.get_fignums() == []
    pixels = plt.imread(tmp_path / "a.png")
    assert min(pixels.shape[:2]) > 200
    assert pixels[..., :3].std() > 0.02  # something is drawn
    assert b"Software" not in a
    assert b"tIME" not in a


def test_spectrograms_share_a_scale_of_70_db(draw: Callable[[str], Figure]) -> None:
    panels = [ax for ax in draw("spectrogram_grid").axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["one", "two", "three"]
    for ax, levels in zip(panels, LEVELS, strict=True):
        (image,) = ax.images
        np.testing.assert_array_equal(image.get_array(), levels)
        assert image.get_clim() == (LEVELS.max() - 70, LEVELS.max())
        assert image.get_extent() == [0, 4, 0, 1]
    beats = [label.get_text() for label in panels[2].get_xticklabels()]
    assert beats == ["1", "2", "3", "4"], "of the lowest row"
    assert panels[0].get_ylabel() == "above\nfrequency (Hz)"
    assert panels[2].get_ylabel() == "below\nfrequency (Hz)"


def test_mel_axes_mark_their_frequencies(draw: Callable[[str], Figure]) -> None:
    ax = draw("band_errors").axes[0]
    marks = [label.get_text() for label in ax.get_xticklabels()]
    assert marks == ["100", "250", "500", "1k", "2k", "4k", "8k"]
    mel = [2595 * np.log10(1 + hz / 700) for hz in (30, 1000, 8000)]
    assert ax.get_xticks()[3] == pytest.approx((mel[1] - mel[0]) / (mel[2] - mel[0]))
    assert ax.get_xticks()[-1] == pytest.approx(1)


def test_bands_are_lines_over_frequency(draw: Callable[[str], Figure]) -> None:
    figure = draw("band_errors")
    drawn = lines(figure.axes[0])
    np.testing.assert_array_equal(drawn["VAE"], LEVELS[0, :, 0])
    np.testing.assert_array_equal(drawn["noise"], LEVELS[1, :, 0])
    colours = [line.get_color() for line in figure.axes[0].lines]
    assert colours == [plots.BLUE, plots.ORANGE], "the one to judge is blue"


def test_correlations_say_their_value_or_a_dot(draw: Callable[[str], Figure]) -> None:
    ax = draw("correlation_heatmap").axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), VALUES)
    assert ax.images[0].get_clim() == (-1, 1)
    expected = ["·" if abs(v) <= 0.2 else f"{v:.2f}".replace("-", "−") for v in VALUES.ravel()]
    assert texts(ax) == expected
    assert "·" in expected


def test_controls_frame_what_they_are_meant_to_raise(draw: Callable[[str], Figure]) -> None:
    ax = draw("control_gains").axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[0.5, -2, 0], [0, 0.25, 1]])
    assert ax.images[0].get_clim() == (-2, 2)
    assert texts(ax) == ["+0.50", "−2.00", "–", "+0.00", "+0.25", "+1.00"]
    frames = [p for p in ax.patches if isinstance(p, Rectangle) and not p.get_fill()]
    assert [frame.get_xy() for frame in frames] == [(0.5, -0.5), (1.5, 0.5)]


def test_probes_are_ranked_and_undefined_ones_say_so(draw: Callable[[str], Figure]) -> None:
    one, two = draw("probe_bars").axes
    assert [bar.get_width() for bar in one.patches] == [0, 0.4]
    assert texts(one) == ["undefined", "0.40"]
    assert [bar.get_width() for bar in two.patches] == [0, 0.2, 0.9]
    assert texts(two) == ["≤ 0", "0.20", "0.90"]
    assert [label.get_text() for label in two.get_yticklabels()] == ["c", "d", "e"]


def test_paths_are_a_column_each_and_descriptors_a_row(draw: Callable[[str], Figure]) -> None:
    figure = draw("descriptor_paths")
    axes = np.array(figure.axes).reshape(2, 2)
    for row in range(2):
        for path in range(2):
            drawn = lines(axes[row, path])
            np.testing.assert_array_equal(drawn["line"], CURVES[path, :, row])
            np.testing.assert_array_equal(drawn["cross-fade"], CURVES[path, :, row] ** 2)
    assert [axes[row, 0].get_ylabel() for row in range(2)] == ["LUFS", "Hz"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["line", "cross-fade"]


def test_walks_end_where_they_begin(draw: Callable[[str], Figure]) -> None:
    for row, ax in enumerate(draw("descriptor_walks").axes):
        for i, line in enumerate(ax.lines):
            walk = CURVES[i, :, row]
            np.testing.assert_array_equal(line.get_ydata(), [*walk, walk[0]])
            np.testing.assert_array_equal(line.get_xdata(), range(1, 11))


def test_histograms_are_shares_with_their_medians(draw: Callable[[str], Figure]) -> None:
    ax = draw("distance_histogram").axes[0]
    medians = np.median(POINTS**2, axis=0)
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx(medians)
    bars = [p.get_height() for p in ax.patches if isinstance(p, Rectangle)]
    assert len(bars) == 80
    assert sum(bars[:40]) == pytest.approx(100)
    assert sum(bars[40:]) == pytest.approx(100)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [
        f"{name} (median {m:.2f})" for name, m in zip(("generated", "real"), medians, strict=True)
    ]


def test_points_lie_where_they_are(draw: Callable[[str], Figure]) -> None:
    ax = draw("scatter").axes[0]
    first, second = ax.collections
    np.testing.assert_array_equal(first.get_offsets(), POINTS)
    np.testing.assert_array_equal(second.get_offsets(), POINTS / 2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first", "second")


def test_pairs_lie_on_axes_of_one_scale_that_hold_all_of_them(
    draw: Callable[[str], Figure],
) -> None:
    panels = draw("paired_scatter").axes
    for ax, values, label in zip(panels, PAIRS[1:], ("before", "after"), strict=True):
        offsets = np.ma.filled(ax.collections[0].get_offsets(), np.nan)
        np.testing.assert_array_equal(offsets[:2], np.stack([PAIRS[0], values], 1)[:2])
        assert ax.get_xlim() == ax.get_ylim() == panels[0].get_xlim()
        low, high = ax.get_xlim()
        assert low < -0.1
        assert 0.5 < high < 0.6, "points without both values widen no axis"
        assert list(ax.get_xticks()) == list(ax.get_yticks())
        assert lines(ax) == {"_child0": [low, high]}
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("original", label)


def test_a_close_up_has_one_scale_and_says_hertz_and_beats(
    draw: Callable[[str], Figure], tmp_path: Path
) -> None:
    panels = [ax for ax in draw("close_up").axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["one", "two", "three"]
    for ax, levels in zip(panels, LEVELS, strict=True):
        (image,) = ax.images
        np.testing.assert_array_equal(image.get_array(), levels)
        assert image.get_clim() == (LEVELS.max() - 70, LEVELS.max())
        # The first column and the lowest bin are centred on the corner.
        assert image.get_extent() == pytest.approx(
            [-1 / 480, 1 - 1 / 480, -8 / 126, 8 + 8 / 126], abs=1e-6
        )
        assert ax.get_ylim() == (0, 8)
        assert ax.get_xlabel() == "beat"
    beats = [label.get_text() for label in panels[0].get_xticklabels()]
    assert beats == ["4.5", "4.75", "1", "1.25", "1.5"], "around the circle"
    assert panels[0].get_ylabel() == "frequency (kHz)"
    with pytest.raises(ValueError, match="3 spectrograms with 1 titles"):
        close_up(
            tmp_path / "a.png",
            LEVELS,
            ["one"],
            first_beat=0.0,
            beats=1.0,
            beats_in_loop=4,
            top_hz=1000.0,
        )


def test_sweeps_ring_the_weight_nearest_to_the_default(draw: Callable[[str], Figure]) -> None:
    left, middle, right = draw("sweeps").axes
    for name, values in SWEEPS.items():
        assert lines(left)[name] == values["distance"]
        assert lines(middle)[name] == values["active_units"]
        assert lines(right)[name] == values["mmd"]
    rings = [ring.get_offsets().tolist()[0] for ring in left.collections]
    assert rings == [[20.0, 1.1], [40.0, 1.0]], "by the logarithm; none without a default"
    assert [ring.get_offsets().tolist()[0] for ring in right.collections] == [[1, 0.1], [0.1, 0.2]]


def test_adversaries_have_a_marker_per_kind_and_a_colour_per_objective(
    draw: Callable[[str], Figure],
) -> None:
    left, right = draw("adversaries").axes
    for ax, values in ((left, "tonality"), (right, "distance")):
        points = [container.lines[0] for container in ax.containers]
        decoders = [*TUNED, UNTUNED]
        assert [p.get_xdata().tolist() for p in points] == [
            [getattr(d, values)[0]] for d in decoders
        ]
        assert [p.get_ydata().tolist() for p in points] == [[d.kernel[0]] for d in decoders]
        looks = [(p.get_marker(), p.get_color()) for p in points]
        assert looks[0][0] == looks[1][0] != looks[2][0]
        assert looks[0][1] == looks[2][1] != looks[1][1]
        assert looks[3][1] == "#000000"
        across, _ = ax.containers[0].lines[2]
        ((start, end),) = across.get_segments()
        assert end[0] - start[0] == pytest.approx(2 * getattr(TUNED[0], values)[1])
        assert list(ax.lines[0].get_ydata()) == [1.5, 1.5], "real loops"
    low, high = left.get_ylim()
    assert low < 0
    assert high > 23


def test_panels_without_titles_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 spectrograms with 1 titles"):
        plots.spectrogram_grid(
            tmp_path / "a.png", LEVELS, ["one"], columns=2, span=(4, "beat"), mel_range_hz=MEL
        )
    assert not (tmp_path / "a.png").exists()
    assert plt.get_fignums() == []

"""The page's pictures and sounds of a fine-tuned decoder show what the evaluation left."""

from dataclasses import replace

import numpy as np
import pytest

from techloop.evaluation.close_ups import CloseUp
from techloop.evaluation.metrics.tonality import TONALITY_CORRELATION
from techloop.evaluation.result import Evaluation, Sound
from techloop.metric import by_name
from techloop.reporting.exhibits.decoder import exhibits
from tests.helpers.datasets import GRID, contents
from tests.helpers.figures import capture_figures, new_folder, panels, tick_labels

KINDS = ("original", "before", "after")
WORDS = ("original", "before fine-tuning", "after fine-tuning")
VIEWS = [
    CloseUp("noise", 3, 19_200, 7680, 512, 8000.0),
    CloseUp("tone", 5, 0, 7680, 1024, 8000.0),
    CloseUp("kick", 1, 28_800, 7680, 1024, 1000.0),
]


@pytest.fixture
def evaluation():
    """Made up: three examples, three close-ups."""
    rng = np.random.default_rng(0)
    arrays = {f"{kind}_db": rng.uniform(-80, 0, (3, 64, GRID.frames)) for kind in KINDS}
    arrays |= {f"tonality_{kind}": rng.uniform(-0.1, 0.9, 9) for kind in KINDS}
    arrays["tonality_before"][2] = np.nan
    for name in ("before", "after", "silence", "noise", "other_loop"):
        arrays[f"band_error_{name}_db"] = rng.uniform(0, 9, 64)
    views = []
    for view in VIEWS:
        bins = 1 + int(view.top_hz * view.window / GRID.sample_rate_hz)
        arrays[f"close_up_{view.kind}_db"] = rng.uniform(-90, -5, (3, bins, 120))
        values = dict.fromkeys(KINDS, np.nan if view.kind == "kick" else 0.25)
        views.append({**vars(view), "name": f"made/{view.kind}", "tonality": values})
    sounds = [
        Sound(
            f"{example}-{kind}.wav",
            np.zeros(GRID.samples, np.float32),
            {"example": example, "kind": kind, "name": f"made/{example}"}
            | ({} if kind == "original" else {"log_mel_l1_db": 2.25 if kind == "after" else 4.5}),
        )
        for example in ("best", "median", "worst", "noise", "tone", "kick")
        for kind in KINDS
    ]
    facts = {"loops": 9, "beats": 4, "mel_range_hz": (30.0, 8000.0)}
    facts |= {"samples_per_beat": 7680.0, "close_ups": views}
    correlation = TONALITY_CORRELATION.measured(0.6126, (0.5, 0.75), before=0.13)
    return Evaluation(by_name(correlation), arrays, facts, sounds=tuple(sounds))


def test_close_ups_then_figures_then_all_three_sounds_of_each_loop(tmp_path, evaluation):
    evaluation.write(tmp_path / "cell", GRID)
    before = contents(tmp_path / "cell")
    shown = exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures" / "cell"))
    assert contents(tmp_path / "cell") == before
    assert [exhibit.kind for exhibit in shown] == ["figure"] * 6 + ["audio"] * 18
    assert all(exhibit.file.is_file() for exhibit in shown)
    names = [exhibit.file.name for exhibit in shown[:6]]
    assert set(names) == set(contents(tmp_path / "pictures" / "cell"))
    assert names[:3] == [f"close_up_{kind}.png" for kind in ("noise", "tone", "kick")]
    assert [exhibit.title for exhibit in shown[6:]] == [
        f"{example}: {words}"
        for example in ("Best", "Median", "Worst", "Noise", "Tone", "Kick")
        for words in WORDS
    ]
    assert all(exhibit.loop for exhibit in shown[6:])
    captions = [exhibit.caption for exhibit in shown[6:9]]
    assert captions == [
        "made/best.",
        "made/best, log-mel error 4.5 dB.",
        "made/best, log-mel error 2.2 dB.",
    ]
    assert shown[15].caption == "made/noise, seen close up."
    tonal = next(exhibit for exhibit in shown if exhibit.file.name == "tonality.png")
    assert "of 8 test loops" in tonal.caption
    assert "The correlation is 0.13 before and 0.61 after fine-tuning." in tonal.caption
    assert "made/noise" in shown[0].caption
    assert "window of 512 samples" in shown[0].caption


def test_pictures_show_the_arrays(tmp_path, evaluation, monkeypatch):
    figures = capture_figures(monkeypatch)
    evaluation.write(tmp_path / "cell", GRID)
    exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures"))
    arrays = evaluation.arrays

    for view in VIEWS:
        shown = panels(figures[f"close_up_{view.kind}.png"])
        expected = arrays[f"close_up_{view.kind}_db"]
        for ax, levels in zip(shown, expected, strict=True):
            np.testing.assert_array_equal(ax.images[0].get_array(), levels)
            assert ax.images[0].get_clim() == (expected.max() - 70, expected.max())
        tonality = "" if view.kind == "kick" else " (tonality 0.25)"
        assert [ax.get_title() for ax in shown] == [f"{words}{tonality}" for words in WORDS]
    noise, tone, kick = (panels(figures[f"close_up_{view.kind}.png"])[0] for view in VIEWS)
    assert tick_labels(noise)[0] == ["3.5", "3.75", "4", "4.25", "4.5"]
    assert tick_labels(tone)[0][0] == "1"
    assert tick_labels(kick)[0] == ["4.75", "1", "1.25", "1.5", "1.75"], "around the circle"
    assert (noise.get_ylabel(), noise.get_ylim()) == ("frequency (kHz)", (0, 8))
    assert (kick.get_ylabel(), kick.get_ylim()) == ("frequency (Hz)", (0, 1000))

    shown = panels(figures["spectrograms.png"])
    levels = np.stack([np.asarray(ax.images[0].get_array()) for ax in shown])
    np.testing.assert_array_equal(levels, np.concatenate([arrays[f"{k}_db"] for k in KINDS]))
    assert [ax.get_title() for ax in shown[:3]] == [
        f"{rank} (2.2 dB)" for rank in ("best", "median", "worst")
    ]
    assert [ax.get_ylabel().split("\n")[0] for ax in shown[::3]] == list(WORDS)

    for ax, kind, words in zip(panels(figures["tonality.png"]), KINDS[1:], WORDS[1:], strict=True):
        (points,) = ax.collections
        expected = np.stack([arrays["tonality_original"], arrays[f"tonality_{kind}"]], 1)
        offsets = np.ma.filled(points.get_offsets(), np.nan)
        both = np.isfinite(expected).all(1)
        np.testing.assert_allclose(offsets[both], expected[both])
        assert ax.get_ylabel() == words

    (ax,) = panels(figures["bands.png"])
    sources = {WORDS[2]: "after", WORDS[1]: "before", "another loop": "other_loop"}
    assert [line.get_label() for line in ax.lines] == list(sources)
    for line in ax.lines:
        np.testing.assert_array_equal(
            line.get_ydata(), arrays[f"band_error_{sources[line.get_label()]}_db"]
        )


def test_without_a_loop_above_3_khz_the_kick_is_the_only_close_up(tmp_path, evaluation):
    facts = {**evaluation.facts, "close_ups": evaluation.facts["close_ups"][2:]}
    sounds = tuple(s for s in evaluation.sounds if s.facts["example"] not in ("noise", "tone"))
    replace(evaluation, facts=facts, sounds=sounds).write(tmp_path / "cell", GRID)
    shown = exhibits(tmp_path / "cell", new_folder(tmp_path / "pictures"))
    names = [exhibit.file.name for exhibit in shown if "close_up" in exhibit.file.name]
    assert names == ["close_up_kick.png"]

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from techloop.audio.descriptors import onset_strength
from techloop.audio.recording import Recording, Rejected, Rejection, Unreadable
from techloop.data.loops import Span, bar_line_samples, clean, cut, normalise, read, stretch
from techloop.data.source import Item
from techloop.data.tempo.beats import Beats, Tempo
from techloop.evaluation.metrics.rhythm import seam_ratio
from techloop.grid import Grid
from techloop.preparation_config import PreparationConfig
from tests.helpers.sources import CONFIG, GRID, GivenSource, bar, prepare_one, recording


def steady(bpm: float, downbeat_s: float = 0.0, *, circular: bool = False) -> Tempo:
    return Tempo(bpm, 1.0, downbeat_s, "onsets", circular=circular)


def prepared(x, config=CONFIG, bpm=GRID.bpm, **fields):
    """Loops, rows and rejects of one item."""
    source = GivenSource({"x": x}, bpm=bpm, overrides={"x": fields})
    (item,) = source.items()
    return prepare_one(source, item, config=config)


def loops_of(x, rate, tempo, grid=GRID, method="resample"):
    """Where each loop of a recording lies, and its audio on the grid."""
    whole = Recording(x, rate)
    spans, _ = cut(whole, tempo, grid)
    stretched = list(stretch(whole, tempo, spans, grid, method))
    assert [span for span, _ in stretched] == spans
    return spans, [audio for _, audio in stretched]


def reasons(rejected):
    return [(row["bar"], row["reason"]) for row in rejected]


@pytest.mark.parametrize("rate", [4000, 8000, 44_100])
def test_another_tempo_and_rate_land_on_the_grid(rate):
    bpm, n = 140.0, 5
    samples = round(n * 240 / bpm * rate)
    t = np.arange(samples) / samples
    x = (np.sin(2 * np.pi * 20 * n * t) * (1 + np.floor(n * t))).astype(np.float32)
    tempo = steady(60 * 4 * n / (samples / rate), circular=True)
    spans, loops = loops_of(x, rate, tempo)
    assert [span.bar for span in spans] == list(range(n))
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
    assert (spans[0].start, spans[-1].end) == (0, samples)
    expected = np.sin(2 * np.pi * 20 * np.arange(GRID.samples) / GRID.samples)
    for i, loop in enumerate(loops):
        middle = slice(300, -300)  # away from the cross-fade with a bar of another level
        np.testing.assert_allclose(loop[middle] / (i + 1), expected[middle], atol=0.05)


def test_bars_are_cut_from_the_downbeat_and_none_runs_out_of_the_recording():
    rate, lead = 8000, 1000
    clicks = np.zeros(lead + round(3.5 * 1.92 * rate), np.float32)
    clicks[[lead + round(k * 1.92 * rate) for k in range(4)]] = 1
    spans, loops = loops_of(clicks, rate, steady(125.0, lead / rate))
    assert [span.bar for span in spans] == [0, 1, 2]
    assert all(np.abs(loop).argmax() == 0 for loop in loops)


def test_bars_of_a_tempo_that_drifts_are_cut_where_they_are():
    rate = 8000
    time_s = np.linspace(0, 12, 1201)
    passed = 2 * time_s + 0.05 * time_s**2 - 1.0  # 120 BPM, getting faster; one beat before the bar
    tempo = Tempo(135.0, 1.0, 0.0, "onsets", circular=False, beats=Beats(time_s, passed))
    lines_s = np.interp(np.arange(0, passed[-1], 4), passed, time_s)
    x = np.zeros(12 * rate, np.float32)
    x[np.round(lines_s * rate).astype(int)] = 1
    spans, loops = loops_of(x, rate, tempo)
    assert len(spans) == len(lines_s) - 1 == 7
    assert all(np.abs(loop).argmax() == 0 for loop in loops)
    lengths = [span.end - span.start for span in spans]
    assert lengths == sorted(lengths, reverse=True)
    lines = bar_line_samples(Recording(x, rate), tempo, GRID)
    assert np.array_equal(lines, np.round(lines_s * rate))


@pytest.mark.parametrize("method", ["resample", "preserve_pitch"])
def test_bars_of_continuous_music_do_not_step_where_they_wrap(method):
    rate, grid = 22_050, Grid()
    t = np.arange(10 * rate) / rate
    x = np.sin(2 * np.pi * 97.3 * t).astype(np.float32)
    spans, loops = loops_of(x, rate, steady(110.0, 0.5), grid, method)
    assert len(spans) == 4
    for span, loop in zip(spans, loops, strict=True):
        inside = np.abs(np.diff(loop)).max()
        assert abs(loop[0] - loop[-1]) < 1.1 * inside
        plain = x[span.start : span.end]
        assert abs(plain[0] - plain[-1]) > 3 * np.abs(np.diff(plain)).max()


@pytest.mark.parametrize("method", ["resample", "preserve_pitch"])
def test_the_seam_of_the_evaluation_is_better_with_the_treatment(method, monkeypatch):
    """Chords and hats, no bar like another: what a cut through them leaves at the wrap."""
    rate, grid, rng = 22_050, Grid(), np.random.default_rng(0)
    t = np.arange(24 * rate) / rate
    tones = [rng.uniform(0.1, 0.3) * np.sin(2 * np.pi * f * t) for f in rng.uniform(80, 900, 12)]
    hat = rng.standard_normal(t.size) * np.exp(-40 * (t % (60 / 132)))
    x = (sum(tones) / 3 + 0.05 * hat).astype(np.float32)

    def ratio() -> float:
        _, loops = loops_of(x, rate, steady(132.0, 0.3), grid, method)
        audio = torch.from_numpy(np.stack(loops).astype(np.float32))
        strength = onset_strength(audio, grid.sample_rate_hz, grid.hop)
        return float(np.median(seam_ratio(strength.numpy(), grid)))

    treated = ratio()
    monkeypatch.setattr(
        "techloop.data.loops.close_seam", lambda x, start, end, *_, **__: x[start:end]
    )
    untreated = ratio()
    assert treated < 1.5
    assert untreated > 2 * treated


@pytest.mark.parametrize(
    ("method", "expected"), [("resample", 200 * 125 / 100), ("preserve_pitch", 200)]
)
def test_pitch_follows_tempo_or_stays(method, expected):
    rate, grid = 22_050, Grid()
    x = np.sin(2 * np.pi * 200 * np.arange(round(4.8 * rate)) / rate).astype(np.float32)
    for loop in loops_of(x, rate, steady(100.0, circular=True), grid, method)[1]:
        assert loop.shape == (grid.samples,)
        pitch_hz = np.abs(np.fft.rfft(loop)).argmax() / grid.duration_s
        assert pitch_hz == pytest.approx(expected, abs=1)


def test_preserving_pitch_keeps_the_rhythm_in_place_and_gives_the_same_bytes_twice():
    grid, rate = Grid(), 16_000
    t = np.arange(round(2.4 * rate)) / rate  # a bar of 100 BPM
    hits = np.sin(2 * np.pi * 1000 * t) * np.exp(-60 * (t % 0.6))
    tempo = steady(100.0, circular=True)
    (first,), (second,) = (
        loops_of(hits.astype(np.float32), rate, tempo, grid, "preserve_pitch")[1] for _ in range(2)
    )
    assert np.array_equal(first, second)
    level = resample_poly(np.abs(first), 1, 64)
    beats = np.array([level[round(b * len(level) / 4) :][:12].max() for b in range(4)])
    between = np.array([level[round((b + 0.6) * len(level) / 4) :][:12].max() for b in range(4)])
    assert beats.min() > 5 * between.max()


def test_what_is_on_the_grid_is_not_stretched():
    x = bar()
    for method in ("resample", "preserve_pitch"):
        tempo = steady(125.0, circular=True)
        _, (loop,) = loops_of(x, GRID.sample_rate_hz, tempo, method=method)
        assert np.array_equal(loop, x)


def test_a_bar_with_too_much_of_it_cut_off_is_left_out():
    x = np.concatenate([bar(i) for i in range(3)])
    clipped = GRID.samples + np.arange(500)
    loops, rows, rejected = prepared(recording(x, clipped))
    assert (len(loops), [row["bar_in_source"] for row in rows]) == (2, [0, 2])
    (row,) = rejected
    assert (row["bar"], row["reason"], row["limit"]) == (1, "clipped", 0.05)
    assert row["value"] == pytest.approx(500 / GRID.samples)
    few = recording(x, clipped[:100])
    assert prepared(few)[1][1]["clipped_share"] == pytest.approx(100 / GRID.samples)


def test_a_constant_is_taken_away_where_it_is_small_and_a_reason_where_it_is_not():
    for offset in (0.1, 0.4):
        loops, rows, rejected = prepared(bar() * 0.5 + np.float32(offset))
        if offset < CONFIG.max_dc_offset:
            assert rows[0]["dc_offset"] == pytest.approx(offset, abs=0.01)
            assert abs(loops[0].mean()) < 1
        else:
            assert reasons(rejected) == [(0, "dc_offset")]
            assert rejected[0]["value"] == pytest.approx(offset, abs=0.01)


def test_the_loop_that_a_file_marks_is_taken():
    rng = np.random.default_rng(0)
    lead, tail = (0.3 * rng.standard_normal(n).astype(np.float32) for n in (1234, 2345))
    loop = np.concatenate([bar(1), bar(2)])
    start = len(lead)
    marked = recording(
        np.concatenate([lead, loop, tail]),
        clipped=[start - 1, start, start + 1],
        loop=(start, start + len(loop)),
    )
    loops, rows, rejected = prepared(marked, bpm=None)
    assert len(loops) == 2
    assert rejected == []
    plain, _, _ = prepared(loop)
    assert all(np.array_equal(a, b) for a, b in zip(loops, plain, strict=True))
    assert rows[0]["clipped_share"] == pytest.approx(2 / GRID.samples)
    # The sustain of a note is not a loop.
    sustained = replace(marked, tags=replace(marked.tags, loop=(start, start + 500)))
    assert len(prepared(sustained, bpm=None)[1]) == 0 or prepared(sustained, bpm=None)[2]


@pytest.mark.parametrize("by", ["annotation", "tags"])
def test_another_meter_that_is_stated_is_left_out(by):
    if by == "annotation":
        loops, _, rejected = prepared(bar(), beats_per_bar=3)
    else:
        loops, _, rejected = prepared(recording(bar(), beats_per_bar=3))
    assert loops == []
    (row,) = rejected
    assert (row["bar"], row["reason"], row["value"], row["limit"]) == ("", "other_meter", 3, 4)
    assert len(prepared(bar(), beats_per_bar=4)[0]) == 1


def test_what_lies_before_the_first_bar_and_after_the_last_is_a_row_each():
    lead, bars = 1500, [bar(i) * (1 + 2 * (np.arange(GRID.samples) < 500)) for i in range(20)]
    bars = [x.astype(np.float32) for x in bars]
    x = np.concatenate([bars[-1][-lead:], *bars, bars[0][:3000]])
    _, rows, rejected = prepared(x, bpm=None)
    assert len(rows) == 20
    assert [row["bar_in_source"] for row in rows] == list(range(20))
    assert reasons(rejected) == [(-1, "incomplete"), (20, "incomplete")]
    beat = GRID.samples / 4
    np.testing.assert_allclose(
        [row["value"] for row in rejected], [lead / beat, 3000 / beat], atol=0.1
    )


def test_doubtful_tempi_are_left_out_with_the_evidence():
    noise = np.random.default_rng(3).standard_normal(23_456).astype(np.float32) * 0.1
    loops, _, rejected = prepared(noise, replace(CONFIG, min_confidence=0.9), bpm=None)
    assert loops == []
    (row,) = rejected
    assert (row["reason"], row["limit"]) == ("tempo_uncertain", 0.9)
    assert row["value"] < 0.9
    assert "onsets" in row["detail"]


def test_nothing_that_happens_to_an_item_raises():
    odd = GivenSource({"x": Unreadable("gone"), "y": MemoryError()})
    for item in odd.items():
        _, _, (row,) = prepare_one(odd, item)
        assert (row["file"], row["bar"], row["reason"]) == (item.name, "", "unreadable")


def test_what_a_source_rejects_is_not_read():
    class Unread(GivenSource):
        def read(self, item: Item):
            raise AssertionError("read")

    rejection = ("licence", "not allowed", "CC-BY-NC-3.0", "CC0")
    item = Item("x", rejection=Rejection(*rejection))
    with pytest.raises(Rejected, match="not allowed") as caught:
        read(Unread({}), item)
    assert caught.value.rejection == rejection
    _, _, (row,) = prepare_one(Unread({}), item)
    assert tuple(row.values()) == ("x", "", *rejection)


def test_clean_keeps_the_order_and_says_what_it_drops():
    good = Span(0, 0, 10, dc_offset=0.3, clipped_share=0.05)  # at the limits
    spans = [
        good,
        good._replace(bar=1, dc_offset=-0.31),
        good._replace(bar=2, clipped_share=0.06),
        good._replace(bar=3),
    ]
    clean_spans, rejected = clean(spans, CONFIG)
    assert [span.bar for span in clean_spans] == [0, 3]
    assert [(bar, rejection.reason) for bar, rejection in rejected] == [
        (1, "dc_offset"),
        (2, "clipped"),
    ]


def test_normalise_takes_one_loop_at_a_time():
    """Or the floats of two hours would be in memory at once."""
    given = []

    def one_by_one():
        for i in range(4):
            assert sum(audio() is not None for audio in given) <= 1
            audio = bar(i) * np.float32(i != 1)
            given.append(weakref.ref(audio))
            yield Span(i, 0, GRID.samples, 0.0, 0.0), audio

    loops, rejected = normalise(one_by_one(), GRID, CONFIG)
    assert [loop.span.bar for loop in loops] == [0, 2, 3]
    assert [(bar, rejection.reason) for bar, rejection in rejected] == [(1, "silent")]


@pytest.mark.parametrize(("low", "high"), [(0, 180), (180, 90), (120, 120)])
def test_limits_that_are_not_a_range_are_refused(low, high):
    fields = {**vars(CONFIG), "min_bpm": float(low), "max_bpm": float(high)}
    with pytest.raises(ValueError, match=f"min_bpm {low} and max_bpm {high} are not a range"):
        PreparationConfig(**fields)


@pytest.mark.parametrize("name", ["min_confidence", "max_clipped_share", "max_dc_offset"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_that_are_not_from_0_to_1_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value:g}; it must be from 0 to 1"):
        replace(CONFIG, **{name: value})

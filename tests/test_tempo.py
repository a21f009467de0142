import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from techloop.audio.recording import Rejected, Tags
from techloop.data.source import Item
from techloop.data.tempo.beats import Beats, Tempo
from techloop.data.tempo.candidates import fold_octave
from techloop.data.tempo.envelope import Envelope, onset_envelope, pulse_strength
from techloop.data.tempo.estimate import find_tempo
from techloop.data.tempo.stated import STATED, Stated, stated_tempi, tempo_in_name
from techloop.data.tempo.trackers import TRACKERS, beat_this_model

RATE = 22_050
SOUND_S = np.arange(int(0.2 * RATE)) / RATE
KICK = np.sin(2 * np.pi * (45 * SOUND_S - 4 * np.exp(-SOUND_S / 0.03))) * np.exp(-SOUND_S / 0.08)
BASS = 0.5 * np.sin(2 * np.pi * 55 * SOUND_S)


def played(events, duration_s, seed=0, hats=0.2):
    """Sounds (`k`ick, `b`ass, `h`at, `c`lap) at their times over a little noise."""
    rng = np.random.default_rng(seed)
    sounds = {
        "k": KICK,
        "b": BASS,
        "h": hats * rng.standard_normal(len(SOUND_S)) * np.exp(-SOUND_S / 0.02),
        "c": 0.3 * rng.standard_normal(len(SOUND_S)) * np.exp(-SOUND_S / 0.06),
    }
    samples = round(duration_s * RATE)
    x = 1e-3 * rng.standard_normal(samples + 2 * RATE)
    for time_s, sound in events:
        at = round(time_s * RATE)
        x[at : at + len(SOUND_S)] += sounds[sound][: max(len(x) - at, 0)]
    return x[:samples].astype(np.float32)


def music(bpm, duration_s, lead_s=0.0, seed=0, steps=(0, 4, 8, 12), hats=0.2):
    """Kicks on `steps`, a bass note on 1, hats off the beat, claps on 2 and 4."""
    where = {"k": steps, "b": (0,), "h": (2, 6, 10, 14), "c": (4, 12)}
    last = round((duration_s - lead_s) * bpm / 15 + 0.499)
    events = [(lead_s + i * 15 / bpm, s) for i in range(last) for s in where if i % 16 in where[s]]
    return played(events, duration_s, seed, hats)


def band(at, duration_s, meter=4, kicks=(0, 2)):
    """Music whose beats are at the times that a function of their number gives."""
    events = []
    for beat in range(int(4 * duration_s)):
        if (time_s := at(beat)) > duration_s:
            break
        place = beat % meter
        events += [(time_s, "k")] * (place in kicks) + [(time_s, "b")] * (place == 0)
        events += [(time_s, "c")] * (place in (1, 3)) + [(at(beat + 0.5), "h")]
    return played(events, duration_s)


def drifting(bpm_at, duration_s, lead_s):
    """The time of each beat where the tempo is a function of time, and the music."""
    time_s = np.linspace(0, duration_s + 5, 100_001)
    passed = np.concatenate([[0], np.cumsum(bpm_at(time_s)[:-1] / 60 * np.diff(time_s))])

    def at(beat):
        return lead_s + float(np.interp(beat, passed, time_s))

    return at, band(at, duration_s)


def drone(duration_s):
    t = np.arange(round(duration_s * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 98 * t)).astype(np.float32)


def noise(duration_s, seed=0):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(duration_s * RATE))).astype(np.float32)


def refused(x, **settings):
    """Why no tempo is found."""
    with pytest.raises(Rejected) as caught:
        find_tempo(x, RATE, **settings)
    return caught.value.rejection


def beats_off(estimated_s, true_s, bpm, beats=4):
    """How many beats a bar line is too late, on the circle of a bar."""
    return ((estimated_s - true_s) * bpm / 60 + beats / 2) % beats - beats / 2


# ---- What is written down


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("packs/kick_128bpm.wav", ("name", 128)),
        ("BPM 93.5 pad.wav", ("name", 93.5)),
        ("bpm128_loop.wav", ("name", 128)),
        ("Loop-174-BPM-Amen.flac", ("name", 174)),
        ("loop_drone_g_97.flac", ("number", 97)),
        ("acid 130 Am 01.wav", ("number", 130)),
        ("130.wav", ("number", 130)),
        ("take_02_125.wav", ("number", 125)),
        ("101_loop_128bpm_140.wav", ("name", 128)),
        ("909beat01.ogg", None),
        ("loop_808.wav", None),
        ("128/loop.wav", None),
        ("kick.wav", None),
        ("", None),
    ],
)
def test_tempo_in_a_name(name, expected):
    assert tempo_in_name(name) == (expected and Stated(expected[0], float(expected[1])))


def test_all_that_is_written_down_is_used():
    tags = Tags(bpm={"acid": 120.0, "tag": 121.0}, beats=16)
    stated = stated_tempi(Item("loop_128bpm.wav", bpm=127.0), tags, 8.0)
    assert dict(stated) == {
        "annotation": 127,
        "name": 128,
        "acid": 120,
        "tag": 121,
        "beats": 120,  # 16 in 8 s
    }
    assert set(dict(stated)) | {"number"} == set(STATED)
    assert stated_tempi(Item("loop_101.wav"), Tags(), 8.0) == [Stated("number", 101.0)]
    assert stated_tempi(Item("loop.wav"), Tags(), 8.0) == []


def test_what_an_editor_writes_into_a_one_shot_is_not_a_tempo():
    tags = Tags(bpm={"acid": 120.0}, beats=4, one_shot=True)
    assert stated_tempi(Item("kick.wav"), tags, 2.0) == []
    assert stated_tempi(Item("kick_128bpm.wav"), tags, 2.0) == [Stated("name", 128.0)]


@given(st.floats(30, 400), st.floats(60, 110))
def test_folding_finds_the_octave_of_a_range_that_is_one(bpm, low):
    folded = fold_octave(bpm, low, 2 * low)
    octaves = np.log2(folded / bpm)
    assert octaves == pytest.approx(round(octaves))
    if low / 4 <= bpm <= 8 * low:
        assert low - 1e-5 <= folded <= 2 * low + 1e-5


def test_a_tempo_without_an_octave_in_the_range_stays():
    assert fold_octave(100.0, 120.0, 150.0) == 100


# ---- Onsets and pulses


@pytest.mark.parametrize("rate", [8_000, RATE, 192_000])
def test_onsets_are_where_the_clicks_are_also_on_the_first_sample(rate):
    x = np.zeros(rate, np.float32)
    x[[0, rate // 2]] = 1
    envelope = onset_envelope(x, rate)
    assert isinstance(envelope, Envelope)
    flux = envelope.flux.sum(axis=1)
    loud = envelope.time_s[flux > flux.max() / 2]
    assert len(loud) >= 2
    assert np.abs((loud + 0.25) % 0.5 - 0.25).max() < 0.02
    assert envelope.level.shape == envelope.flux.shape
    assert len(envelope.level) == len(envelope.time_s)


def test_silence_has_no_onsets():
    assert not onset_envelope(np.zeros(RATE, np.float32), RATE).flux.any()


def test_pulses_are_strongest_at_their_rate():
    envelope = np.zeros(1600)
    envelope[::100] = 1
    strength = pulse_strength(envelope, np.arange(9.0, 19))
    assert strength.argmax() == 16 - 9
    assert pulse_strength(np.ones(1600), np.array([16.0])) == pytest.approx(0, abs=1e-6)


# ---- A steady tempo


@settings(max_examples=20, deadline=None)
@given(st.integers(91, 179), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_a_loop_of_whole_bars_is_exact(bpm, bars, seed):
    tempo = find_tempo(music(bpm, bars * 240 / bpm, seed=seed), RATE)
    assert tempo.bpm == pytest.approx(bpm, abs=0.02)  # half a sample of rounding in the length
    assert (tempo.downbeat_s, tempo.source, tempo.circular) == (0, "length", True)
    assert 0 < tempo.confidence <= 1
    assert tempo.steady


@pytest.mark.parametrize(("bpm", "bars"), [(93, 12), (128, 24), (174, 32)])
def test_a_track_of_whole_bars_is_exact(bpm, bars):
    tempo = find_tempo(music(bpm, bars * 240 / bpm), RATE)
    assert tempo.bpm == pytest.approx(bpm, abs=0.01)
    assert (tempo.downbeat_s, tempo.circular, tempo.beats) == (0, True, None)


@pytest.mark.parametrize("rate", [1_000, 8_000, 192_000])
def test_the_sampling_rate_does_not_matter(rate):
    t = np.arange(round(16 * 60 / 126 * rate)) / rate
    hits = np.random.default_rng(0).standard_normal(len(t)) * np.exp(-40 * (t % (60 / 126)))
    tempo = find_tempo(hits.astype(np.float32), rate)
    assert tempo.bpm == pytest.approx(126, abs=0.1)
    assert tempo.circular


LEADS = [(123.4, 0.31), (141.7, 1.234), (99.9, 2.0)]


@pytest.mark.parametrize(("bpm", "lead_s"), LEADS)
def test_a_track_with_a_lead_in_keeps_its_tempo(bpm, lead_s):
    tempo = find_tempo(music(bpm, 40.2, lead_s, steps=(0, 8)), RATE)
    assert tempo.bpm == pytest.approx(bpm, abs=0.1)
    assert (tempo.source, tempo.circular, tempo.steady) == ("onsets", False, True)


@pytest.mark.parametrize("steps", [(0, 8), (0, 4, 8, 12)])
@pytest.mark.parametrize(("bpm", "lead_s"), LEADS)
def test_a_track_with_a_lead_in_is_cut_from_its_first_bar(bpm, lead_s, steps):
    tempo = find_tempo(music(bpm, 40.2, lead_s, steps=steps), RATE)
    off = beats_off(tempo.downbeat_s, lead_s, bpm)
    if len(steps) == 4:  # with a kick on each beat and no phrases, only which beat is left to say
        off -= round(off)
    assert abs(off) * 60 / bpm < 0.012


def test_kicks_make_the_downbeat_where_hats_are_many():
    tempo = find_tempo(music(123.4, 40.2, lead_s=0.31, steps=(0, 8), hats=0.5), RATE)
    assert tempo.downbeat_s == pytest.approx(0.31, abs=0.012)


def test_a_minute_cut_anywhere_from_a_track_is_not_a_loop():
    # 32 bars of 128 BPM to the sample, but beginning in the middle of one.
    lead_s = 0.6 * 60 / 128
    tempo = find_tempo(music(128, 60, lead_s, steps=(0, 8)), RATE)
    assert tempo.bpm == pytest.approx(128, abs=0.05)
    assert not tempo.circular
    assert tempo.downbeat_s > 0


def phrases(change_beats, length_beats):
    """Kicks on every beat of 126.3 BPM; hats in every other phrase of so many beats."""

    def at(beat):
        return beat * 60 / 126.3

    hats = [b for b in range(100) if (b - change_beats) // length_beats % 2]
    events = [(at(b), "k") for b in range(100)]
    events += [(at(b + off), "h") for b in hats for off in (0.25, 0.5, 0.75)]
    return played(events, 45.1), at(change_beats)


@pytest.mark.parametrize("change_beats", [1, 2, 3])
def test_where_the_sound_changes_for_long_is_a_bar_line(change_beats):
    x, change_s = phrases(change_beats, length_beats=8)
    tempo = find_tempo(x, RATE)
    assert beats_off(tempo.downbeat_s, change_s, 126.3) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("change_beats", [0, 2])
def test_phrases_of_four_bars_are_not_another_meter(change_beats):
    x, change_s = phrases(change_beats, length_beats=16)
    tempo = find_tempo(x, RATE)
    assert beats_off(tempo.downbeat_s, change_s, 126.3) == pytest.approx(0, abs=0.05)


def test_the_length_alone_gives_a_drone_its_tempo():
    assert find_tempo(drone(8 * 60 / 97), RATE).bpm == pytest.approx(97, abs=0.01)


def test_the_octave_comes_from_the_range():
    x = music(150, 32 * 60 / 150)
    assert find_tempo(x, RATE).bpm == pytest.approx(150, abs=0.02)
    assert find_tempo(x, RATE, min_bpm=60.0, max_bpm=119.0).bpm == pytest.approx(75, abs=0.02)


@pytest.mark.parametrize("limits", [(60.0, 200.0), (120.0, 130.0), (125.0, 127.0)])
def test_ranges_that_are_not_an_octave(limits):
    tempo = find_tempo(music(126, 16 * 60 / 126), RATE, min_bpm=limits[0], max_bpm=limits[1])
    assert tempo.bpm == pytest.approx(126, abs=0.02)
    assert tempo.circular


# ---- Stated tempi against pulses


@pytest.mark.parametrize("by", STATED)
def test_what_is_stated_decides_where_the_audio_does_not(by):
    x = drone(12 * 60 / 145)  # 3 bars; as 2 bars it would be 97 BPM
    assert find_tempo(x, RATE).bpm == pytest.approx(145 * 8 / 12, abs=0.01)
    tempo = find_tempo(x, RATE, stated=[Stated(by, 145.0)])
    assert (tempo.bpm, tempo.source) == (pytest.approx(145, abs=0.01), by)
    assert f"{by} 145" in tempo.evidence
    assert "length 145 (3 bars)" in tempo.evidence
    assert tempo.circular


@pytest.mark.parametrize("bpm", [72.5, 290.0, 36.25])
def test_a_stated_octave_is_folded(bpm):
    tempo = find_tempo(drone(12 * 60 / 145), RATE, stated=[Stated("acid", bpm)])
    assert tempo.bpm == pytest.approx(145, abs=0.01)


@pytest.mark.parametrize("bpm", [0.0, -5.0, 5.0, 1000.0, float("nan"), float("inf")])
def test_a_tag_that_is_not_a_tempo_changes_nothing(bpm):
    x = music(126, 16 * 60 / 126)
    tempo, without = find_tempo(x, RATE, stated=[Stated("acid", bpm)]), find_tempo(x, RATE)
    assert (tempo.bpm, tempo.confidence, tempo.source) == (
        without.bpm,
        without.confidence,
        "length",
    )


@pytest.mark.parametrize("bpm", [60.0, 120.0])
def test_an_annotation_that_fits_the_length_is_taken_as_it_is(bpm):
    tempo = find_tempo(drone(4.0), RATE, stated=[Stated("annotation", bpm)], min_confidence=1.0)
    assert (tempo.bpm, tempo.confidence, tempo.source) == (bpm, 1.0, "annotation")
    assert (tempo.circular, tempo.downbeat_s) == (True, 0)


def test_an_annotation_that_contradicts_all_else_is_overruled():
    x = music(126, 16 * 60 / 126)
    assert find_tempo(x, RATE, stated=[Stated("annotation", 126.2)]).source == "annotation"
    tempo = find_tempo(x, RATE, stated=[Stated("annotation", 133.0)])
    assert (tempo.bpm, tempo.source) == (pytest.approx(126, abs=0.02), "length")
    assert "annotation 133" in tempo.evidence


def test_a_number_that_counts_something_else_is_not_taken_for_the_tempo():
    tempo = find_tempo(music(126, 8 * 60 / 126), RATE, stated=[Stated("number", 101.0)])
    assert (tempo.bpm, tempo.source) == (pytest.approx(126, abs=0.01), "length")


@pytest.mark.parametrize("duration_s", [5.1, 6.3, 9.1, 13.7])
def test_agreement_raises_confidence_and_disagreement_lowers_it(duration_s):
    x = music(126, duration_s)  # no whole number of bars
    alone, agrees, differs = (
        find_tempo(x, RATE, stated=[Stated("name", bpm)] if bpm else [])
        for bpm in (None, 126.0, 133.0)
    )
    for tempo in (alone, agrees, differs):
        assert tempo.bpm == pytest.approx(126, abs=0.05)
    assert agrees.confidence > 0.8 > alone.confidence >= differs.confidence
    assert (alone.source, agrees.source, differs.source) == ("onsets", "name", "onsets")


def test_a_name_that_the_music_contradicts_leaves_it_uncertain():
    x = music(126, 6.3)
    assert find_tempo(x, RATE, min_confidence=0.2).confidence > 0.5
    rejection = refused(x, stated=[Stated("name", 133.0)], min_confidence=0.2)
    assert rejection.reason == "tempo_uncertain"
    assert rejection.value < rejection.limit == 0.2
    assert "name 133" in rejection.detail
    assert "onsets 125.98" in rejection.detail


def test_a_drone_of_which_two_tempi_are_stated_is_uncertain():
    x = drone(12 * 60 / 145)
    annotated = Stated("annotation", 145.3)
    assert find_tempo(x, RATE, stated=[annotated], min_confidence=0.7).source == "annotation"
    rejection = refused(x, stated=[annotated, Stated("acid", 96.67)], min_confidence=0.2)
    assert rejection.reason == "tempo_uncertain"
    both = [annotated, Stated("acid", 145.0)]
    assert find_tempo(x, RATE, stated=both, min_confidence=0.9).bpm == pytest.approx(145, abs=0.01)


@pytest.mark.parametrize("duration_s", [0.0, 0.1, 0.6])
def test_less_than_two_beats_have_no_tempo(duration_s):
    rejection = refused(np.ones(round(duration_s * RATE), np.float32))
    assert rejection.reason == "tempo_uncertain"
    assert "too short" in rejection.detail
    assert rejection.value == pytest.approx(duration_s, abs=1e-3)


# ---- Whether it is known to be cut at bar lines


def test_a_file_of_thirteen_beats_is_whole_bars_only_where_that_is_known():
    x = music(120, 13 * 0.5)
    anyhow, cut, uncut = (find_tempo(x, RATE, exact=exact) for exact in (None, True, False))
    for tempo in (anyhow, uncut):
        assert tempo.bpm == pytest.approx(120, abs=0.05)
        assert not tempo.circular
    assert cut.bpm == pytest.approx(16 / 6.5 * 60)  # 4 bars, whatever they are
    assert (cut.circular, cut.downbeat_s) == (True, 0)


def test_a_piece_cut_anywhere_is_a_loop_only_where_that_is_known():
    x = music(128, 60, lead_s=0.6 * 60 / 128, steps=(0, 8))
    circular = [find_tempo(x, RATE, exact=exact).circular for exact in (None, True, False)]
    assert circular == [False, True, False]


def test_whole_bars_that_are_known_to_be_chance_are_not_a_circle():
    x = music(126, 16 * 60 / 126)
    assert find_tempo(x, RATE).source == "length"
    tempo = find_tempo(x, RATE, exact=False)
    assert (tempo.source, tempo.circular) == ("onsets", False)
    assert tempo.bpm == pytest.approx(126, abs=0.05)
    annotated = [Stated("annotation", 126.0)]
    assert find_tempo(x, RATE, stated=annotated).circular
    assert not find_tempo(x, RATE, stated=annotated, exact=False).circular


# ---- A tempo that drifts

DRIFTS = {
    "up": lambda t: 120 + 6 * t / 120,
    "down": lambda t: 140 - 7 * t / 120,
    "wobble": lambda t: 128 * (1 + 0.01 * np.sin(2 * np.pi * t / 40)),
    "step": lambda t: np.where(t < 60, 120.0, 124.0),
}


@pytest.mark.parametrize("lead_s", [0.0, 2.3])
@pytest.mark.parametrize("drift", DRIFTS)
def test_a_tempo_that_drifts_is_tracked_bar_by_bar(drift, lead_s):
    duration_s = 118.7
    at, x = drifting(DRIFTS[drift], duration_s, lead_s)
    tempo = find_tempo(x, RATE, min_confidence=0.5)
    assert not tempo.steady
    assert not tempo.circular
    assert tempo.bpm == pytest.approx(DRIFTS[drift](np.linspace(0, 117, 1000)).mean(), abs=0.6)

    lines = tempo.bar_lines_s(duration_s, 4)
    true = np.array([at(4 * bar) for bar in range(80)])
    assert lines[0] == tempo.downbeat_s
    assert 0 <= lines[0] < 2 * 60 / 120 * 4
    assert lines[-1] <= duration_s < lines[-1] + 2.1
    inside = lines[lines > lead_s - 0.1]  # before the music there may be one in the silence
    assert len(lines) - len(inside) <= 1
    error = inside - true[np.abs(true[:, None] - inside).argmin(axis=0)]
    assert np.abs(error[1:]).max() < 0.025
    assert abs(np.median(error)) < 0.005
    # Every bar is there, and once.
    assert np.ptp(np.diff(inside)) < 0.2


@pytest.mark.parametrize(("bpm", "lead_s"), [(127.3, 0.0), (127.3, 2.3), (93.0, 0.7), (174.2, 0.0)])
def test_a_steady_tempo_stays_steady(bpm, lead_s):
    tempo = find_tempo(band(lambda beat: lead_s + beat * 60 / bpm, 90.4), RATE)
    assert tempo.steady
    assert tempo.beats is None
    assert tempo.bpm == pytest.approx(bpm, abs=0.03)


def test_the_drift_of_what_is_cut_at_bar_lines_is_not_tracked():
    _, x = drifting(DRIFTS["step"], 118.7, 0.0)
    assert find_tempo(x, RATE, exact=True).steady
    assert not find_tempo(x, RATE, exact=False).steady


@settings(max_examples=50, deadline=None)
@given(st.floats(60, 200), st.floats(1, 100), st.floats(0, 1), st.sampled_from([3, 4]))
def test_bar_lines_of_a_steady_tempo(bpm, duration_s, where, beats_per_bar):
    bar_s = beats_per_bar * 60 / bpm
    tempo = Tempo(bpm, 1.0, where * min(bar_s, duration_s), "onsets", circular=False)
    lines = tempo.bar_lines_s(duration_s, beats_per_bar)
    assert lines[0] == tempo.downbeat_s
    assert np.allclose(np.diff(lines), bar_s)
    assert lines[-1] <= duration_s + 1e-5 * bar_s
    assert lines[-1] + bar_s > duration_s - 1e-5 * bar_s


def test_bar_lines_of_a_loop_end_at_its_last_sample():
    for bpm in np.arange(90.0, 180, 0.7):
        duration_s = round(32 * 60 / bpm * RATE) / RATE
        tempo = Tempo(32 * 60 / duration_s, 1.0, 0.0, "length", circular=True)
        lines = tempo.bar_lines_s(duration_s, 4)
        assert len(lines) == 9
        assert round(lines[-1] * RATE) == round(duration_s * RATE)


def test_bar_lines_follow_the_beats():
    # Half a beat before the first bar, then two bars in 4 s, then as many in 2 s, and a rest.
    beats = Beats(np.array([0.0, 0.25, 4.25, 6.25, 7.0]), np.array([-0.5, 0.0, 8.0, 16.0, 19.0]))
    tempo = Tempo(120.0, 1.0, 0.25, "onsets", circular=False, beats=beats)
    assert not tempo.steady
    np.testing.assert_allclose(tempo.bar_lines_s(7.0, 4), [0.25, 2.25, 4.25, 5.25, 6.25])
    np.testing.assert_allclose(tempo.bar_lines_s(7.0, 8), [0.25, 4.25, 6.25])


# ---- Meters


@pytest.mark.parametrize("duration_s", [60.3, None])
@pytest.mark.parametrize(("bpm", "meter"), [(120, 3), (140, 3), (130, 5), (128, 7)])
def test_other_meters_are_refused(bpm, meter, duration_s):
    x = band(lambda b: b * 60 / bpm, duration_s or 12 * meter * 60 / bpm, meter, kicks=(0,))
    rejection = refused(x)
    assert (rejection.reason, rejection.value, rejection.limit) == ("other_meter", meter, 4)


@pytest.mark.parametrize("bars", [8, 12, 31.4])
def test_four_beats_a_bar_are_accepted(bars):
    x = band(lambda b: b * 60 / 128, bars * 240 / 128, kicks=(0,))
    assert find_tempo(x, RATE).bpm == pytest.approx(128, abs=0.05)


@pytest.mark.parametrize("steps", [(0, 3, 6, 9, 12), (0, 6, 12), (0, 5, 10), (0, 3, 6, 10, 12)])
def test_syncopation_is_not_another_meter(steps):
    tempo = find_tempo(music(128, 16 * 240 / 128, steps=steps), RATE)
    assert tempo.bpm == pytest.approx(128, abs=0.02)


@pytest.mark.parametrize(("meter", "beats"), [(3, 6), (3, 12), (3, 18), (5, 10), (7, 14)])
def test_short_loops_do_not_show_their_meter(meter, beats):
    x = band(lambda b: b * 60 / 128, beats * 60 / 128, meter, kicks=(0,))
    assert find_tempo(x, RATE).bpm == pytest.approx(128, abs=0.1)


def test_four_beats_are_another_meter_where_the_grid_has_three():
    assert refused(music(126, 60.0), beats_per_bar=3).reason == "other_meter"


def test_three_beats_are_the_meter_where_the_grid_has_three():
    x = band(lambda b: b * 60 / 126, 48 * 60 / 126, 3, kicks=(0,))
    tempo = find_tempo(x, RATE, beats_per_bar=3)
    assert tempo.bpm == pytest.approx(126, abs=0.02)
    assert tempo.circular
    assert len(tempo.bar_lines_s(len(x) / RATE, 3)) == 17


def test_a_drone_has_no_meter():
    # 5 bars of 150 BPM: what is left of onsets repeats every 5 beats, by how frames are rounded.
    tempo = find_tempo(drone(8.0), RATE, stated=[Stated("name", 150.0)])
    assert tempo.bpm == pytest.approx(150)


# ---- Single hits


def hit(duration_s, decay_s, tone=False, at_s=0.0):
    t = np.arange(round(duration_s * RATE)) / RATE
    sound = np.sin(2 * np.pi * 50 * t) if tone else np.random.default_rng(0).standard_normal(len(t))
    x = np.zeros(len(t), np.float32)
    start = round(at_s * RATE)
    x[start:] = (sound * np.exp(-t / decay_s))[: len(t) - start]
    return x


@pytest.mark.parametrize("duration_s", [2.0, 4.0, 40.0])
@pytest.mark.parametrize(("decay_s", "tone"), [(0.05, True), (0.15, True), (0.1, False)])
def test_a_single_hit_has_no_tempo(duration_s, decay_s, tone):
    rejection = refused(hit(duration_s, decay_s, tone))
    assert (rejection.reason, rejection.value, rejection.limit) == ("single_hit", 1, 2)


def test_a_crash_or_a_late_or_noisy_hit_is_a_single_hit_whatever_is_stated():
    rng = np.random.default_rng(1)
    noisy = hit(2.0, 0.1) + 1e-3 * rng.standard_normal(2 * RATE).astype(np.float32)
    for x in (hit(2.0, 0.3), hit(3.0, 0.1, at_s=1.0), noisy):
        assert refused(x, stated=[Stated("acid", 120.0)]).reason == "single_hit"


def test_a_kick_per_bar_is_not_a_single_hit():
    bar_s = 240 / 126
    x = hit(2 * bar_s, 0.1, tone=True) + hit(2 * bar_s, 0.1, tone=True, at_s=bar_s)
    tempo = find_tempo(x, RATE)
    assert (tempo.bpm, tempo.circular) == (pytest.approx(126, abs=0.02), True)


def test_a_hit_before_a_long_steady_tone_is_not_a_single_hit():
    x = drone(8.0) * (1 - np.exp(-np.arange(8 * RATE) / RATE / 0.2)).astype(np.float32)
    assert find_tempo(x + hit(8.0, 0.1, tone=True), RATE).bpm == pytest.approx(120)


def test_a_hit_before_a_long_steady_chord_is_not_a_single_hit():
    t = np.arange(8 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in 65 * 2 ** (np.arange(20) / 3))
    x = (0.02 * chord).astype(np.float32) + 0.3 * hit(8.0, 0.02)  # 15 dB above it
    assert find_tempo(x, RATE).bpm == pytest.approx(120)


# ---- Without a tempo


@pytest.mark.parametrize("duration_s", [0.7, 2.0, 8.0, 31.0])
@pytest.mark.parametrize("gain", [1.0, 1e-6])
def test_noise_gets_a_verdict_of_numbers(duration_s, gain):
    tempo = find_tempo(noise(duration_s) * np.float32(gain), RATE)
    assert np.isfinite([tempo.bpm, tempo.confidence, tempo.downbeat_s]).all()
    assert np.isfinite(tempo.bar_lines_s(duration_s, 4)).all()
    assert 90 <= tempo.bpm <= 180
    assert 0 <= tempo.confidence <= 1


def test_noise_is_less_sure_than_music():
    # Below 0.2 it is refused, as are about a third of these; a length of whole bars may do.
    of_noise = [find_tempo(noise(8.0, seed), RATE).confidence for seed in range(12)]
    of_music = [find_tempo(music(120, 8.0, seed=s), RATE).confidence for s in range(3)]
    assert np.median(of_noise) < 0.5 < min(of_music)
    unsure = int(np.argmin(of_noise))
    assert of_noise[unsure] < 0.2
    rejection = refused(noise(8.0, unsure), min_confidence=0.2)
    assert (rejection.reason, rejection.value) == ("tempo_uncertain", round(of_noise[unsure], 3))


@pytest.mark.parametrize("duration_s", [40.0, 120.0])
def test_long_noise_does_not_drift(duration_s):
    assert find_tempo(noise(duration_s), RATE).steady


def test_noise_that_is_not_cut_at_bar_lines_is_uncertain():
    assert refused(noise(8.0), exact=False, min_confidence=0.2).reason == "tempo_uncertain"


def test_silence_gets_a_tempo():
    tempo = find_tempo(np.zeros(4 * RATE, np.float32), RATE)
    assert tempo.bpm == 120
    assert 0 <= tempo.confidence < 0.5


def test_long_silence_is_steady():
    assert find_tempo(np.zeros(60 * RATE, np.float32), RATE).steady


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 30), (30, 60)])
def test_silence_for_half_a_track_changes_nothing(start_s, end_s):
    x = music(126, 60.0, steps=(0, 8))
    x[start_s * RATE : end_s * RATE] = 0
    tempo = find_tempo(x, RATE)
    assert tempo.bpm == pytest.approx(126, abs=0.02)
    assert tempo.steady


def test_clipping_to_square_waves_changes_nothing():
    x = np.clip(50 * music(126, 16 * 60 / 126), -1, 1)
    tempo = find_tempo(x, RATE)
    assert (tempo.bpm, tempo.circular) == (pytest.approx(126, abs=0.02), True)


# ---- Trackers


@pytest.fixture
def asked(monkeypatch):
    """Which trackers were asked; both say 126."""
    calls = []

    def tracker(name):
        def track(x, sample_rate_hz, envelope):
            calls.append(name)
            return 126.0, None

        return track

    for name in ("librosa", "beat_this"):
        monkeypatch.setitem(TRACKERS, name, tracker(name))
    return calls


def test_librosa_is_asked_only_in_doubt(asked):
    sure = find_tempo(music(126, 16 * 60 / 126), RATE)
    assert sure.confidence > 0.5
    assert asked == []
    assert "librosa" not in sure.evidence
    tempo = find_tempo(drone(8 * 60 / 97), RATE)
    assert asked == ["librosa"]
    assert "librosa 126" in tempo.evidence


def test_beat_this_is_always_asked_where_it_is_wanted(asked):
    tempo = find_tempo(music(126, 16 * 60 / 126), RATE, tracker="beat_this")
    assert asked == ["beat_this"]
    assert "beat_this 126" in tempo.evidence


def test_a_tracker_that_agrees_raises_confidence(monkeypatch):
    x, confidence = music(126, 5.1), []
    for bpm in (0.0, 126.3, 63.0, 150.0):  # 0: it finds no beat; 63 is folded
        answer = (bpm, None)
        monkeypatch.setitem(TRACKERS, "beat_this", lambda *_, a=answer: a)
        confidence.append(find_tempo(x, RATE, tracker="beat_this").confidence)
    nothing, agrees, octave, differs = confidence
    assert agrees == octave > nothing >= differs


def test_librosa_finds_the_pulse_of_music():
    x = music(126, 16 * 60 / 126)
    bpm, downbeats_s = TRACKERS["librosa"](x, RATE, onset_envelope(x, RATE))
    assert bpm == pytest.approx(126, rel=0.03)
    assert downbeats_s is None


@pytest.fixture
def beat_this(monkeypatch):
    """Installs a module as `beat_this.inference`."""
    beat_this_model.cache_clear()

    def install(module):
        monkeypatch.setitem(sys.modules, "beat_this", types.ModuleType("beat_this"))
        monkeypatch.setitem(sys.modules, "beat_this.inference", module)

    yield install
    beat_this_model.cache_clear()


def stub(beats_s, downbeats_s, loaded):
    """A module like `beat_this.inference` that returns these beats."""

    class Audio2Beats:
        def __init__(self, checkpoint_path, device):
            loaded.append((checkpoint_path, device))

        def __call__(self, signal, sr):
            assert signal.ndim == 1
            assert sr == RATE
            return np.array(beats_s), np.array(downbeats_s)

    module = types.ModuleType("beat_this.inference")
    module.Audio2Beats = Audio2Beats
    return module


def test_beat_this_that_is_not_installed_is_named(beat_this):
    beat_this(None)  # importing it fails
    with pytest.raises(ValueError, match="pip install beat-this"):
        find_tempo(music(126, 7.3), RATE, tracker="beat_this")


@pytest.mark.parametrize("downbeat", [0, 1, 2, 3])
def test_tempo_and_downbeats_of_beat_this_are_used(beat_this, downbeat):
    loaded, beats_s = [], 0.31 + np.arange(80) * 60 / 123.4
    beat_this(stub(beats_s, beats_s[downbeat::4], loaded))
    x = music(123.4, 40.2, lead_s=0.31)
    tempo = find_tempo(x, RATE, tracker="beat_this")
    assert "beat_this 123.4" in tempo.evidence
    assert tempo.bpm == pytest.approx(123.4, abs=0.05)
    off = beats_off(tempo.downbeat_s, beats_s[downbeat], 123.4)
    assert off == pytest.approx(0, abs=0.02)
    find_tempo(x, RATE, tracker="beat_this")
    assert loaded == [("final0", "cpu")]  # once


def test_beat_this_decides_what_the_audio_does_not(beat_this):
    x = drone(12 * 60 / 145)
    beat_this(stub(np.arange(12) * 60 / 145, [], []))
    assert find_tempo(x, RATE, tracker="librosa").bpm == pytest.approx(145 * 8 / 12, abs=0.01)
    assert find_tempo(x, RATE, tracker="beat_this").bpm == pytest.approx(145, abs=0.01)


@pytest.mark.parametrize("beats_s", [[], [1.0]])
def test_beat_this_may_find_nothing(beat_this, beats_s):
    beat_this(stub(beats_s, [], []))
    tempo = find_tempo(music(126, 16 * 60 / 126), RATE, tracker="beat_this")
    assert tempo.bpm == pytest.approx(126, abs=0.02)


def test_downbeats_of_beat_this_place_the_bars_of_a_drifting_track(beat_this):
    at, x = drifting(DRIFTS["wobble"], 60.3, 0.0)
    beats_s = [at(b) for b in range(125)]
    for downbeat in (0, 3):
        beat_this_model.cache_clear()
        beat_this(stub(beats_s, beats_s[downbeat::4], []))
        tempo = find_tempo(x, RATE, tracker="beat_this")
        assert not tempo.steady
        assert abs(beats_off(tempo.downbeat_s, beats_s[downbeat], 128)) < 0.1

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from techloop.tempo import find_tempo, fold, onset_envelope, pulse_strength, tempo_in_name

RATE = 22_050


def music(bpm, duration_s, lead_s=0.0, seed=0, steps=(0, 4, 8, 12), hats=0.2):
    """Kicks on `steps`, a bass note on 1, hats off the beat, claps on 2 and 4."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(0.2 * RATE)) / RATE
    kick = np.sin(2 * np.pi * (45 * t - 4 * np.exp(-t / 0.03))) * np.exp(-t / 0.08)
    bass = 0.5 * np.sin(2 * np.pi * 55 * t)
    hat = hats * rng.standard_normal(len(t)) * np.exp(-t / 0.02)
    clap = 0.3 * rng.standard_normal(len(t)) * np.exp(-t / 0.06)
    samples = round(duration_s * RATE)
    x = 1e-3 * rng.standard_normal(samples + 2 * RATE)
    step_s = 15 / bpm
    for i in range(round((duration_s - lead_s) / step_s + 0.499)):
        at = round((lead_s + i * step_s) * RATE)
        sounds = [(kick, steps), (bass, (0,)), (hat, (2, 6, 10, 14)), (clap, (4, 12))]
        for sound, where in sounds:
            if i % 16 in where:
                x[at : at + len(t)] += sound
    return x[:samples].astype(np.float32)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("packs/kick_128bpm.wav", (128, True)),
        ("BPM 93.5 pad.wav", (93.5, True)),
        ("bpm128_loop.wav", (128, True)),
        ("Loop-174-BPM-Amen.flac", (174, True)),
        ("loop_drone_g_97.flac", (97, False)),
        ("acid 130 Am 01.wav", (130, False)),
        ("130.wav", (130, False)),
        ("take_02_125.wav", (125, False)),
        ("909beat01.ogg", None),
        ("loop_808.wav", None),
        ("128/loop.wav", None),
        ("kick.wav", None),
        ("", None),
    ],
)
def test_tempo_in_a_name(name, expected):
    assert tempo_in_name(name) == expected


@given(st.floats(30, 400), st.floats(60, 110))
def test_folding_finds_the_octave_of_a_range_that_is_one(bpm, low):
    folded = fold(bpm, low, 2 * low)
    octaves = np.log2(folded / bpm)
    assert octaves == pytest.approx(round(octaves))
    if low / 4 <= bpm <= 8 * low:
        assert low - 1e-5 <= folded <= 2 * low + 1e-5


def test_a_tempo_with_no_octave_in_the_range_stays():
    assert fold(100.0, 120.0, 150.0) == 100


def test_onsets_are_where_the_clicks_are_also_on_the_first_sample():
    x = np.zeros(RATE, np.float32)
    x[[0, RATE // 2]] = 1
    envelope = onset_envelope(x, RATE).sum(axis=1)
    loud = np.flatnonzero(envelope > envelope.max() / 2) / len(envelope)
    assert np.minimum(np.abs(loud % 0.5), np.abs(0.5 - loud % 0.5)).max() < 0.04
    assert len(loud) >= 2


def test_silence_has_no_onsets():
    assert not onset_envelope(np.zeros(RATE, np.float32), RATE).any()


def test_pulses_are_strongest_at_their_rate():
    envelope = np.zeros(1600)
    envelope[::100] = 1
    strength = pulse_strength(envelope, np.arange(9.0, 19))
    assert strength.argmax() == 16 - 9
    assert pulse_strength(np.ones(1600), np.array([16.0])) == pytest.approx(0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(91, 179), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_a_loop_of_whole_bars_is_exact(bpm, bars, seed):
    tempo = find_tempo(music(bpm, bars * 240 / bpm, seed=seed), RATE)
    assert tempo.bpm == pytest.approx(bpm, abs=0.02)  # half a sample of rounding in the length
    assert (tempo.downbeat_s, tempo.source, tempo.circular) == (0, "length", True)
    assert 0 < tempo.confidence <= 1


@pytest.mark.parametrize(("bpm", "bars"), [(93, 12), (128, 24), (174, 32)])
def test_a_track_of_whole_bars_is_exact(bpm, bars):
    tempo = find_tempo(music(bpm, bars * 240 / bpm), RATE)
    assert tempo.bpm == pytest.approx(bpm, abs=0.01)
    assert (tempo.downbeat_s, tempo.circular) == (0, True)


@pytest.mark.parametrize(("bpm", "lead_s"), [(123.4, 0.31), (141.7, 1.234), (99.9, 2.0)])
def test_a_track_with_a_lead_in_is_followed_from_its_first_bar(bpm, lead_s):
    tempo = find_tempo(music(bpm, 40.2, lead_s, steps=(0, 8)), RATE)
    assert tempo.bpm == pytest.approx(bpm, abs=0.1)
    bar_s = 240 / tempo.bpm
    error_s = (tempo.downbeat_s - lead_s + bar_s / 2) % bar_s - bar_s / 2
    assert abs(error_s) < 0.008
    assert (tempo.source, tempo.circular) == ("onsets", False)


def test_kicks_make_the_downbeat_where_hats_are_many():
    tempo = find_tempo(music(123.4, 40.2, lead_s=0.31, steps=(0, 8), hats=0.5), RATE)
    assert tempo.downbeat_s == pytest.approx(0.31, abs=0.01)


def test_a_minute_cut_anywhere_from_a_track_is_no_loop():
    # 32 bars of 128 BPM to the sample, but beginning in the middle of one.
    tempo = find_tempo(music(128, 60, lead_s=0.6 * 60 / 128, steps=(0, 8)), RATE)
    assert tempo.bpm == pytest.approx(128, abs=0.05)
    assert not tempo.circular
    assert tempo.downbeat_s == pytest.approx(0.6 * 60 / 128, abs=0.008)


def drone(duration_s):
    t = np.arange(round(duration_s * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 98 * t)).astype(np.float32)


def test_the_length_alone_gives_a_drone_its_tempo():
    assert find_tempo(drone(8 * 60 / 97), RATE).bpm == pytest.approx(97, abs=0.01)


@pytest.mark.parametrize("name", ["drone_145bpm.wav", "drone_145.wav"])
def test_a_name_overrides_what_the_length_would_say(name):
    x = drone(12 * 60 / 145)  # 3 bars; as 2 bars it would be 97 BPM
    assert find_tempo(x, RATE).bpm == pytest.approx(145 * 8 / 12, abs=0.01)
    tempo = find_tempo(x, RATE, name=name)
    assert (tempo.bpm, tempo.source) == (pytest.approx(145, abs=0.01), "name")


def test_a_number_that_counts_something_else_is_not_taken_for_the_tempo():
    tempo = find_tempo(music(126, 8 * 60 / 126), RATE, name="pack_101.wav")
    assert (tempo.bpm, tempo.source) == (pytest.approx(126, abs=0.01), "length")


def test_the_octave_comes_from_the_range():
    x = music(150, 32 * 60 / 150)
    assert find_tempo(x, RATE).bpm == pytest.approx(150, abs=0.02)
    assert find_tempo(x, RATE, min_bpm=60.0, max_bpm=119.0).bpm == pytest.approx(75, abs=0.02)


def test_an_annotation_that_fits_the_length_is_taken_as_it_is():
    tempo = find_tempo(drone(4 * 60 / 60), RATE, annotated_bpm=60.0)
    assert (tempo.bpm, tempo.confidence, tempo.source) == (60.0, 1.0, "annotation")
    assert tempo.circular


def test_an_annotation_that_contradicts_all_else_is_overruled():
    x = music(126, 16 * 60 / 126)
    assert find_tempo(x, RATE, annotated_bpm=126.2).source == "annotation"
    assert find_tempo(x, RATE, annotated_bpm=133.0).bpm == pytest.approx(126, abs=0.02)


def test_less_than_two_beats_have_no_tempo():
    with pytest.raises(ValueError, match=r"0\.1 s is too short"):
        find_tempo(np.ones(RATE // 10, np.float32), RATE)

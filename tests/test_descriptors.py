"""Descriptors: librosa as oracle, closed forms, silence, rotation, rhythm of rendered loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from techloop.audio.descriptors import (
    FLOOR_DB,
    ONSET_WINDOW,
    UNITS,
    WINDOW,
    frame_descriptors,
    kick_on_beat,
    kicks,
    loop_descriptors,
    onset_strength,
    onsets,
    pulse_clarity,
)
from techloop.data.sources.synth.source import SynthSource
from techloop.grid import Grid

GRID = Grid()
RATE, HOP = GRID.sample_rate_hz, GRID.hop


@pytest.fixture(scope="module")
def burst():
    """Noise and two tones in the middle of a loop, with silence around, so that nothing wraps."""
    rng = np.random.default_rng(0)
    n = np.arange(GRID.samples)
    envelope = np.zeros(GRID.samples)
    envelope[8000:22000] = np.hanning(14000)
    tones = np.sin(2 * np.pi * 220 * n / RATE) + 0.3 * np.sin(2 * np.pi * 3100 * n / RATE)
    return (0.3 * envelope * (tones + 0.05 * rng.standard_normal(n.size))).astype(np.float32)


@pytest.fixture(scope="module")
def burst_descriptors(burst):
    values = frame_descriptors(torch.from_numpy(burst)[None], RATE, HOP)
    return {name: value[0].numpy() for name, value in values.items()}


def tone(hz, amplitude=1.0):
    n = torch.arange(GRID.samples, dtype=torch.float64)
    return (amplitude * torch.sin(2 * math.pi * hz * n / RATE)).float()[None]


def kick_pattern(positions, hz=60.0, decay_s=0.08):
    """A decaying low sine at each position (in beats), wrapping around."""
    t = torch.arange(GRID.samples) / RATE
    hit = torch.exp(-t / decay_s) * torch.sin(2 * math.pi * hz * t)
    beat = GRID.samples / GRID.beats
    return sum(hit.roll(round(p * beat)) for p in positions)[None] * 0.8


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("centroid_hz", {}),
        ("bandwidth_hz", {}),
        ("rolloff_hz", {"roll_percent": 0.85}),
        ("flatness", {}),
    ],
)
def test_spectral_shape_is_librosas(burst, burst_descriptors, name, arguments):
    import librosa

    feature = {
        "centroid_hz": librosa.feature.spectral_centroid,
        "bandwidth_hz": librosa.feature.spectral_bandwidth,
        "rolloff_hz": librosa.feature.spectral_rolloff,
        "flatness": librosa.feature.spectral_flatness,
    }[name]
    spectrum = np.abs(librosa.stft(burst, n_fft=WINDOW, hop_length=HOP))
    if name != "flatness":
        arguments = {"sr": RATE, **arguments}
    expected = feature(S=spectrum, **arguments)[0, : GRID.frames]
    inside = slice(70, 165)
    np.testing.assert_allclose(burst_descriptors[name][inside], expected[inside], rtol=2e-3)


def test_zero_crossing_rate_is_librosas(burst, burst_descriptors):
    import librosa

    expected = librosa.feature.zero_crossing_rate(burst, frame_length=WINDOW, hop_length=HOP)
    per_second = expected[0, : GRID.frames] * RATE
    # librosa leaves out the first of a frame's samples.
    assert (
        np.abs(burst_descriptors["zero_crossing_rate"] - per_second).max() <= 1.01 * RATE / WINDOW
    )


def test_band_levels_add_up_to_librosas_rms(burst, burst_descriptors):
    import librosa

    spectrum = np.abs(librosa.stft(burst, n_fft=WINDOW, hop_length=HOP))
    rms = librosa.feature.rms(S=spectrum, frame_length=WINDOW)[0, : GRID.frames]
    bands = sum(10 ** (burst_descriptors[name] / 10) for name in ("low_db", "mid_db", "high_db"))
    inside = slice(70, 165)
    np.testing.assert_allclose(bands[inside], rms[inside] ** 2 / (3 / 8), rtol=1e-3)


def test_onset_strength_is_librosas_of_librosas_levels(burst):
    import librosa

    power = np.abs(librosa.stft(burst, n_fft=ONSET_WINDOW, hop_length=HOP)) ** 2
    filters = librosa.filters.mel(sr=RATE, n_fft=ONSET_WINDOW, n_mels=40, fmin=60, htk=True)
    mel = filters / filters.sum(1, keepdims=True) @ (power * (4 / ONSET_WINDOW) ** 2)
    level = librosa.power_to_db(mel, amin=1e-6, top_db=None)
    expected = librosa.onset.onset_strength(S=level, sr=RATE, hop_length=HOP, center=False)
    strength = onset_strength(torch.from_numpy(burst)[None], RATE, HOP)[0].numpy()
    inside = slice(70, 165)
    np.testing.assert_allclose(strength[inside], expected[inside], atol=1e-3)


def test_full_scale_sine_at_997_hz_has_the_loudness_of_the_standard():
    """BS.1770-4: 0 dBFS at 997 Hz on one channel reads -3.01 LKFS; here 1,000 Hz, which closes."""
    loudness = frame_descriptors(tone(1000.0), RATE, HOP)["loudness_db"]
    assert loudness == pytest.approx(-3.01, abs=0.03)


@pytest.mark.parametrize("hz", [60.0, 200.0, 3000.0, 6000.0])
def test_loudness_agrees_with_pyloudnorm(hz):
    import pyloudnorm

    n = np.arange(RATE * 3)
    sine = 0.25 * np.sin(2 * np.pi * hz * n / RATE)
    expected = pyloudnorm.Meter(RATE).integrated_loudness(sine)
    # Its filters are designed again for 16 kHz, so they differ slightly from those at 48 kHz.
    assert frame_descriptors(tone(hz, 0.25), RATE, HOP)["loudness_db"].mean() == pytest.approx(
        expected, abs=0.4
    )


def test_the_centroid_of_a_tone_is_its_frequency():
    values = frame_descriptors(tone(1000.0), RATE, HOP)
    assert values["centroid_hz"].numpy() == pytest.approx(1000, abs=2)
    assert values["rolloff_hz"].numpy() == pytest.approx(1000, abs=2 * RATE / WINDOW)
    assert values["zero_crossing_rate"].numpy() == pytest.approx(2000, abs=2 * RATE / WINDOW)
    assert values["mid_db"].numpy() == pytest.approx(-3.01, abs=0.01)
    assert values["flatness"].max() < 1e-3
    assert values["onset_strength"].max() < 0.01


def test_white_noise_is_nearly_flat():
    noise = 0.1 * torch.randn(4, GRID.samples, generator=torch.Generator().manual_seed(0))
    values = frame_descriptors(noise, RATE, HOP)
    # The expected value for noise is exp(-gamma), Euler's constant: power is exponential.
    assert values["flatness"].mean() == pytest.approx(math.exp(-np.euler_gamma), abs=0.02)
    assert values["centroid_hz"].mean() == pytest.approx(RATE / 4, rel=0.02)
    assert loop_descriptors(noise, GRID)["onset_density"].max() == 0


def test_silence_has_the_documented_values():
    silence = torch.zeros(2, GRID.samples)
    expected = dict.fromkeys(UNITS, 0.0)
    expected |= {"low_db": FLOOR_DB, "mid_db": FLOOR_DB, "high_db": FLOOR_DB, "flatness": 1.0}
    expected["loudness_db"] = FLOOR_DB - 0.691
    frames, loops = frame_descriptors(silence, RATE, HOP), loop_descriptors(silence, GRID)
    for name, value in (*frames.items(), *loops.items()):
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_names_and_shapes():
    frames = frame_descriptors(torch.zeros(3, GRID.samples), RATE, HOP)
    loops = loop_descriptors(torch.zeros(3, GRID.samples), GRID)
    assert list(loops) == list(UNITS)
    assert list(frames) == list(UNITS)[: len(frames)]
    assert len(frames) == 10
    assert {tuple(v.shape) for v in frames.values()} == {(3, GRID.frames)}
    assert {tuple(v.shape) for v in loops.values()} == {(3,)}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, GRID.frames - 1), st.integers(0, 1000))
def test_rotation_by_hops_rotates_the_frames(hops, seed):
    audio = 0.3 * torch.randn(1, GRID.samples, generator=torch.Generator().manual_seed(seed))
    audio = audio * torch.linspace(0, 1, GRID.samples)  # a step at the wrap
    before = frame_descriptors(audio, RATE, HOP)
    after = frame_descriptors(audio.roll(hops * HOP, -1), RATE, HOP)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value.roll(hops, -1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("gain_db", [-20.0, -6.0])
def test_a_gain_changes_levels_by_as_much_and_shapes_not_at_all(burst, gain_db):
    audio = torch.from_numpy(burst)[None]
    before = loop_descriptors(audio, GRID)
    after = loop_descriptors(audio * 10 ** (gain_db / 20), GRID)
    for name in ("loudness_db", "low_db", "mid_db", "high_db"):
        assert after[name] - before[name] == pytest.approx(gain_db, abs=0.05)
    for name in ("centroid_hz", "bandwidth_hz", "rolloff_hz", "zero_crossing_rate"):
        assert after[name] == pytest.approx(before[name], rel=1e-3)


@pytest.mark.parametrize("positions", [(0, 1, 2, 3), (0, 2), (0, 0.75, 1.5, 2.25, 3, 3.5)])
def test_onsets_and_kicks_are_detected_in_place(positions):
    audio = kick_pattern(positions)
    starts = onsets(onset_strength(audio, RATE, HOP), GRID)
    expected = [p * GRID.frames / GRID.beats for p in positions]
    for frames in (starts, kicks(audio, GRID)):
        at = frames[0].nonzero()[:, 0].numpy()
        at = np.where(at > GRID.frames - 5, at - GRID.frames, at)  # early, so before the wrap
        assert np.sort(at) == pytest.approx(expected, abs=GRID.frames / GRID.steps / 4)


def test_kick_on_beat_counts_beats():
    values = [
        loop_descriptors(kick_pattern(p), GRID)["kick_on_beat"].item()
        for p in ((0, 1, 2, 3), (0, 2), (0.5, 1.5, 2.5, 3.5), (0, 0.02, 1))
    ]
    assert values == [1.0, 0.5, 0.0, 0.5]


def test_kick_on_beat_across_the_wrap():
    hits = torch.zeros(1, GRID.frames, dtype=torch.bool)
    hits[0, -3] = True
    assert kick_on_beat(hits, GRID).item() == 0.25
    assert kick_on_beat(hits.roll(-2, -1), GRID).item() == 0.0


def test_kicks_of_rendered_loops_are_where_the_score_has_them():
    """Four on the floor, two on the beat, one: the share of beats for each pattern of `synth`."""
    source = SynthSource(GRID, 60, seed=0)
    items = source.items()
    audio = torch.from_numpy(np.stack([source.read(item).samples for item in items]))
    share = loop_descriptors(audio, GRID)["kick_on_beat"].numpy()
    pattern = np.array([round(item.factors["kick_pattern"]) for item in items])
    expected = np.array([1, 1, 0.5, 0.25, 0.25])[pattern]
    assert np.abs(share - expected).mean() < 0.05


def test_a_hat_is_not_a_kick():
    hat = kick_pattern((0, 1, 2, 3), hz=6000.0, decay_s=0.02)
    assert loop_descriptors(hat, GRID)["kick_on_beat"].item() == 0
    assert loop_descriptors(hat, GRID)["onset_density"].item() == pytest.approx(4 / 1.92)


def test_pulse_clarity_of_a_comb_of_noise_and_of_a_constant():
    comb = torch.zeros(1, GRID.frames)
    comb[0, ::60] = 1.0
    noise = torch.randn(50, GRID.frames, generator=torch.Generator().manual_seed(0))
    assert pulse_clarity(comb, GRID).item() == pytest.approx(1.0, abs=1e-4)
    assert pulse_clarity(torch.ones(1, GRID.frames), GRID).item() == 0.0
    assert pulse_clarity(noise, GRID).mean() < 0.3
    mixed = pulse_clarity(comb + 0.05 * noise[:1], GRID), pulse_clarity(comb + noise[:1], GRID)
    assert pulse_clarity(comb, GRID) > mixed[0] > mixed[1]


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(1, GRID.samples + 1), "not a whole number of hops"),
        (torch.zeros(1, 0), "not a whole number of hops"),
        (torch.full((1, GRID.samples), math.nan), "NaN or infinity"),
    ],
)
def test_invalid_audio_is_refused(audio, message):
    with pytest.raises(ValueError, match=message):
        frame_descriptors(audio, RATE, HOP)


def test_onset_window_is_short_enough_for_the_tolerance():
    """An onset may appear half a window early, which must be within a quarter of a sixteenth."""
    assert GRID.samples / GRID.steps / 4 > ONSET_WINDOW / 2

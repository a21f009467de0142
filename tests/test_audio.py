import struct

import numpy as np
import pytest
import soundfile

from techloop.artifacts import write_whole
from techloop.audio import (
    PEAK,
    close_seam,
    loop_loudness_lufs,
    loudness_gain_db,
    read_audio,
    read_smpl,
    remove_dc,
    resample,
    resample_circle,
    to_int16,
    to_mono,
    write_loop,
)
from techloop.sources import Unreadable

RATE = 16_000


def sine(hz, samples=RATE, rate=RATE, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(samples) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "subtype", "tolerance"),
    [
        ("wav", "PCM_U8", 1 / 100),
        ("wav", "PCM_16", 1e-4),
        ("wav", "PCM_24", 1e-6),
        ("wav", "FLOAT", 1e-7),
        ("aiff", "PCM_16", 1e-4),
        ("flac", "PCM_24", 1e-6),
        ("ogg", "VORBIS", 0.02),
        ("mp3", "MPEG_LAYER_III", 0.02),
    ],
)
def test_every_format_reads_as_it_was_written(tmp_path, suffix, subtype, tolerance):
    written = np.stack([sine(440), 0.5 * sine(660)], axis=1)
    soundfile.write(tmp_path / f"x.{suffix}", written, RATE, subtype=subtype)
    samples, rate = read_audio(tmp_path / f"x.{suffix}")
    assert rate == RATE
    assert samples.dtype == np.float32
    # The middle: lossy codecs differ at the edges.
    np.testing.assert_allclose(samples[:, 2000:14000], written.T[:, 2000:14000], atol=tolerance)


def test_the_content_decides_the_format(tmp_path):
    soundfile.write(tmp_path / "x.wav", sine(440), RATE)
    (tmp_path / "x.wav").rename(tmp_path / "x.ogg")
    assert read_audio(tmp_path / "x.ogg")[0].shape == (1, RATE)


def test_what_cannot_be_read_is_unreadable(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, 0], np.float32), RATE, "FLOAT")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.mp3").write_bytes(b"")
    for name in ("nan.wav", "none.wav", "text.wav", "empty.mp3", "missing.flac"):
        with pytest.raises(Unreadable, match=r"\w"):
            read_audio(tmp_path / name)


def test_mono_is_the_mean_of_the_channels():
    x = np.stack([sine(100), sine(200), sine(300)])
    np.testing.assert_allclose(to_mono(x), x.mean(axis=0), atol=1e-7)
    np.testing.assert_array_equal(to_mono(x[:1]), x[0])


def test_resampling_keeps_the_pitch():
    y = resample(sine(440, 44_100, 44_100), 44_100, RATE)
    assert len(y) == RATE
    np.testing.assert_allclose(y[1000:-1000], sine(440)[1000:-1000], atol=1e-3)


def test_resampling_to_the_same_changes_no_bit():
    x = sine(440)
    assert resample(x, RATE, RATE) is x
    assert resample_circle(x, len(x)) is x


@pytest.mark.parametrize("before", [44_100, 20_011, 75_601])
def test_a_resampled_circle_has_the_same_cycles(before):
    x, y = (np.cos(200 * np.pi * np.arange(n) / n).astype(np.float32) for n in (before, 30_720))
    np.testing.assert_allclose(resample_circle(x, 30_720), y, atol=1e-5)


def test_resampling_a_circle_commutes_with_rotation():
    x = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    turned = resample_circle(np.roll(x, 1000), 2001)
    np.testing.assert_allclose(turned, np.roll(resample_circle(x, 2001), 667), atol=1e-5)


def test_a_resampled_attack_hardly_rings():
    x = np.zeros(44_100, np.float32)
    x[1] = 1  # between two samples of the result: on one, a sinc would be zero at all others
    y = np.abs(resample_circle(x, 30_720))
    assert y[200:-200].max() < 1e-4 * y.max()  # a brick wall leaves 1.6e-3


def test_dc_goes_and_nothing_else():
    np.testing.assert_allclose(remove_dc(sine(100) + np.float32(0.3)), sine(100), atol=1e-6)


def test_loudness_of_the_standards_reference_tone():
    # BS.1770: a full-scale sine of 997 Hz in one channel measures -3.01 LUFS.
    x = sine(997, 48_000, 48_000, amplitude=1.0)
    assert loop_loudness_lufs(x, 48_000) == pytest.approx(-3.01, abs=0.05)


def test_loudness_follows_gain_rotation_and_repetition():
    x = sine(500) * np.exp(-np.arange(RATE) / 3000).astype(np.float32)
    loudness = loop_loudness_lufs(x, RATE)
    assert loop_loudness_lufs(x / 2, RATE) == pytest.approx(loudness - 6.02, abs=0.01)
    assert loop_loudness_lufs(np.roll(x, 5000), RATE) == pytest.approx(loudness, abs=0.3)
    assert loop_loudness_lufs(np.tile(x, 3), RATE) == pytest.approx(loudness, abs=0.3)


def test_a_loop_of_a_tenth_second_has_a_loudness_and_silence_has_none():
    assert -15 < loop_loudness_lufs(sine(500, 1600), RATE) < -5
    assert loop_loudness_lufs(np.zeros(RATE, np.float32), RATE) == -np.inf


def test_gain_stops_at_the_peak():
    assert loudness_gain_db(0.1, -30.0, -18.0) == pytest.approx(12)
    gain = loudness_gain_db(0.5, -30.0, -18.0)
    assert 0.5 * 10 ** (gain / 20) == pytest.approx(PEAK)


def step_at_wrap(x):
    return abs(float(x[0]) - float(x[-1]))


@pytest.mark.parametrize("start", [0, 1000])
def test_a_closed_seam_does_not_step(start):
    x = sine(97.3, 20_000)
    end = start + 8000
    assert step_at_wrap(x[start:end]) > 0.2
    closed = close_seam(x, start, end, 240, circular=False)
    largest = np.abs(np.diff(x)).max()
    assert step_at_wrap(closed) <= 1.05 * largest
    assert np.abs(np.diff(closed)).max() <= 2 * largest
    # What lies away from the joint is as it was.
    np.testing.assert_array_equal(closed[240:-240], x[start + 240 : end - 240])


def test_the_wrap_of_a_cut_is_the_recordings_own_joint():
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    closed = close_seam(x, 1000, 9000, 240, circular=False)
    assert closed[0] == x[1000]
    assert closed[-1] == pytest.approx(x[999], abs=1e-3)


def test_the_first_bar_of_a_circle_is_preceded_by_its_end():
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    closed = close_seam(x, 0, 10_000, 240, circular=True)
    assert closed[-1] == pytest.approx(x[-1], abs=1e-3)
    np.testing.assert_array_equal(close_seam(x, 0, len(x), 240, circular=True), x)


def test_nothing_around_a_cut_leaves_it_as_it_is():
    x = sine(97.3, 8000)
    np.testing.assert_array_equal(close_seam(x, 0, 8000, 240, circular=False), x)


def test_a_rest_after_a_loud_bar_stays_a_rest():
    x = np.concatenate([sine(97.3, 8000), 1e-5 * sine(50, 8000)])
    np.testing.assert_array_equal(close_seam(x, 8000, 16_000, 240, circular=False), x[8000:])


def test_16_bits_never_wrap_around():
    x = np.array([0, 0.5, 1, 2, -1, -2], np.float32)
    assert to_int16(x).tolist() == [0, 16384, 32767, 32767, -32768, -32768]


def chunk(path, name):
    content = path.read_bytes()
    return content[content.index(name) + 8 :]


def test_a_written_loop_reads_back_with_its_loop_points_and_tempo(tmp_path):
    x = sine(440, 30_720)
    path = tmp_path / "new" / "x.wav"
    write_loop(path, x, RATE, 125.0, 4)
    samples, rate = read_audio(path)
    assert (rate, soundfile.info(path).subtype) == (RATE, "PCM_16")
    np.testing.assert_allclose(samples[0], x, atol=1 / 32_768)
    assert read_smpl(path) == (0, 30_719)
    assert struct.unpack_from("<IHHf", chunk(path, b"acid"), 12) == (4, 4, 4, 125.0)


def test_a_loop_too_loud_is_turned_down_whole(tmp_path):
    write_loop(tmp_path / "x.wav", 3 * sine(440, 30_720), RATE, 125.0, 4)
    samples, _ = read_audio(tmp_path / "x.wav")
    np.testing.assert_allclose(samples[0], 2 * sine(440, 30_720), atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "0 samples"),
        (np.full(30_720, np.nan, np.float32), "30720 are NaN"),
        (np.zeros(30_000, np.float32), r"4 beats at 125 BPM are 30720.0 samples"),
    ],
)
def test_what_is_no_loop_is_not_written(tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        write_loop(tmp_path / "x.wav", samples, RATE, 125.0, 4)
    assert not list(tmp_path.iterdir())


def test_a_wav_without_loop_points_has_none(tmp_path):
    soundfile.write(tmp_path / "x.wav", sine(440), RATE)
    assert read_smpl(tmp_path / "x.wav") is None
    write_whole(tmp_path / "y.wav", b"RIFF")
    with pytest.raises(Unreadable, match="no RIFF WAV"):
        read_smpl(tmp_path / "y.wav")

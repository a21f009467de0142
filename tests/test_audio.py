import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from techloop.audio import io as audio
from techloop.audio.io import read_audio
from techloop.audio.level import PEAK, loop_loudness_lufs, loudness_gain_db, remove_dc
from techloop.audio.recording import Unreadable
from techloop.audio.resample import resample, resample_circle
from techloop.audio.seam import close_seam
from techloop.audio.wav import to_int16, write_loop

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
    recording = read_audio(tmp_path / f"x.{suffix}")
    assert recording.rate_hz == RATE
    assert recording.samples.dtype == np.float32
    # The middle: lossy codecs differ at the edges.
    np.testing.assert_allclose(
        recording.samples[2000:14000], written.mean(axis=1)[2000:14000], atol=tolerance
    )


def test_the_content_decides_the_format(tmp_path):
    soundfile.write(tmp_path / "x.wav", sine(440), RATE)
    (tmp_path / "x.wav").rename(tmp_path / "x.ogg")
    assert read_audio(tmp_path / "x.ogg").samples.shape == (RATE,)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "w64", "au"])
def test_a_stream_reads_as_a_path_does(tmp_path, suffix):
    file = tmp_path / f"x.{suffix}"
    soundfile.write(file, sine(440, 4 * RATE), RATE, format=suffix)
    with file.open("rb") as stream:
        stream.seek(7)  # any position
        np.testing.assert_array_equal(read_audio(stream).samples, read_audio(file).samples)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_16"])
@pytest.mark.parametrize(("channels", "rate"), [(1, 8_000), (2, 96_000), (6, 44_100)])
def test_channels_are_averaged_at_any_rate(tmp_path, subtype, channels, rate):
    written = np.random.default_rng(0).uniform(-1, 1, (1000, channels))
    soundfile.write(tmp_path / "x.wav", written, rate, subtype)
    recording = read_audio(tmp_path / "x.wav")
    assert (recording.rate_hz, recording.samples.dtype) == (rate, np.float32)
    np.testing.assert_allclose(recording.samples, written.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_blocks_join_without_a_trace(tmp_path, monkeypatch, suffix):
    x = np.stack([sine(440, 50_000), sine(97, 50_000)], axis=1)
    soundfile.write(tmp_path / f"x.{suffix}", x, RATE, format=suffix)
    whole = read_audio(tmp_path / f"x.{suffix}").samples
    monkeypatch.setattr(audio, "BLOCK", 2_000)
    np.testing.assert_array_equal(read_audio(tmp_path / f"x.{suffix}").samples, whole)


def test_a_long_file_takes_little_more_than_its_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 2**14)
    soundfile.write(tmp_path / "x.wav", np.zeros((2**20, 4), np.int16), RATE)
    tracemalloc.start()
    samples = read_audio(tmp_path / "x.wav").samples
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # While an array grows, tracemalloc counts the old one too; the four channels are 16 MB more.
    assert samples.nbytes == 2**22
    assert peak < 2 * samples.nbytes


def test_a_tenth_of_a_second_and_one_sample_are_read(tmp_path):
    for samples in (1600, 1):
        soundfile.write(tmp_path / "x.wav", sine(440, samples), RATE)
        assert len(read_audio(tmp_path / "x.wav").samples) == samples


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff"])
def test_a_truncated_file_gives_its_samples(tmp_path, suffix):
    x = sine(440, 10 * RATE) + 0.02 * np.random.default_rng(0).standard_normal(10 * RATE)
    soundfile.write(tmp_path / f"x.{suffix}", x, RATE, format=suffix)
    content = (tmp_path / f"x.{suffix}").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) * 6 // 10])
    samples = read_audio(tmp_path / "cut").samples
    assert 0.5 < len(samples) / len(x) < 0.7
    tolerance = 0.1 if suffix in {"ogg", "mp3"} else 1e-4
    np.testing.assert_allclose(samples[2000:40_000], x[2000:40_000], atol=tolerance)
    (tmp_path / "head").write_bytes(content[:30])
    with pytest.raises(Unreadable, match=r"decoder opens it .*converted|no samples|no sample rate"):
        read_audio(tmp_path / "head")


def test_a_damaged_flac_gives_what_comes_before_the_damage(tmp_path):
    rng = np.random.default_rng(0)
    x = sine(440, 10 * RATE) + 0.02 * rng.standard_normal(10 * RATE)
    soundfile.write(tmp_path / "x.flac", x, RATE)
    content = bytearray((tmp_path / "x.flac").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = rng.bytes(3000)
    (tmp_path / "x.flac").write_bytes(content)
    samples = read_audio(tmp_path / "x.flac").samples
    assert 0.4 < len(samples) / len(x) < 0.5
    np.testing.assert_allclose(samples, x[: len(samples)], atol=1e-4)


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_of_unknown_length_is_read_to_its_end(length):
    file = io.BytesIO()
    soundfile.write(file, sine(440), RATE, format="WAV")
    content = bytearray(file.getvalue())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", length)
    assert len(read_audio(io.BytesIO(content)).samples) == RATE


def test_a_flac_of_unknown_length_is_read_to_its_end():
    file = io.BytesIO()
    soundfile.write(file, sine(440, 4 * RATE), RATE, format="FLAC")
    content = bytearray(file.getvalue())
    content[21] &= 0xF0  # the 36 bits of the number of samples
    content[22:26] = bytes(4)
    assert len(read_audio(io.BytesIO(content)).samples) == 4 * RATE


def test_a_header_that_announces_too_much_is_harmless():
    file = io.BytesIO()
    soundfile.write(file, sine(440, 4 * RATE), RATE, format="FLAC")
    content = bytearray(file.getvalue())
    content[21] |= 0x0F  # 2^36 samples: a quarter of a terabyte
    content[22:26] = b"\xff" * 4
    assert len(read_audio(io.BytesIO(content)).samples) == 4 * RATE


def test_other_files_are_unreadable(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "empty.mp3").write_bytes(b"")
    for name, why in {
        "none.wav": "no samples",
        "text.wav": "converted to WAV or FLAC",
        "noise.mp3": "converted to WAV or FLAC",
        "empty.mp3": r"0 bytes",
        "missing.flac": r"missing\.flac cannot be opened: No such file",
        "nul\0.wav": "null byte",
        "": "directory",
    }.items():
        with pytest.raises(Unreadable, match=why) as error:
            read_audio(tmp_path / name)
        assert "0x" not in str(error.value)  # an object's address would differ each time
        assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_counted(tmp_path, monkeypatch, bad):
    monkeypatch.setattr(audio, "BLOCK", 100)
    x = np.zeros((1000, 2), np.float32)
    x[[321, 322, 900], [0, 1, 1]] = bad
    soundfile.write(tmp_path / "x.wav", x, RATE, "FLOAT")
    with pytest.raises(Unreadable, match=r"3 of its 1000 samples are NaN or .* first no\. 321"):
        read_audio(tmp_path / "x.wav")


@pytest.mark.parametrize("rate", [1, 999, 1_000_000])
def test_an_absurd_sample_rate_is_unreadable(tmp_path, rate):
    soundfile.write(tmp_path / "x.wav", sine(440), rate)
    with pytest.raises(Unreadable, match=rf"says {rate} Hz.*1000 to 768000 Hz"):
        read_audio(tmp_path / "x.wav")


def written(x, tmp_path, rate=44_100, subtype="PCM_16", suffix="wav"):
    soundfile.write(tmp_path / f"x.{suffix}", x, rate, subtype)
    return read_audio(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("level", [1.0, 0.3])  # 0.3: turned down after clipping
def test_a_clipped_sine_is_clipped_where_it_is_flat(tmp_path, subtype, level):
    x = sine(110, 44_100, 44_100, amplitude=2.0)
    clipped = written(level * x.clip(-1, 1), tmp_path, subtype=subtype).clipped
    flat = np.flatnonzero(np.abs(x) >= 1)
    assert clipped.dtype == np.int64
    assert (np.diff(clipped) > 0).all()
    assert set(clipped) <= set(flat)
    assert len(clipped) > 0.99 * len(flat)


def test_one_clipped_channel_is_enough(tmp_path):
    x = np.stack([sine(110, 44_100, 44_100, 0.4), sine(110, 44_100, 44_100, 2).clip(-1, 1)], axis=1)
    clipped = written(x, tmp_path).clipped
    np.testing.assert_array_equal(clipped, written(x[:, 1], tmp_path).clipped)
    assert len(clipped) > 10_000


def test_plateaus_continue_across_blocks(tmp_path, monkeypatch):
    x = np.concatenate([sine(55, 30_000, 44_100, 0.1), sine(55, 30_000, 44_100, 3.0).clip(-1, 1)])
    clipped = written(x, tmp_path).clipped
    assert len(clipped) > 20_000
    for block in (64, 7):
        monkeypatch.setattr(audio, "BLOCK", block)
        np.testing.assert_array_equal(read_audio(tmp_path / "x.wav").clipped, clipped)


@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("amplitude", [1.0, 32_767 / 32_768, 0.5, 0.03])
def test_a_low_sine_is_not_clipped_however_coarse(tmp_path, rate, subtype, amplitude):
    for hz in (30, 47.3):
        x = sine(hz, 2 * rate, rate, amplitude)
        assert written(x, tmp_path, rate, subtype).clipped.size == 0


@pytest.mark.parametrize(
    "x", [np.zeros(5000), np.full(5000, 0.25), np.random.default_rng(0).uniform(-1, 1, 5000)]
)
def test_silence_constants_and_noise_are_not_clipped(tmp_path, x):
    assert written(x, tmp_path).clipped.size == 0


def test_a_square_wave_counts_as_clipped(tmp_path):
    x = 0.5 * np.sign(sine(100, 44_100, 44_100) + 1e-6)
    assert written(x, tmp_path).clipped.size > 0.95 * x.size


@pytest.mark.parametrize(("suffix", "subtype"), [("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")])
def test_lossy_formats_are_clipped_where_they_go_beyond_full_scale(tmp_path, suffix, subtype):
    x = sine(110, 88_200, 44_100, amplitude=4.0).clip(-1, 1)
    assert written(x, tmp_path, subtype=subtype, suffix=suffix).clipped.size > 0.1 * x.size
    assert written(0.9 * x, tmp_path, subtype=subtype, suffix=suffix).clipped.size == 0


def test_a_loop_that_ends_after_the_samples_is_ignored(tmp_path):
    write_loop(tmp_path / "x.wav", sine(440, 30_720), RATE, 125.0, 4)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    end = content.index(b"smpl") + 8 + 48
    for length, loop in ((30_719, (0, 30_720)), (30_720, (0, 30_720)), (30_721, None)):
        content[end : end + 4] = struct.pack("<I", length)
        assert read_audio(io.BytesIO(content)).tags.loop == loop


def test_resampling_keeps_the_pitch():
    y = resample(sine(440, 44_100, 44_100), 44_100, RATE)
    assert len(y) == RATE
    np.testing.assert_allclose(y[1000:-1000], sine(440)[1000:-1000], atol=1e-3)


def test_resampling_to_the_same_rate_changes_nothing():
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


def test_only_the_mean_is_removed():
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
    # Samples away from the seam are unchanged.
    np.testing.assert_array_equal(closed[240:-240], x[start + 240 : end - 240])


def test_the_wrap_of_a_cut_is_as_continuous_as_the_recording():
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    closed = close_seam(x, 1000, 9000, 240, circular=False)
    assert closed[0] == x[1000]
    assert closed[-1] == pytest.approx(x[999], abs=1e-3)


def test_the_first_bar_of_a_circle_is_preceded_by_its_end():
    x = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)
    closed = close_seam(x, 0, 10_000, 240, circular=True)
    assert closed[-1] == pytest.approx(x[-1], abs=1e-3)
    np.testing.assert_array_equal(close_seam(x, 0, len(x), 240, circular=True), x)


def test_a_cut_of_the_whole_recording_stays_unchanged():
    x = sine(97.3, 8000)
    np.testing.assert_array_equal(close_seam(x, 0, 8000, 240, circular=False), x)


def test_a_rest_after_a_loud_bar_stays_a_rest():
    x = np.concatenate([sine(97.3, 8000), 1e-5 * sine(50, 8000)])
    np.testing.assert_array_equal(close_seam(x, 8000, 16_000, 240, circular=False), x[8000:])


def test_16_bit_samples_are_clipped_not_wrapped():
    x = np.array([0, 0.5, 1, 2, -1, -2], np.float32)
    assert to_int16(x).tolist() == [0, 16384, 32767, 32767, -32768, -32768]


def chunk(path, name):
    content = path.read_bytes()
    return content[content.index(name) + 8 :]


def test_a_written_loop_reads_back_with_its_loop_points_and_tempo(tmp_path):
    x = sine(440, 30_720)
    path = tmp_path / "new" / "x.wav"
    write_loop(path, x, RATE, 125.0, 4)
    recording = read_audio(path)
    assert (recording.rate_hz, soundfile.info(path).subtype) == (RATE, "PCM_16")
    np.testing.assert_allclose(recording.samples, x, atol=1 / 32_768)
    assert recording.tags.loop == (0, 30_720)
    assert (recording.tags.beats, recording.tags.bpm) == (4, {"acid": 125.0})
    assert struct.unpack_from("<IHHf", chunk(path, b"acid"), 12) == (4, 4, 4, 125.0)


def test_a_loop_beyond_full_scale_is_turned_down(tmp_path):
    write_loop(tmp_path / "x.wav", 3 * sine(440, 30_720), RATE, 125.0, 4)
    samples = read_audio(tmp_path / "x.wav").samples
    np.testing.assert_allclose(samples, 2 * sine(440, 30_720), atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0, np.float32), "0 samples"),
        (np.full(30_720, np.nan, np.float32), "30720 are NaN"),
        (np.zeros(30_000, np.float32), r"4 beats at 125 BPM are 30720.0 samples"),
    ],
)
def test_impossible_loops_are_not_written(tmp_path, samples, message):
    with pytest.raises(ValueError, match=message):
        write_loop(tmp_path / "x.wav", samples, RATE, 125.0, 4)
    assert not list(tmp_path.iterdir())

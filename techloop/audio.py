"""Audio files and what is done to samples in time: the only file that touches audio files."""

import functools
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import soundfile
import soxr
from jaxtyping import Float

from techloop.artifacts import write_whole
from techloop.sources import Unreadable

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".mp3", ".aif", ".aiff", ".aifc"})
INT16_SCALE = 32_768  # 16-bit value of 1.0, as soundfile reads it
PEAK = 0.99  # the highest sample a normalised loop may have
ROLL_OFF = 0.04  # of the band below Nyquist: fading it out keeps resampled attacks from ringing


def read_audio(path: str | Path) -> tuple[Float[np.ndarray, "channels samples"], int]:
    """Samples of a WAV, FLAC, OGG, MP3 or AIFF file as float32 in [-1, 1], and their rate in Hz.

    The content decides the format, not the suffix.

    Raises:
        Unreadable: no such file, no decoder opens it, it is empty, or has NaNs or infinities.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        # Without the folder, which differs between machines where the audio does not.
        reason = str(error).replace(str(path), Path(path).name).strip()
        raise Unreadable(reason or type(error).__name__) from None
    if not len(samples):
        raise Unreadable("it has no samples")
    if not np.isfinite(samples).all():
        raise Unreadable("it has samples that are no numbers (NaN or infinite)")
    return samples.T, int(rate)


def to_mono(x: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, "samples"]:
    """The mean of the channels: nothing clips that did not clip before."""
    return x[0] if len(x) == 1 else x.mean(axis=0, dtype=x.dtype)


def resample(
    x: Float[np.ndarray, "samples"], from_hz: int, to_hz: int, quality: str = "HQ"
) -> Float[np.ndarray, "resampled"]:
    """Another sample rate, by soxr; the same array where the rates are equal."""
    return x if from_hz == to_hz else soxr.resample(x, from_hz, to_hz, quality=quality)


def resample_circle(
    x: Float[np.ndarray, "samples"], samples: int
) -> Float[np.ndarray, "resampled"]:
    """A loop with exactly `samples` samples; the same array where it has them already.

    By its Fourier series, so it commutes with rotation and knows no edge. The top of the band
    fades out (raised cosine). Pitch and tempo change by `len(x) / samples` at a fixed rate.
    """
    if len(x) == samples:
        return x
    spectrum = scipy.fft.rfft(x)
    kept = min(len(x), samples) // 2 + 1
    faded = max(int(ROLL_OFF * kept), 1)
    spectrum[kept - faded : kept] *= np.cos(np.linspace(0, np.pi / 2, faded, dtype=x.dtype)) ** 2
    return scipy.fft.irfft(spectrum[:kept] * (samples / len(x)), n=samples)


def remove_dc(x: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "samples"]:
    """Around zero: a constant is inaudible, but it takes headroom and clicks where it ends."""
    return x - x.mean(dtype=np.float64).astype(x.dtype)


@functools.cache
def _meter(sample_rate_hz: int) -> Any:
    """One meter a rate: designing its filters costs more than using them."""
    import pyloudnorm  # a second or two, which those who only read and write shall not wait for

    return pyloudnorm.Meter(sample_rate_hz)


def loop_loudness_lufs(x: Float[np.ndarray, "samples"], sample_rate_hz: int) -> float:
    """Integrated loudness of a loop as heard when it repeats, in LUFS; -inf where it is silent.

    Gating blocks (400 ms, three quarters overlapping) wrap around, so that no place counts less
    for being near the edge, and a loop shorter than a block has a loudness too.

    References:
        ITU-R BS.1770-4, by pyloudnorm.
    """
    # 1.2 s at least, beside which the start of the filters does not count.
    once = math.ceil(1.2 * sample_rate_hz / len(x)) * len(x)
    circle = np.resize(x, once + round(0.3 * sample_rate_hz))
    return float(_meter(sample_rate_hz).integrated_loudness(circle))


def loudness_gain_db(peak: float, loudness_lufs: float, target_lufs: float) -> float:
    """The gain that reaches a loudness, or as much of it as leaves the peak at `PEAK`, in dB."""
    return min(target_lufs - loudness_lufs, 20 * math.log10(PEAK / peak))


def close_seam(
    x: Float[np.ndarray, "samples"], start: int, end: int, fade: int, *, circular: bool
) -> Float[np.ndarray, "cut"]:
    """The cut x[start:end] with its ends joined: played in a loop, it does not click.

    Over its last `fade` samples it turns into what precedes `start`, so that the wrap is as
    continuous as the recording was there. Where nothing precedes, its first samples come out of
    what follows `end`. Where there is neither, the cut is the whole recording and stays as it is,
    as it does where the joint would be most of what is heard (a rest after a loud bar).

    Args:
        x: the recording.
        start: first sample of the cut.
        end: one past its last.
        fade: samples of the cross-fade.
        circular: the recording itself is a loop, so its end precedes its start.
    """
    cut = x[start:end]
    fade = min(fade, len(cut))
    into = (np.sin(np.linspace(0, np.pi / 2, fade, endpoint=False)) ** 2).astype(x.dtype)
    closed = cut.copy()
    if circular and len(cut) == len(x):
        return closed
    if circular or start >= fade:
        before = x.take(np.arange(start - fade, start), mode="wrap")
        closed[len(cut) - fade :] += into * (before - cut[len(cut) - fade :])
    elif end + fade <= len(x):
        closed[:fade] = x[end : end + fade] + into * (cut[:fade] - x[end : end + fade])
    return closed if np.square(closed).sum() <= 2 * np.square(cut).sum() else cut.copy()


def to_int16(x: Float[np.ndarray, "*shape"]) -> np.ndarray:
    """16-bit samples; beyond [-1, 1) they stay at the limit and never wrap around."""
    return np.clip(np.rint(x * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def write_loop(
    path: str | Path,
    samples: Float[np.ndarray, "samples"],
    sample_rate_hz: int,
    bpm: float,
    beats: int,
) -> None:
    """Write a 16-bit WAV that samplers loop over its whole length (`smpl`) at its tempo (`acid`).

    The file appears whole or not at all. Samples beyond [-1, 1] turn the whole loop down.

    Args:
        path: the file; its folder is made where it is missing.
        samples: one channel.
        sample_rate_hz: their rate.
        bpm: tempo.
        beats: how many beats the samples are.

    Raises:
        ValueError: no samples, some that are no finite numbers, or not `beats` beats at `bpm`.
    """
    if not samples.size or not np.isfinite(samples).all():
        raise ValueError(
            f"{path} was not written: it would have {samples.size} samples, of which "
            f"{np.count_nonzero(~np.isfinite(samples))} are NaN or infinite."
        )
    expected = beats * 60 * sample_rate_hz / bpm
    if abs(expected - len(samples)) > 1:
        raise ValueError(
            f"{path} was not written: {beats} beats at {bpm:g} BPM are {expected:.1f} samples at "
            f"{sample_rate_hz} Hz, got {len(samples)}; a player would not stay in time with it."
        )
    data = to_int16(samples / max(1.0, float(np.abs(samples).max()))).tobytes()
    chunks = {
        b"fmt ": struct.pack("<HHIIHH", 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16),
        b"data": data,
        # One endless forward loop from the first sample to the last (inclusive).
        b"smpl": struct.pack("<9I", 0, 0, round(1e9 / sample_rate_hz), 60, 0, 0, 0, 1, 0)
        + struct.pack("<6I", 0, 0, 0, len(samples) - 1, 0, 0),
        b"acid": struct.pack("<IHHfIHHf", 0, 60, 0x8000, 0.0, beats, 4, 4, bpm),
    }
    # A chunk of any of these kinds has an even number of bytes, so none needs padding.
    body = b"".join(name + struct.pack("<I", len(c)) + c for name, c in chunks.items())
    write_whole(path, b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)


def read_smpl(path: str | Path) -> tuple[int, int] | None:
    """First and last sample of the first loop in a WAV's `smpl` chunk; None where it has none.

    Raises:
        Unreadable: not a RIFF WAV.
    """
    content = Path(path).read_bytes()
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise Unreadable(f"{path} is no RIFF WAV")
    for name, chunk in _chunks(content):
        if name == b"smpl" and len(chunk) >= 60 and struct.unpack_from("<I", chunk, 28)[0]:
            start, end = struct.unpack_from("<2I", chunk, 44)
            return start, end
    return None


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of a RIFF file's chunks; each starts at an even offset."""
    place = 12
    while place + 8 <= len(content):
        (size,) = struct.unpack_from("<I", content, place + 4)
        yield content[place : place + 4], content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2

"""Audio files and what is done to samples in time: the only file that touches audio files."""

import functools
import io
import math
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import soundfile
import soxr
from jaxtyping import Float, Int64

from techloop.artifacts import write_whole
from techloop.sources import NOWHERE, Recording, Tags, Unreadable
from techloop.tags import Stream, read_tags

# A file is read by its content; by these names it is found.
SUFFIXES = frozenset(
    ".wav .wave .rf64 .w64 .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .caf .au .snd".split()  # noqa: SIM905
)
NO_DECODER = frozenset(  # audio as well, but nothing here decodes it
    ".m4a .m4b .mp4 .aac .alac .wma .ape .wv .tta .mpc .mka .webm .amr .ac3 .dsf .dff .spx .ra .rx2 .rex .rcy".split()  # noqa: SIM905, E501
)
RATES_HZ = (1_000, 768_000)
LOUDEST = 2.0**31  # what 32-bit integers saved as floats reach; more is damage, and overflows
BLOCK = 2**18  # samples decoded at once, of all channels together: a megabyte
SMALL_BLOCK = 2**11  # after an error
STEPS = {"PCM_S8": 2**-7, "PCM_U8": 2**-7, "PCM_24": 2**-23, "PCM_32": 2**-23}  # of full scale
LOSSY = frozenset({"VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"})
INT16_SCALE = 32_768  # 16-bit value of 1.0, as soundfile reads it
PEAK = 0.99  # the highest sample a normalised loop may have
SEAM_FADE_S = 0.015  # of the cross-fade that joins the ends of a cut
STRETCH_LEAD_S = 0.25  # twice the window of the time stretcher
ROLL_OFF = 0.04  # of the band below Nyquist: fading it out keeps resampled attacks from ringing


def read_audio(file: str | Path | Stream) -> Recording:
    """A WAV, FLAC, OGG, Opus, MP3, AIFF, CAF or AU file, its channels averaged to one.

    The content decides the format, not the suffix. A file that is cut short or damaged gives what
    can be decoded before that. Memory: one copy of the mean and a few megabytes.

    Where a channel is cut off: it stays on one value, within a thousandth of its peak, for five
    samples at least and longer than any sine from 30 Hz would in this resolution: on 44.1 kHz and
    16 bits, a sine of full scale stays for four. A square wave is a plateau by nature and counts
    too. Lossy formats leave no plateau; there it is three samples in a row at full scale or beyond.

    Args:
        file: a path, or a stream that can seek.

    Raises:
        Unreadable: there is no such file, no decoder opens it, it is empty, its rate is absurd, or
            it has NaNs or infinities.
    """
    if not isinstance(file, str | Path):
        return _read(file, file)
    try:
        stream = Path(file).open("rb")  # noqa: SIM115
    except (OSError, ValueError) as error:
        # Without the folder, which differs between machines where the audio does not.
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise Unreadable(f"{Path(file).name} cannot be opened: {why}") from None
    with stream:
        # By its name, libsndfile tells a failing disk from the end of a file. As bytes, the name
        # need not be valid in any encoding.
        return _read(str(file) if sys.platform == "win32" else os.fsencode(file), stream)


def _read(source: str | bytes | Stream, stream: Stream) -> Recording:
    """`read_audio` from what soundfile opens; the stream is of the same file."""
    try:
        if not stream.seek(0, io.SEEK_END):
            raise Unreadable("it is empty (0 bytes)")
        stream.seek(0)
        try:
            recording = _decode(source, BLOCK, salvage=False)
        except soundfile.LibsndfileError:
            # What is lost with the damage is a block, so small ones; the decoder starts afresh, as
            # FLAC's does not go on after an error.
            stream.seek(0)
            recording = _decode(source, SMALL_BLOCK, salvage=True)
    except soundfile.LibsndfileError as error:
        raise Unreadable(
            f"no decoder opens it ({error.error_string.rstrip('.')}): it is damaged, or of a kind "
            "that should be converted to WAV or FLAC"
        ) from None
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise Unreadable(f"it cannot be decoded: {str(error) or type(error).__name__}") from None
    return replace(recording, tags=_within(read_tags(stream), len(recording.samples)))


class _Forward(soundfile.SoundFile):
    """A file that is read from its begin to its end.

    Of what can seek, soundfile seeks to where it is already after every block. That fails in files
    that are cut short, costs the end of those that do not tell their length, and time.
    """

    def seekable(self) -> bool:
        """Whether soundfile may seek."""
        return False


def _decode(source: str | bytes | Stream, block: int, *, salvage: bool) -> Recording:
    """Decode block by block; `salvage` takes an error for the end, where there is anything yet."""
    with _Forward(source) as sound:
        rate = sound.samplerate
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            raise Unreadable(
                f"its header says {rate} Hz, which is no sample rate of audio "
                f"({RATES_HZ[0]} to {RATES_HZ[1]} Hz); the header may be damaged"
            )
        buffer = np.empty((max(block // sound.channels, 1), sound.channels), np.float32)
        # Headers lie: it grows with what comes, but never beyond what was announced. Views of it
        # (`mean`) are void from there on, which `refcheck=False` does not check.
        mono = np.empty(min(sound.frames, len(buffer)), np.float32)
        clips = [_Clipping(rate, sound.subtype) for _ in range(sound.channels)]
        done = bad = 0
        first_bad = -1
        while True:
            try:
                got = len(sound.read(out=buffer))
            except soundfile.LibsndfileError:
                if not (salvage and done):
                    raise
                break
            if not got:
                break
            if done + got > len(mono):
                size = max(min(sound.frames, 2 * len(mono)), done + got)
                mono.resize(size, refcheck=False)
            channels = np.ascontiguousarray(buffer[:got].T)
            mean = channels.mean(axis=0, out=mono[done : done + got])
            if (finite := np.abs(mean) <= LOUDEST).all():
                for channel, clipping in zip(channels, clips, strict=True):
                    clipping.add(channel, done)
            else:
                first_bad = done + int(finite.argmin()) if first_bad < 0 else first_bad
                bad += got - int(np.count_nonzero(finite))
            done += got
    if bad:
        raise Unreadable(
            f"{bad} of its {done} samples are NaN or beyond 2^31, first no. {first_bad}"
        )
    if not done:
        raise Unreadable("it has no samples")
    mono.resize(done, refcheck=False)
    clipped = np.unique(np.concatenate([clipping.samples() for clipping in clips]))
    return Recording(mono, rate, clipped)


class _Clipping:
    """Where one channel is cut off (see `read_audio`), found as its blocks come by.

    The peak is known only in the end, so what is near the peak so far is kept as runs of equal
    samples, which take next to no memory.
    """

    def __init__(self, rate_hz: int, subtype: str) -> None:
        self.rate_hz = rate_hz
        self.step = STEPS.get(subtype, 2**-15)  # floats were 16 bits often enough
        self.lossy = subtype in LOSSY
        self.low, self.high = math.inf, -math.inf
        self.runs = [np.empty((0, 3))]  # first, one past the last, value

    def _equal(self, difference: Any) -> Any:
        """Whether samples that differ by so much are one plateau; rounding of floats is not."""
        return self.lossy | (np.abs(difference) <= self._peak() * 2**-22)

    def _peak(self) -> float:
        return max(self.high, -self.low)

    def _near(self) -> float:
        """The magnitude from which on samples may be cut off."""
        return 1.0 if self.lossy else 0.999 * self._peak()

    def add(self, x: Float[np.ndarray, "samples"], start: int) -> None:
        """The next block, which begins at the sample `start` of the channel."""
        high, low = float(x.max()), float(x.min())
        self.high, self.low = max(self.high, high), min(self.low, low)
        if max(high, -low) < self._near() or self._peak() == 0:
            return
        at = np.flatnonzero(np.abs(x) >= self._near())
        ends = np.flatnonzero((np.diff(at) > 1) | ~self._equal(np.diff(x[at])))
        first, last = at[np.append(0, ends + 1)], at[np.append(ends, len(at) - 1)]
        # Those at the edges of the block may go on in the next.
        kept = (last - first >= 2) | (first == 0) | (last == len(x) - 1)
        run = np.stack([start + first, start + last + 1, x[first]], axis=1, dtype=np.float64)
        self.runs.append(run[kept])

    def samples(self) -> Int64[np.ndarray, "clipped"]:
        """Numbers of the samples, once all blocks were added."""
        first, end, value = np.concatenate(self.runs).T
        if not len(first) or self.low == self.high:  # what never moves is not cut off
            return NOWHERE
        joins = (first[1:] == end[:-1]) & self._equal(np.diff(value))
        first, value = first[np.append(True, ~joins)], value[np.append(True, ~joins)]
        end = end[np.append(~joins, True)]
        long = end - first >= self._shortest()
        kept = np.flatnonzero(long & (np.abs(value) >= self._near()))
        runs = [np.arange(first[i], end[i], dtype=np.int64) for i in kept]
        return np.concatenate(runs) if runs else NOWHERE

    def _shortest(self) -> int:
        """Samples a run must have: in lossy formats 3, else more than a sine stays on its crest.

        There cos(w) > 1 - step / peak, so |w| < sqrt(2 step / peak), at 2 pi 30 / rate a sample.
        """
        if self.lossy:
            return 3
        stays = math.sqrt(2 * self.step / self._peak()) * self.rate_hz / (math.pi * 30)
        return max(5, math.floor(stays) + 2)


def _within(tags: Tags, samples: int) -> Tags:
    """The same without a loop beyond the samples; by one, it was written as one past the last."""
    if tags.loop is None or tags.loop[1] <= samples:
        return tags
    start, end = tags.loop
    return replace(tags, loop=(start, samples) if end == samples + 1 and start < samples else None)


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


def stretch_circle(
    x: Float[np.ndarray, "samples"], from_hz: int, samples: int, to_hz: int
) -> Float[np.ndarray, "stretched"]:
    """A loop with exactly `samples` samples at another rate, its pitch as it was.

    By Signalsmith Stretch (python-stretch), which knows no circles: it gets the loop with what is
    next to it on either side, and the ends are joined where that is cut off again.
    """
    x = resample_circle(x, round(len(x) * to_hz / from_hz))
    if len(x) == samples:
        return x
    from python_stretch import Signalsmith  # here, as most loops are resampled

    lead = min(round(STRETCH_LEAD_S * to_hz), len(x))
    stretch = Signalsmith.Stretch(0)  # a seed
    stretch.preset(1, to_hz)
    stretch.timeFactor = len(x) / samples
    padded = np.pad(x, lead, mode="wrap").astype(np.float32, copy=False)
    out = np.asarray(stretch.process(padded[None]))[0]
    start = round(lead * samples / len(x))
    return close_seam(out, start, start + samples, round(SEAM_FADE_S * to_hz), circular=False)


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
    closed = cut.copy()
    if circular and len(cut) == len(x):
        return closed
    if circular or start >= fade:
        before = x.take(np.arange(start - fade, start), mode="wrap")
        closed[len(cut) - fade :] = _cross_fade(cut[len(cut) - fade :], before)
    elif end + fade <= len(x):
        closed[:fade] = _cross_fade(x[end : end + fade], cut[:fade])
    return closed if np.square(closed).sum() <= 2 * np.square(cut).sum() else cut.copy()


def _cross_fade(
    out: Float[np.ndarray, "samples"], into: Float[np.ndarray, "samples"]
) -> Float[np.ndarray, "samples"]:
    """One turning into the other, at the level that both have.

    Weights that add up to 1 leave a dip between sounds that have nothing in common, after which
    the seam is heard as an onset; how alike the two are says how deep it would be.
    """
    rise = np.sin(np.linspace(0, np.pi / 2, len(out), endpoint=False)).astype(out.dtype) ** 2
    fall = 1 - rise
    alike = max(float(out @ into) / (float(np.linalg.norm(out) * np.linalg.norm(into)) + 1e-9), 0.0)
    dip = np.sqrt(fall**2 + rise**2 + 2 * alike * fall * rise)
    return ((fall * out + rise * into) / dip).astype(out.dtype)


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

"""Audio files read: the only file that decodes them."""

import io
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from techloop.audio.clipping import Clipping
from techloop.audio.recording import Recording, Tags, Unreadable
from techloop.audio.tags import Stream, read_tags

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
        clips = [Clipping(rate, sound.subtype) for _ in range(sound.channels)]
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


def _within(tags: Tags, samples: int) -> Tags:
    """The same without a loop beyond the samples; by one, it was written as one past the last."""
    if tags.loop is None or tags.loop[1] <= samples:
        return tags
    start, end = tags.loop
    return replace(tags, loop=(start, samples) if end == samples + 1 and start < samples else None)

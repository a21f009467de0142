"""Reading of audio files; no other module decodes them."""

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

# Files are found by these suffixes; how they are decoded depends on their content.
SUFFIXES = frozenset(
    ".wav .wave .rf64 .w64 .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .caf .au .snd".split()  # noqa: SIM905
)
NO_DECODER = frozenset(  # audio formats that cannot be decoded here
    ".m4a .m4b .mp4 .aac .alac .wma .ape .wv .tta .mpc .mka .webm .amr .ac3 .dsf .dff .spx .ra .rx2 .rex .rcy".split()  # noqa: SIM905, E501
)
RATES_HZ = (1_000, 768_000)
LOUDEST = 2.0**31  # reached by 32-bit integers saved as floats; larger values are damage
BLOCK = 2**18  # samples decoded at once, over all channels: a megabyte
SMALL_BLOCK = 2**11  # the same after an error


def read_audio(file: str | Path | Stream) -> Recording:
    """Read a WAV, FLAC, OGG, Opus, MP3, AIFF, CAF or AU file; its channels are averaged to one.

    The content decides the format, not the suffix. A file that is truncated or damaged gives the
    samples before the damage. Memory: one copy of the mean and a few megabytes.

    A channel is clipped where it stays at one value, within a thousandth of its peak, for five
    samples or more and longer than a sine of 30 Hz or more could at this resolution (at 44.1 kHz
    and 16 bits, a full-scale sine stays for four samples). So a square wave counts as clipped.
    Lossy formats leave no plateau; there three samples in a row at full scale or beyond count.

    Args:
        file: a path, or a stream that can seek.

    Raises:
        Unreadable: the file is missing, empty or not decodable, its rate is absurd, or it has NaNs
            or infinities.
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
        # Given a name, not a stream, libsndfile distinguishes a failing disk from the end of a
        # file. As bytes, the name need not be valid in any encoding.
        return _read(str(file) if sys.platform == "win32" else os.fsencode(file), stream)


def _read(source: str | bytes | Stream, stream: Stream) -> Recording:
    """`read_audio` of a source that soundfile opens, and a stream of the same file for its tags."""
    try:
        if not stream.seek(0, io.SEEK_END):
            raise Unreadable("it is empty (0 bytes)")
        stream.seek(0)
        try:
            recording = _decode(source, BLOCK, salvage=False)
        except soundfile.LibsndfileError:
            # The block with the damage is lost, so blocks are small now. The decoder starts again,
            # as FLAC's stops after an error.
            stream.seek(0)
            recording = _decode(source, SMALL_BLOCK, salvage=True)
    except soundfile.LibsndfileError as error:
        raise Unreadable(
            f"no decoder opens it ({error.error_string.rstrip('.')}): it is damaged, or of a kind "
            "that should be converted to WAV or FLAC"
        ) from None
    except (OSError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise Unreadable(f"it cannot be decoded: {str(error) or type(error).__name__}") from None
    return replace(recording, tags=_checked_loop(read_tags(stream), len(recording.samples)))


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A sound file that is read from its beginning to its end without seeking.

    soundfile seeks to its present position after every block. In truncated files that fails, in
    files of unknown length it loses the end, and it takes time.
    """

    def seekable(self) -> bool:
        """Always False, so that soundfile does not seek."""
        return False


def _decode(source: str | bytes | Stream, block: int, *, salvage: bool) -> Recording:
    """Decode block by block.

    Args:
        source: a name or stream that soundfile opens.
        block: samples decoded at once, over all channels.
        salvage: whether an error after the first block counts as the end of the file.
    """
    with _Forward(source) as sound:
        rate = sound.samplerate
        if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
            raise Unreadable(
                f"its header says {rate} Hz, which is not a sample rate of audio "
                f"({RATES_HZ[0]} to {RATES_HZ[1]} Hz); the header may be damaged"
            )
        buffer = np.empty((max(block // sound.channels, 1), sound.channels), np.float32)
        # Headers may announce too much, so this grows with the decoded samples, up to the announced
        # number. Views of it (`mean`) are invalid afterwards, which `refcheck=False` ignores.
        mono = np.empty(min(sound.frames, len(buffer)), np.float32)
        clips = [Clipping(rate, sound.subtype) for _ in range(sound.channels)]
        done = bad = 0
        first_bad = -1
        while True:
            try:
                size = len(sound.read(out=buffer))
            except soundfile.LibsndfileError:
                if not (salvage and done):
                    raise
                break
            if not size:
                break
            if done + size > len(mono):
                capacity = max(min(sound.frames, 2 * len(mono)), done + size)
                mono.resize(capacity, refcheck=False)
            channels = np.ascontiguousarray(buffer[:size].T)
            mean = channels.mean(axis=0, out=mono[done : done + size])
            if (finite := np.abs(mean) <= LOUDEST).all():
                for channel, clipping in zip(channels, clips, strict=True):
                    clipping.add(channel, done)
            else:
                first_bad = done + int(finite.argmin()) if first_bad < 0 else first_bad
                bad += size - int(np.count_nonzero(finite))
            done += size
    if bad:
        raise Unreadable(
            f"{bad} of its {done} samples are NaN or beyond 2^31, first no. {first_bad}"
        )
    if not done:
        raise Unreadable("it has no samples")
    mono.resize(done, refcheck=False)
    clipped = np.unique(np.concatenate([clipping.samples() for clipping in clips]))
    return Recording(mono, rate, clipped)


def _checked_loop(tags: Tags, samples: int) -> Tags:
    """Tags without a loop that ends after the last sample."""
    if tags.loop is None or tags.loop[1] <= samples:
        return tags
    # One sample too many: some programs write the end as one past the last sample.
    start, end = tags.loop
    return replace(tags, loop=(start, samples) if end == samples + 1 and start < samples else None)

"""What audio files say of themselves: tempo, beats, meter, loop points and artist.

Tags are hearsay: editors write 4/4 and 120 BPM into whatever they save. Nothing here is checked
against the sound, and what is damaged or absurd counts as not said.
"""

import io
import struct
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from tinytag import TinyTag

from techloop.audio.recording import Tags

Stream = (
    BinaryIO | io.BufferedIOBase
)  # type checkers take BytesIO for the former, beartype does not
BPM = (20.0, 400.0)  # what a tempo can be; many editors write 0 for "unknown"
BEATS = 65_536  # more than a day of music, so no count
METER = 16  # beats in a bar
CHUNKS = 1_000  # looked at in a file; a damaged one could pretend to have millions
BYTES = 2**24  # of one chunk; ID3 with a picture in it has a few millions
WAV_TEXT = frozenset({b"LIST", b"id3 ", b"ID3 "})
AIFF_TEXT = frozenset({b"AUTH", b"id3 ", b"ID3 "})


def read_tags(stream: Stream) -> Tags:
    """What a WAV, RF64, AIFF, FLAC, OGG or MP3 file says of itself, besides its name.

    Only headers are read, wherever in the file they stand. What is not there, or is damaged, is
    absent; this never raises. The meter is the upper number of the time signature, whatever the
    lower one.

    References:
        `acid`, `smpl`: as libsndfile reads them (the makers of ACID published no layout).
        `basc`: as JUCE reads it, undocumented by Apple; libsndfile differs on what a one-shot is.
    """
    try:
        stream.seek(0)
        head = stream.read(12)
        container, form = head[:4], head[8:]
        if container in {b"RIFF", b"RF64", b"BW64"} and form == b"WAVE":
            return _wav(list(_chunks(stream, "<", {b"acid", b"smpl"} | WAV_TEXT)))
        if container == b"FORM" and form in {b"AIFF", b"AIFC"}:
            return _aiff(list(_chunks(stream, ">", {b"basc"} | AIFF_TEXT)))
        if container in {b"fLaC", b"OggS"} or head[:3] == b"ID3" or head[:1] == b"\xff":
            return Tags(**_text(stream))
    except Exception:  # hearsay is not worth a recording that can be heard
        pass
    return Tags()


def _chunks(stream: Stream, order: str, wanted: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of some chunks of a RIFF or IFF file; the others are seeked over."""
    place = 12
    data_bytes = 0
    for _ in range(CHUNKS):
        stream.seek(place)
        header = stream.read(8)
        if len(header) < 8:
            return
        name, size = struct.unpack(f"{order}4sI", header)
        if name == b"ds64":  # of RF64, whose sizes do not fit into 32 bits
            (data_bytes,) = struct.unpack("<8xQ", stream.read(16))
        elif name == b"data" and size == 0xFFFFFFFF:
            size = data_bytes or size
        elif name in wanted and size <= BYTES:
            yield name, stream.read(size)
        place += 8 + size + size % 2  # each starts at an even place


def _wav(chunks: list[tuple[bytes, bytes]]) -> Tags:
    """Of ACID and samplers, and texts."""
    first = dict(reversed(chunks))
    said: dict[str, Any] = {"bpm": {}}
    if len(acid := first.get(b"acid", b"")) >= 24:
        # Flags, root note, two unknown, beats, meter (lower, then upper), tempo.
        flags, beats, upper, bpm = struct.unpack_from("<I8xI2xHf", acid)
        said |= {
            "one_shot": bool(flags & 1),
            **_count(beats, upper),
            "bpm": tempo_if_one("acid", bpm),
        }
    if len(smpl := first.get(b"smpl", b"")) >= 60 and struct.unpack_from("<I", smpl, 28)[0]:
        start, end = struct.unpack_from("<2I", smpl, 44)  # the last sample is played
        if start <= end < 0xFFFFFFFF:
            said["loop"] = (start, end + 1)
    texts = [(n, c) for n, c in chunks if n in WAV_TEXT and (n != b"LIST" or c[:4] == b"INFO")]
    text = _chunk_text(b"RIFF", b"WAVE", "<", texts)
    return Tags(**said | text | {"bpm": said["bpm"] | text.get("bpm", {})})


def _aiff(chunks: list[tuple[bytes, bytes]]) -> Tags:
    """Of Apple Loops, and texts."""
    first = dict(reversed(chunks))
    said: dict[str, Any] = {}
    if len(basc := first.get(b"basc", b"")) >= 18:
        # Version, beats, root note, scale, meter (upper, then lower), 1 for a loop or 2 for none.
        beats, upper, kind = struct.unpack_from(">4xI4xH2xH", basc)
        said = {"one_shot": kind == 2, **_count(beats, upper)}
    texts = [(name, content) for name, content in chunks if name in AIFF_TEXT]
    return Tags(**said | _chunk_text(b"FORM", b"AIFF", ">", texts))


def _count(beats: int, beats_per_bar: int) -> dict[str, int]:
    """Beats and meter, as far as they can be."""
    said = {"beats": beats} if 0 < beats < BEATS else {}
    return said | ({"beats_per_bar": beats_per_bar} if 0 < beats_per_bar <= METER else {})


def tempo_if_one(where: str, bpm: float) -> dict[str, float]:
    """A tempo, if it is one; NaN is none."""
    return {where: bpm} if BPM[0] <= bpm <= BPM[1] else {}


def _chunk_text(
    container: bytes, form: bytes, order: str, chunks: list[tuple[bytes, bytes]]
) -> dict[str, Any]:
    """Tempo and artist from the texts of a file, given in a file with nothing else."""
    if not chunks:
        return {}
    body = b"".join(
        struct.pack(f"{order}4sI", name, len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in chunks
    )
    file = struct.pack(f"{order}4sI4s", container, 4 + len(body), form) + body
    return _text(io.BytesIO(file))


def _text(stream: Any) -> dict[str, Any]:
    """Tempo and artist from ID3, Vorbis comments and the like."""
    try:
        stream.seek(0)
        tag = TinyTag.get(file_obj=stream, duration=False)
    except Exception:  # whatever a damaged tag makes of it; chunks beside it may be good
        return {}
    texts = [*tag.other.get("bpm", ()), *tag.other.get("tempo", ())]
    tempi = [tempo for text in texts if (tempo := tempo_if_one("tag", _number(text)))]
    return {"author": (tag.artist or "").strip(), "bpm": tempi[0] if tempi else {}}


def _number(text: str) -> float:
    """A decimal number with point or comma; 0 where it is none."""
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        return 0.0

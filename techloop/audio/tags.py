"""Metadata stored in audio files: tempo, beats, meter, loop points and artist.

Tags are unreliable: editors write 4/4 and 120 BPM into every file they save. Nothing here is
checked against the sound; damaged or absurd values count as absent.
"""

import io
import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO, TypedDict, cast

from tinytag import TinyTag

from techloop.audio.recording import Tags

# Type checkers accept BytesIO as the former, beartype as the latter.
Stream = BinaryIO | io.BufferedIOBase
BPM = (20.0, 400.0)  # range of a tempo; many editors write 0 for "unknown"
MAX_BEATS = 65_536  # more than a day of music
MAX_METER = 16  # beats in a bar
MAX_CHUNKS = 1_000  # read in a file; a damaged one could announce millions
MAX_BYTES = 2**24  # read of one chunk; ID3 tags with a picture take a few million
WAV_TEXT = frozenset({b"LIST", b"id3 ", b"ID3 "})
AIFF_TEXT = frozenset({b"AUTH", b"id3 ", b"ID3 "})


class _Fields(TypedDict, total=False):
    """The fields of `Tags` that a file has."""

    bpm: dict[str, float]
    beats: int
    beats_per_bar: int
    one_shot: bool
    loop: tuple[int, int]
    author: str


def read_tags(stream: Stream) -> Tags:
    """The metadata of a WAV, RF64, AIFF, FLAC, OGG or MP3 file.

    Only headers are read, wherever in the file they are. Damaged metadata counts as absent; this
    never raises. The meter is the upper number of the time signature, whatever the lower one.

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
    except Exception:  # damaged metadata must not cost a recording that can be decoded
        pass
    return Tags()


def _chunks(stream: Stream, order: str, wanted: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents of the wanted chunks of a RIFF or IFF file; the others are skipped.

    Args:
        stream: of the file.
        order: byte order of its numbers, `<` or `>`.
        wanted: names of chunks.
    """
    position = 12
    data_bytes = 0
    for _ in range(MAX_CHUNKS):
        stream.seek(position)
        header = stream.read(8)
        if len(header) < 8:
            return
        name, size = struct.unpack(f"{order}4sI", header)
        if name == b"ds64":  # RF64 stores sizes here that do not fit into 32 bits
            (data_bytes,) = struct.unpack("<8xQ", stream.read(16))
        elif name == b"data" and size == 0xFFFFFFFF:
            size = data_bytes or size
        elif name in wanted and size <= MAX_BYTES:
            yield name, stream.read(size)
        position += 8 + size + size % 2  # chunks start at even positions


def _wav(chunks: list[tuple[bytes, bytes]]) -> Tags:
    """Tags from a WAV's chunks `acid` and `smpl`, and from its texts."""
    first = dict(reversed(chunks))
    fields: _Fields = {"bpm": {}}
    if len(acid := first.get(b"acid", b"")) >= 24:
        # Flags, root note, two unknown, beats, meter (lower, then upper), tempo.
        flags, beats, upper, bpm = struct.unpack_from("<I8xI2xHf", acid)
        fields |= {"one_shot": bool(flags & 1), "bpm": valid_tempo("acid", bpm)}
        fields |= _counts(beats, upper)
    if len(smpl := first.get(b"smpl", b"")) >= 60 and struct.unpack_from("<I", smpl, 28)[0]:
        start, end = struct.unpack_from("<2I", smpl, 44)  # `end` is the last sample of the loop
        if start <= end < 0xFFFFFFFF:
            fields["loop"] = (start, end + 1)
    texts = [(n, c) for n, c in chunks if n in WAV_TEXT and (n != b"LIST" or c[:4] == b"INFO")]
    text = _chunk_text(b"RIFF", b"WAVE", "<", texts)
    return Tags(**fields | text | {"bpm": fields["bpm"] | text.get("bpm", {})})


def _aiff(chunks: list[tuple[bytes, bytes]]) -> Tags:
    """Tags from the chunk `basc` of Apple Loops, and from texts."""
    first = dict(reversed(chunks))
    fields: _Fields = {}
    if len(basc := first.get(b"basc", b"")) >= 18:
        # Version, beats, root note, scale, meter (upper, then lower), 1 for a loop or 2 for none.
        beats, upper, kind = struct.unpack_from(">4xI4xH2xH", basc)
        fields = {"one_shot": kind == 2} | _counts(beats, upper)
    texts = [(name, content) for name, content in chunks if name in AIFF_TEXT]
    return Tags(**fields | _chunk_text(b"FORM", b"AIFF", ">", texts))


def _counts(beats: int, beats_per_bar: int) -> _Fields:
    """Beats and meter, where they are plausible."""
    fields: _Fields = {}
    if 0 < beats < MAX_BEATS:
        fields["beats"] = beats
    if 0 < beats_per_bar <= MAX_METER:
        fields["beats_per_bar"] = beats_per_bar
    return fields


def valid_tempo(where: str, bpm: float) -> dict[str, float]:
    """`{where: bpm}`, or nothing where `bpm` is NaN or out of range."""
    return {where: bpm} if BPM[0] <= bpm <= BPM[1] else {}


def _chunk_text(
    container: bytes, form: bytes, order: str, chunks: list[tuple[bytes, bytes]]
) -> _Fields:
    """Tempo and artist from a file's text chunks, by way of a small file that has nothing else."""
    if not chunks:
        return {}
    body = b"".join(
        struct.pack(f"{order}4sI", name, len(content)) + content + b"\0" * (len(content) % 2)
        for name, content in chunks
    )
    file = struct.pack(f"{order}4sI4s", container, 4 + len(body), form) + body
    return _text(io.BytesIO(file))


def _text(stream: Stream) -> _Fields:
    """Tempo and artist from ID3, Vorbis comments and the like."""
    try:
        stream.seek(0)
        tag = TinyTag.get(file_obj=cast(BinaryIO, stream), duration=False)
    except Exception:  # a damaged tag; the chunks beside it may be intact
        return {}
    texts = [*tag.other.get("bpm", ()), *tag.other.get("tempo", ())]
    tempi = [tempo for text in texts if (tempo := valid_tempo("tag", _number(text)))]
    return {"author": (tag.artist or "").strip(), "bpm": tempi[0] if tempi else {}}


def _number(text: str) -> float:
    """A decimal number with point or comma; 0 where the text is something else."""
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        return 0.0

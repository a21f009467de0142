"""Tags of files that are written by hand here, as the formats define them, and damaged."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from techloop.audio.recording import Tags
from techloop.audio.tags import read_tags

AUDIO = np.zeros(1000, np.int16)


def chunk(name, content, order="<"):
    return struct.pack(f"{order}4sI", name, len(content)) + content + b"\0" * (len(content) % 2)


def acid(flags=0, beats=8, meter=(4, 4), bpm=128.0):
    return chunk(b"acid", struct.pack("<IHHfIHHf", flags, 60, 0x8000, 0.0, beats, *meter, bpm))


def smpl(*loops):
    body = struct.pack("<9I", 0, 0, 22_676, 60, 0, 0, 0, len(loops), 0)
    return chunk(b"smpl", body + b"".join(struct.pack("<6I", 0, 0, *loop, 0, 0) for loop in loops))


def info(**texts):
    body = b"".join(chunk(name.encode(), text.encode() + b"\0") for name, text in texts.items())
    return chunk(b"LIST", b"INFO" + body)


def frame(name, text):
    body = b"\x03" + text.encode()
    return struct.pack(">4sIH", name, len(body), 0) + body


def id3(**texts):
    body = b"".join(frame(name.encode(), text) for name, text in texts.items())
    size = bytes((len(body) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + body


def encoded(format, subtype=None, samples=AUDIO):
    file = io.BytesIO()
    soundfile.write(file, samples, 44_100, subtype, format=format)
    return file.getvalue()


def wav(*chunks, before=b"", form=b"RIFF"):
    """A WAV with chunks before and after its samples."""
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 44_100, 88_200, 2, 16))
    body = b"WAVE" + before + fmt + chunk(b"data", AUDIO.tobytes()) + b"".join(chunks)
    return form + struct.pack("<I", len(body)) + body


def aiff(*chunks):
    content = encoded("AIFF")
    body = content[8:] + b"".join(chunks)
    return b"FORM" + struct.pack(">I", len(body)) + body


def tags(content):
    return read_tags(io.BytesIO(content))


def test_a_wav_of_a_loop_editor():
    result = tags(wav(smpl((100, 899), (0, 1)), acid(), info(IART="Someone", INAM="x")))
    assert result == Tags(
        bpm={"acid": 128.0}, beats=8, beats_per_bar=4, loop=(100, 900), author="Someone"
    )


def test_libsndfile_reads_the_same_layout(tmp_path):
    """The log of libsndfile is the oracle for our chunks."""
    (tmp_path / "x.wav").write_bytes(wav(smpl((100, 899)), acid(1, 12, (8, 6), 133.5)))
    with soundfile.SoundFile(tmp_path / "x.wav") as sound:
        log = sound.extra_info
    assert "OneShot" in log
    for line in ("Beats     : 12", "Meter     : 6/8", "Tempo     : 133.5"):
        assert line in log, log
    result = tags((tmp_path / "x.wav").read_bytes())
    assert (result.one_shot, result.beats, result.beats_per_bar) == (True, 12, 6)
    assert result.bpm == {"acid": 133.5}


def test_without_tags_all_is_absent():
    for content in (wav(), aiff(), encoded("FLAC"), encoded("OGG"), encoded("MP3"), encoded("AU")):
        assert tags(content) == Tags()


@pytest.mark.parametrize("bpm", [0.0, -120.0, 19.9, 400.1, float("nan"), float("inf"), 1e30])
def test_an_impossible_tempo_is_absent(bpm):
    assert tags(wav(acid(bpm=bpm))).bpm == {}
    assert tags(id3(TBPM=str(bpm))).bpm == {}


@pytest.mark.parametrize("beats", [0, 65_536, 2**32 - 1])
def test_impossible_beats_are_absent(beats):
    assert tags(wav(acid(beats=beats))).beats is None


@pytest.mark.parametrize(("meter", "expected"), [((4, 3), 3), ((8, 7), 7), ((4, 0), None)])
def test_the_meter_is_the_upper_number(meter, expected):
    assert tags(wav(acid(meter=meter))).beats_per_bar == expected
    assert tags(wav(acid(meter=(4, 17)))).beats_per_bar is None


@pytest.mark.parametrize("loops", [[], [(900, 100)], [(0, 2**32 - 1)]])
def test_an_impossible_loop_is_absent(loops):
    assert tags(wav(smpl(*loops))).loop is None


def test_the_first_of_two_chunks_counts():
    assert tags(wav(acid(bpm=120), acid(bpm=130))).bpm == {"acid": 120.0}


def test_chunks_before_the_samples_and_of_odd_size_are_read():
    content = wav(acid(), before=chunk(b"bext", b"odd") + chunk(b"JUNK", bytes(5)) + smpl((0, 9)))
    assert tags(content).loop == (0, 10)
    assert tags(content).bpm == {"acid": 128.0}


def test_an_rf64_has_the_length_of_its_samples_in_ds64():
    ds64 = chunk(b"ds64", struct.pack("<3QI", 0, AUDIO.nbytes, AUDIO.size, 0))
    content = wav(acid(), info(IART="Someone"), before=ds64, form=b"RF64")
    place = content.index(b"data") + 4
    content = content[:place] + b"\xff" * 4 + content[place + 4 :]
    assert tags(content) == Tags({"acid": 128.0}, 8, 4, author="Someone")


@pytest.mark.parametrize(("kind", "one_shot"), [(1, False), (2, True), (0, False)])
def test_an_apple_loop(kind, one_shot):
    basc = struct.pack(">IIHHHHH", 1, 16, 48, 2, 4, 4, kind) + bytes(66)
    result = tags(aiff(chunk(b"basc", basc, ">"), chunk(b"AUTH", b"Someone", ">")))
    assert result == Tags(beats=16, beats_per_bar=4, one_shot=one_shot, author="Someone")


@pytest.mark.parametrize(
    "content",
    [
        id3(TBPM="140", TPE1="Ünï テクノ") + encoded("MP3"),
        wav(chunk(b"id3 ", id3(TBPM="140", TPE1="Ünï テクノ"))),
        wav(info(IART="Ünï テクノ"), chunk(b"ID3 ", id3(TBPM="140"))),
        aiff(chunk(b"ID3 ", id3(TBPM="140", TPE1="Ünï テクノ"), ">")),
    ],
    ids=["mp3", "wav", "wav with both", "aiff"],
)
def test_tempo_and_artist_of_an_id3(content):
    assert tags(content) == Tags({"tag": 140.0}, author="Ünï テクノ")


def vorbis(*comments):
    texts = [comment.encode() for comment in comments]
    listed = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack("<I", 4) + b"test" + struct.pack("<I", len(texts)) + listed


def flac(*comments):
    """A FLAC: its first, mandatory block, followed by comments."""
    block = vorbis(*comments)
    content = encoded("FLAC")
    return content[:42] + b"\x04" + len(block).to_bytes(3, "big") + block + content[42:]


def ogg(*comments):
    """The first two pages of an OGG Vorbis file; their checksums are not read."""
    pages = b""
    for i, packet in enumerate((b"\x01vorbis" + bytes(23), b"\x03vorbis" + vorbis(*comments))):
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        pages += b"OggS" + struct.pack("<BBqIIIB", 0, 0, 0, 7, i, 0, len(lacing)) + lacing + packet
    return pages


@pytest.mark.parametrize("file", [flac, ogg])
@pytest.mark.parametrize("comment", ["BPM=97.5", "bpm=97,5", "TEMPO=97.5", "tempo= 97.5 "])
def test_tempo_and_artist_of_vorbis_comments(file, comment):
    assert tags(file("ARTIST= Someone ", comment)) == Tags({"tag": 97.5}, author="Someone")


@pytest.mark.parametrize("comment", ["fast", "", "0", "120 or so", "12800"])
def test_a_tempo_that_is_not_a_number_is_absent(comment):
    assert tags(flac(f"BPM={comment}")).bpm == {}
    assert tags(flac(f"BPM={comment}", "TEMPO=120")).bpm == {"tag": 120.0}


def test_tempi_of_acid_and_tag_are_both_read():
    content = wav(acid(bpm=64), chunk(b"id3 ", id3(TBPM="128")))
    assert tags(content).bpm == {"acid": 64.0, "tag": 128.0}


def test_a_damaged_text_does_not_affect_other_chunks():
    content = wav(acid(), chunk(b"LIST", b"INFOIART\xff\xff"), chunk(b"id3 ", b"ID3\x03"))
    assert tags(content) == Tags({"acid": 128.0}, 8, 4)


class Counting(io.BytesIO):
    """Counts the bytes read."""

    count = 0

    def read(self, size=-1):
        content = super().read(size)
        self.count += len(content)
        return content


def test_samples_are_skipped():
    file = Counting(encoded("WAV", samples=np.zeros(10**6, np.int16)) + acid() + info(IART="S"))
    assert read_tags(file).author == "S"
    assert file.count < 1000


def test_a_million_empty_chunks_are_not_read():
    file = Counting(b"RIFF\0\0\0\0WAVE" + bytes(8 * 10**6) + acid())
    assert read_tags(file) == Tags()
    assert file.count < 10_000


WHOLE = [
    wav(smpl((0, 99)), acid(), info(IART="Someone"), chunk(b"id3 ", id3(TBPM="140"))),
    aiff(chunk(b"basc", bytes(84), ">"), chunk(b"ID3 ", id3(TBPM="140"), ">")),
    flac("BPM=120"),
    ogg("BPM=120"),
    id3(TBPM="140", TPE1="x") + encoded("MP3"),
]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(WHOLE),
    st.integers(0, 3000),
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=20),
)
def test_damage_never_raises(content, length, changes):
    damaged = bytearray(content[: length or None])
    for place, value in changes:
        damaged[place % len(damaged)] = value
    assert isinstance(tags(bytes(damaged)), Tags)


def test_a_failing_stream_does_not_raise():
    file = io.BytesIO(wav(acid()))
    file.close()
    assert read_tags(file) == Tags()

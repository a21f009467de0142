"""Every bad and odd file there is, through the real thing: none stops a run, each is accounted for.

Most lie in one folder (`build`), which is prepared once in this process and once by two workers.
"""

import csv
import errno
import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.signal
import soundfile

from techloop.data.build import prepare_loops
from techloop.data.loops import prepare_item
from techloop.data.source import Item
from techloop.data.sources.folder import FolderSource
from techloop.data.sources.fsld.source import FSLDSource
from tests.helpers.datasets import contents
from tests.helpers.params import ROOT, FullDisk
from tests.helpers.sources import GRID, RECIPE, bar, prepared, rows_of, settings
from tests.test_fsld import CC0, CC_BY, CC_BY_NC, judgement, metadata, write_zip

RATE = GRID.sample_rate_hz
BAR_BYTES = 2 * GRID.samples  # of 16 bits


# --- what the files are made of ---------------------------------------------------------------


def music(seed: int, bars: int = 2) -> np.ndarray:
    """Different bars on the grid, of which the first beats are the loudest."""
    accent = np.repeat([1, 0.6, 0.8, 0.6], GRID.samples // 4).astype(np.float32)
    return np.concatenate([accent * bar(1000 * seed + i) for i in range(bars)])


def at(rate: int, x: np.ndarray) -> np.ndarray:
    """The same at another rate, by its Fourier series."""
    return scipy.signal.resample(x, len(x) * rate // RATE).astype(np.float32)


def encoded(
    x: np.ndarray, rate: int = RATE, format: str = "WAV", subtype: str | None = None
) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, x, rate, subtype, format=format)
    return stream.getvalue()


def chunk(name: bytes, content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}4sI", name, len(content)) + content + b"\0" * (len(content) % 2)


def acid(bpm: float, beats: int = 8, meter: int = 4) -> bytes:
    return chunk(b"acid", struct.pack("<IHHfIHHf", 0, 60, 0x8000, 0.0, beats, 4, meter, bpm))


def smpl(first: int, last: int) -> bytes:
    head = struct.pack("<9I", 0, 0, 0, 60, 0, 0, 0, 1, 0)
    return chunk(b"smpl", head + struct.pack("<6I", 0, 0, first, last, 0, 0))


def artist(name: str) -> bytes:
    return chunk(b"LIST", b"INFO" + chunk(b"IART", name.encode() + b"\0"))


def id3(text: str) -> bytes:
    body = b"\x03" + text.encode()
    frame = struct.pack(">4sIH", b"TPE1", len(body), 0) + body
    return b"ID3\x03\0\0" + struct.pack(">I", len(frame)) + frame


def more(content: bytes, *chunks: bytes) -> bytes:
    """A WAV or AIFF with further chunks."""
    content += b"".join(chunks)
    order = ">" if content[:4] == b"FORM" else "<"
    return content[:4] + struct.pack(f"{order}I", len(content) - 8) + content[8:]


def header(rate: int = RATE, channels: int = 1, size: int = 0) -> bytes:
    """Of a WAV of 16 bits, by hand."""
    fmt = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate * channels, 2 * channels, 16)
    start = b"RIFF" + struct.pack("<I", min(36 + size, 2**32 - 1)) + b"WAVE"
    return start + chunk(b"fmt ", fmt) + b"data" + struct.pack("<I", size)


# --- odd files: their loops are used ----------------------------------------------------------


class Odd(NamedTuple):
    """A file whose loops are used nevertheless.

    Attributes:
        write: its content from the samples.
        bars: it should have.
        used: those that are there.
    """

    write: Callable[[np.ndarray], bytes]
    bars: int = 2
    used: int = 2


def as_wav(x: np.ndarray) -> bytes:
    return encoded(x)


def in_16_bits(x: np.ndarray) -> bytes:
    return np.round(32_767 * x).astype("<i2").tobytes()


NAMES = {
    "odd/テクノ/ループ.wav": "Japanese",
    "odd/تكنو.wav": "Arabic",
    "odd/🥁🔊.wav": "emoji",
    "odd/e\u0301.wav": "a combining accent",
    "odd/a\nb\r.wav": "ends of lines",
    "odd/a\tb\x07.wav": "control characters",
    'odd/a,"b;c.wav': "what separates columns",
    "odd/=1+1.wav": "a formula",
    "odd/back\\slash.wav": "a back-slash",
    "odd/ spaces . wav .wav": "spaces",
    "odd/-rf.wav": "an option",
    "odd/%41.wav": "an escaped character",
    "odd/a#b?c.wav": "characters of addresses",
    "odd/" + 251 * "x" + ".wav": "as long as a name can be",
    os.fsdecode(b"odd/caf\xe9/\xff.wav"): "no valid encoding",
    "odd/folder.wav/inside.wav": "a folder with the suffix of a file",
}
ODD = {
    "odd/8 bit.wav": Odd(lambda x: encoded(x, subtype="PCM_U8")),
    "odd/24 bit.wav": Odd(lambda x: encoded(x, subtype="PCM_24")),
    "odd/32 bit.wav": Odd(lambda x: encoded(x, subtype="PCM_32")),
    "odd/float.wav": Odd(lambda x: encoded(x, subtype="FLOAT")),
    "odd/double.wav": Odd(lambda x: encoded(x, subtype="DOUBLE")),
    "odd/mu-law.wav": Odd(lambda x: encoded(x, subtype="ULAW")),
    "odd/beyond full scale.wav": Odd(lambda x: encoded(40 * x, subtype="FLOAT")),
    "odd/faint.wav": Odd(lambda x: encoded(0.02 * x, subtype="FLOAT")),
    "odd/off centre.wav": Odd(lambda x: encoded(0.5 * x + 0.2)),
    "odd/96 kHz.wav": Odd(lambda x: encoded(at(96_000, x), 96_000)),
    "odd/44100 Hz.flac": Odd(lambda x: encoded(at(44_100, x), 44_100, "FLAC")),
    "odd/6 channels.wav": Odd(
        lambda x: encoded(at(48_000, x)[:, None] * np.linspace(0.3, 1, 6), 48_000)
    ),
    "odd/6 channels.flac": Odd(lambda x: encoded(np.stack([x] * 6, axis=1), format="FLAC")),
    "odd/big-endian.aiff": Odd(lambda x: encoded(x, format="AIFF")),
    "odd/of a Mac.caf": Odd(lambda x: encoded(x, format="CAF", subtype="PCM_16")),
    "odd/vorbis.ogg": Odd(lambda x: encoded(at(16_000, x), 16_000, "OGG")),
    # mislabelled
    "odd/a FLAC.wav": Odd(lambda x: encoded(x, format="FLAC")),
    "odd/an OGG.mp3": Odd(lambda x: encoded(at(16_000, x), 16_000, "OGG")),
    "odd/a WAV.M4A": Odd(as_wav),
    "odd/of 100 bpm.wav": Odd(as_wav),
    "odd/of 000 bpm.wav": Odd(as_wav),
    "odd/of 999 bpm.wav": Odd(as_wav),
    "odd/acid says 90.wav": Odd(lambda x: more(as_wav(x), acid(90.0, 6))),
    "odd/acid says nan.wav": Odd(lambda x: more(as_wav(x), acid(float("nan"), 2**32 - 1))),
    "odd/loop beyond the end.wav": Odd(lambda x: more(as_wav(x), smpl(5, 10**6))),
    # damaged
    "odd/cut short.wav": Odd(lambda x: as_wav(x)[: 44 + 3 * BAR_BYTES], 5, 3),
    "odd/cut short.aiff": Odd(lambda x: encoded(x, format="AIFF")[: 54 + 3 * BAR_BYTES], 5, 3),
    "odd/of unknown length.wav": Odd(lambda x: header(size=0xFFFFFFFF) + in_16_bits(x)),
    "odd/of a length too large.wav": Odd(lambda x: header(size=0x7FFFFFFF) + in_16_bits(x)),
    "odd/rubbish after it.wav": Odd(lambda x: as_wav(x) + np.random.default_rng(0).bytes(999)),
    # tags
    "odd/artist of two lines.wav": Odd(lambda x: more(as_wav(x), artist('Ü,\r\n"ニ\x85\u2028'))),
    **dict.fromkeys(NAMES, Odd(as_wav)),
}
GOOD = {f"good/{i:02d}.wav": Odd(as_wav) for i in range(12)}
SEEDS = {name: seed for seed, name in enumerate([*GOOD, *ODD])}


# --- bad files: a row says why they are not used ----------------------------------------------


class Bad(NamedTuple):
    """What cannot be used, and the row that says so."""

    make: Callable[[Path], Any]
    reason: str
    detail: str


def holds(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def links(to: str) -> Callable[[Path], Any]:
    return lambda path: path.symlink_to(to)


def listens(path: Path) -> None:
    """A socket; their paths may have no more than some hundred characters."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def spoilt(value: float) -> bytes:
    x = music(900)
    x[5000:5003] = value
    return encoded(x, subtype="FLOAT")


def hit() -> np.ndarray:
    t = np.arange(2 * RATE) / RATE
    return (0.5 * np.exp(-12 * t) * np.sin(2 * np.pi * 60 * t)).astype(np.float32)


NOISE = np.random.default_rng(1).bytes(20_000)
MP3 = encoded(at(16_000, music(901)), 16_000, "MP3")
NO_DECODER = "no decoder opens it"
BAD = {
    "bad/empty.wav": Bad(holds(b""), "unreadable", r"it is empty \(0 bytes\)"),
    "bad/empty.mp3": Bad(holds(b""), "unreadable", r"it is empty \(0 bytes\)"),
    "bad/no samples.wav": Bad(holds(header()), "unreadable", "it has no samples"),
    "bad/no samples.flac": Bad(
        holds(encoded(music(902), format="FLAC")[:42]), "unreadable", "no decoder|no samples"
    ),
    "bad/cut in its header.wav": Bad(holds(header()[:30]), "unreadable", NO_DECODER),
    "bad/cut in its header.flac": Bad(
        holds(encoded(music(902), format="FLAC")[:30]), "unreadable", "no decoder|no samples"
    ),
    "bad/cut in its header.ogg": Bad(
        holds(encoded(music(902), 16_000, "OGG")[:99]), "unreadable", "no decoder|no samples"
    ),
    "bad/nan.wav": Bad(holds(spoilt(np.nan)), "unreadable", "3 of its 15360 samples are NaN.*5000"),
    "bad/infinite.wav": Bad(holds(spoilt(-np.inf)), "unreadable", "3 of its 15360 samples"),
    "bad/text.wav": Bad(holds(b"no audio at all"), "unreadable", NO_DECODER),
    "bad/page.mp3": Bad(
        holds(b"<!DOCTYPE html><html><body>404" + 900 * b"<p>Not found"), "unreadable", NO_DECODER
    ),
    "bad/picture.flac": Bad(holds(b"\x89PNG\r\n\x1a\n" + NOISE), "unreadable", NO_DECODER),
    "bad/noise.wav": Bad(holds(NOISE), "unreadable", NO_DECODER),
    "bad/zeros.wav": Bad(holds(bytes(5000)), "unreadable", NO_DECODER),
    "bad/zeros.mp3": Bad(holds(bytes(5000)), "unreadable", NO_DECODER),
    "bad/._of a Mac.wav": Bad(
        holds(b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(99)), "unreadable", NO_DECODER
    ),
    "bad/phone.m4a": Bad(
        holds(b"\0\0\0\x20ftypM4A " + NOISE), "unreadable", r"no decoder for \.m4a; convert it"
    ),
    "bad/pieces.rx2": Bad(
        holds(b"CAT \0\0\1\0REX2" + NOISE), "unreadable", r"no decoder for \.rx2"
    ),
    "bad/500 Hz.wav": Bad(holds(header(500, size=9000) + bytes(9000)), "unreadable", "500 Hz"),
    "bad/2 MHz.wav": Bad(holds(header(2_000_000, size=99) + bytes(99)), "unreadable", "2000000 Hz"),
    "bad/link to nowhere.wav": Bad(links("nowhere.wav"), "unreadable", "No such file"),
    "bad/link to itself.wav": Bad(links("link to itself.wav"), "unreadable", "symbolic links"),
    "bad/circle/a.wav": Bad(links("b.wav"), "unreadable", "symbolic links"),
    "bad/circle/b.wav": Bad(links("a.wav"), "unreadable", "symbolic links"),
    "bad/link to a device.wav": Bad(links("/dev/zero"), "unreadable", "not a regular file"),
    "bad/pipe.wav": Bad(os.mkfifo, "unreadable", "not a regular file"),
    "bad/socket.wav": Bad(listens, "unreadable", "not a regular file"),
    "bad/a tenth of a second.wav": Bad(
        holds(as_wav(bar(903)[:400])), "shorter_than_a_bar", "beats from the first downbeat"
    ),
    "bad/one sample.wav": Bad(holds(as_wav(np.array([0.5]))), "silent", "every sample is the same"),
    "bad/two samples.wav": Bad(holds(as_wav(np.array([0.5, -0.5]))), "shorter_than_a_bar", "beats"),
    "bad/silence.wav": Bad(holds(as_wav(np.zeros(15_360))), "silent", "every sample is the same"),
    "bad/constant.wav": Bad(holds(as_wav(np.full(15_360, 0.7))), "silent", "every sample is the"),
    "bad/next to silence.wav": Bad(
        holds(encoded(1e-5 * music(904), subtype="FLOAT")), "silent", "LUFS"
    ),
    "bad/far from the centre.wav": Bad(holds(as_wav(0.3 * music(905) + 0.6)), "dc_offset", "mean"),
    "bad/clipped.wav": Bad(
        holds(as_wav(np.clip(90 * music(906), -1, 1))), "clipped", "share of samples cut off"
    ),
    "bad/hit.wav": Bad(holds(as_wav(hit())), "single_hit", "it dies away"),
    "bad/waltz.wav": Bad(
        holds(more(as_wav(music(907)), acid(125.0, 6, 3))), "other_meter", "beats a bar, as stated"
    ),
    # while they are read, see Vanishing
    "vanish/gone.wav": Bad(holds(as_wav(music(910))), "unreadable", "No such file"),
    "vanish/cut.wav": Bad(holds(as_wav(music(911))), "unreadable", NO_DECODER),
    "vanish/emptied.wav": Bad(holds(as_wav(music(912))), "unreadable", r"it is empty \(0 bytes\)"),
    "vanish/now a folder.wav": Bad(holds(as_wav(music(913))), "unreadable", "can now|folder"),
    "vanish/with all/a.wav": Bad(holds(as_wav(music(914))), "unreadable", "No such file"),
    "vanish/with all/b.wav": Bad(holds(as_wav(music(915))), "unreadable", "No such file"),
}


class Vanishing(FolderSource):
    """A folder in which somebody tidies up while it is read."""

    def read(self, item):
        path = Path(self.uri, item.name)
        match item.name:
            case "vanish/gone.wav":
                path.unlink()
            case "vanish/cut.wav":
                os.truncate(path, 30)
            case "vanish/emptied.wav":
                os.truncate(path, 0)
            case "vanish/now a folder.wav":
                path.unlink()
                path.mkdir()
            case "vanish/with all/a.wav":
                shutil.rmtree(path.parent)
        return super().read(item)


# --- one folder, two runs ---------------------------------------------------------------------


def build(folder: Path) -> None:
    """Everything, and what shall not be visited, or once only."""
    for name, odd in (GOOD | ODD).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(odd.write(music(SEEDS[name], odd.bars)))
    for name, bad in BAD.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        bad.make(path)
    (folder / "round" / "and").mkdir(parents=True)
    (folder / "round" / "and" / "round").symlink_to(folder / "round")
    (folder / "round" / "top").symlink_to(folder)
    (folder / "round" / "again.wav").symlink_to(folder / "good" / "00.wav")
    (folder / "round" / "nothing in it.wav").mkdir()
    (folder / "good" / "notes.txt").write_text("no audio")


def state(folder: Path) -> dict[str, tuple]:
    """All that lies in a folder, but for what vanishes."""
    found = {}
    for path in folder.rglob("*"):
        if "vanish" not in path.parts:
            about = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path.relative_to(folder))] = (about.st_mode, about.st_mtime_ns, content)
    return found


class Ran(NamedTuple):
    """What a run came to, and what it had."""

    folder: Path
    names: list[str]
    before: dict[str, tuple]
    card: dict
    index: pd.DataFrame
    audio: np.ndarray
    rejected: list[dict[str, str]]


@pytest.fixture(scope="module", params=[0, 2], ids=["here", "by workers"])
def ran(request, tmp_path_factory) -> Ran:
    folder = tmp_path_factory.mktemp("bad input")
    build(folder / "in")
    (folder / "elsewhere").mkdir()
    source, before = Vanishing(folder / "in"), state(folder / "in")
    names = [item.name for item in source.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "elsewhere")
        told = settings(folder, workers=request.param)
        prepare_loops(source, folder / "loops", RECIPE, **told)
    return Ran(folder, names, before, *prepared(folder / "loops"))


def shown(name: str) -> str:
    """A name as tables have it."""
    name = name.replace("\r", r"\r").replace("\n", r"\n")
    return name.encode("utf-8", "backslashreplace").decode()


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("name", [*GOOD, *ODD], ids=lambda name: NAMES.get(name, name))
def test_an_odd_file_is_used(ran, name):
    """Its bars are there, each at its place, at the right tempo and as it sounded."""
    odd = (GOOD | ODD)[name]
    rows = ran.index[ran.index["name"] == shown(name)]
    reasons = [row for row in ran.rejected if row["file"] == shown(name)]
    assert rows["bar_in_source"].tolist() == list(range(odd.used)), reasons
    np.testing.assert_allclose(rows["bpm"], GRID.bpm, atol=0.1)
    np.testing.assert_allclose(rows["stretch_ratio"], 1, atol=1e-3)
    expected = music(SEEDS[name], odd.bars).reshape(odd.bars, -1)
    for place, original in zip(rows.index, expected, strict=False):
        assert similarity(ran.audio[place], original) > 0.9
    assert reasons == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_row_that_says_why(ran, name):
    bad = BAD[name]
    (row,) = [row for row in ran.rejected if row["file"] == name]
    assert (row["reason"], row["bar"]) == (bad.reason, "")
    assert re.search(bad.detail, row["detail"]), row["detail"]
    assert str(ran.folder) not in row["detail"]  # the same wherever the folder lies
    assert "0x" not in row["detail"]  # and in each run
    assert name not in set(ran.index["name"])


def test_every_file_is_accounted_for_once(ran):
    assert set(ran.names) == {*GOOD, *ODD, *BAD}
    assert len(ran.names) == len(set(ran.names)) == ran.card["items"]
    whole = [row["file"] for row in ran.rejected if not row["bar"]]
    assert len(whole) == len(set(whole))
    assert set(whole) == set(BAD)
    assert set(ran.index["name"]) == {*map(shown, GOOD), *map(shown, ODD)}
    assert set(whole).isdisjoint(ran.index["name"])


def test_the_card_counts_what_is_there(ran):
    assert ran.card["loops"] == len(ran.index) == len(ran.audio)
    assert ran.card["rejected"] == dict(Counter(row["reason"] for row in ran.rejected))
    assert ran.card["splits"] == ran.index["split"].value_counts().to_dict()
    assert min(ran.card["splits"].values()) > 0
    assert ran.index["loop_id"].is_unique
    numbers = ran.index.select_dtypes("number")
    assert np.isfinite(numbers).all(axis=None), numbers.columns[~np.isfinite(numbers).all()]


def test_tables_parse_and_hold_one_line_a_row(ran):
    for file, rows in (("rejected", len(ran.rejected)), ("attribution", len(GOOD | ODD))):
        text = (ran.folder / "loops" / f"{file}.csv").read_text(encoding="utf-8")
        table = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        assert {len(row) for row in table} == {len(table[0])}
        assert len(table) == rows + 1 == text.count("\n")
        assert "\r" not in text
    named = rows_of(ran.folder / "loops" / "attribution.csv")
    assert [row["file"] for row in named] == ran.index["name"].drop_duplicates().tolist()


def test_nothing_else_was_touched(ran):
    assert state(ran.folder / "in") == ran.before
    assert not list((ran.folder / "elsewhere").iterdir())
    assert {p.name for p in ran.folder.iterdir()} - {"checkpoints"} == {"in", "elsewhere", "loops"}
    assert not list((ran.folder / "checkpoints").rglob("*"))
    shards = {shard["file"] for shard in ran.card["shards"]}
    assert {p.name for p in (ran.folder / "loops").iterdir()} == shards | {
        *("attribution.csv", "card.json", "index.parquet", "rejected.csv")
    }


# --- two hours --------------------------------------------------------------------------------

TWO_HOURS = 3750  # bars
PROGRAM = """
import re, sys, pathlib
from techloop.data.build import prepare_loops
from techloop.data.sources.folder import FolderSource
from tests.helpers.sources import RECIPE, settings
folder = pathlib.Path(sys.argv[1])
prepare_loops(FolderSource(folder / "in"), folder / "loops", RECIPE, **settings(folder))
status = pathlib.Path("/proc/self/status").read_text()
print(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""


@pytest.mark.ci
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells no peak memory")
def test_two_hours_in_one_file_are_cut_into_all_their_bars(tmp_path):
    (tmp_path / "in").mkdir()
    some = music(800, 15)
    with soundfile.SoundFile(tmp_path / "in" / "long.flac", "w", RATE, 1, "PCM_16") as sound:
        for _ in range(TWO_HOURS // 15):
            sound.write(some)
    for i in range(8):
        (tmp_path / "in" / f"{i}.wav").write_bytes(as_wav(music(801 + i)))
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert time.perf_counter() - began < 60
    # Of 29 million samples (115 MB as floats), once the imports' 350 MB are taken off.
    assert int(ran.stdout.split()[-1]) < 2_000_000
    _, index, audio, rejected = prepared(tmp_path / "loops")
    assert rejected == []
    long = index[index["name"] == "long.flac"]
    assert long["bar_in_source"].tolist() == list(range(TWO_HOURS))
    np.testing.assert_allclose(long["bpm"], GRID.bpm, atol=1e-3)
    expected = some.reshape(15, -1)
    for bar_, place in enumerate(long.index):
        assert similarity(audio[place], expected[bar_ % 15]) > 0.9


def test_a_long_file_that_is_cut_while_it_is_decoded_gives_what_was_read(tmp_path, monkeypatch):
    """By another program, that is: the header still promises all of it."""
    path = tmp_path / "x.wav"
    path.write_bytes(as_wav(music(820, 60)))
    decode, blocks = soundfile.SoundFile.read, []

    def read(sound, *args, **kwargs):
        got = decode(sound, *args, **kwargs)
        blocks.append(len(got))
        os.truncate(path, 44 + 40 * BAR_BYTES)
        return got

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    loops, rows, rejected = prepare_item(FolderSource(tmp_path), Item("x.wav"), RECIPE)
    assert len(blocks) > 2
    assert [row["bar_in_source"] for row in rows] == list(range(40)), rejected
    assert similarity(loops[39], music(820, 60).reshape(60, -1)[39]) > 0.9


# --- archives ---------------------------------------------------------------------------------


def archive(path: Path, tmp_path: Path) -> list[str]:
    """A zip with good members and others, of which it returns the names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(12):
            file.writestr(f"good/{i}.wav", as_wav(music(830 + i)))
        others = [
            "../../evil.wav",
            f"{tmp_path}/evil.wav",
            "C:\\evil.wav",
            "..\\evil.wav",
            "a/../../evil.wav",
            "damaged.wav",
            "encrypted.wav",
            "unknown method.wav",
        ]
        for name in others:
            method = zipfile.ZIP_STORED if name == "damaged.wav" else None
            file.writestr(name, as_wav(music(850)), method)
        file.writestr("a folder.wav/", b"")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        content[file.getinfo("damaged.wav").header_offset + 400] ^= 0xFF
    for name, place, value in (("encrypted.wav", 6, 1), ("unknown method.wav", 8, 99)):
        # In the member's own header, and in the list at the end, where the field is 2 further on.
        first, last = content.index(name.encode()), content.rindex(name.encode())
        content[first - 30 + place] = content[last - 46 + place + 2] = value
    path.write_bytes(content)
    return others


def test_members_of_a_zip_stay_in_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    others = archive(tmp_path / "a" / "b" / "loops.zip", tmp_path)
    source = FolderSource(f"zip://::{tmp_path}/a/b/loops.zip")
    card = prepare_loops(source, tmp_path / "loops", RECIPE, **settings(tmp_path, workers=2))
    _, index, _, rejected = prepared(tmp_path / "loops")
    details = {row["file"]: row["detail"] for row in rejected}
    used = {f"good/{i}.wav" for i in range(12)}
    # What would be on another disk of another system is a plain name inside of a zip.
    assert set(index["name"]) == used | {"C:\\evil.wav"}
    assert set(details) == {*others} - {"C:\\evil.wav"}
    assert card["items"] == 20
    assert card["rejected"] == {"unreadable": 7}
    for name, detail in details.items():
        assert ("leads out of the folder" in detail) == ("evil" in name)
    assert "CRC" in details["damaged.wav"]
    assert "encrypted" in details["encrypted.wav"]
    assert "compression method" in details["unknown method.wav"]
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.parent.glob("*evil*"))


def listed(path: Path) -> None:
    """The Freesound Loop Dataset in small, with one of everything."""
    said: dict[str, tuple[str, str, Any, dict]] = {
        f"1{i:03d}": (f"user {i % 10}", (CC0, CC_BY)[i % 2], 125, {}) for i in range(20)
    }
    said |= {
        "2000": ("bob", CC_BY_NC, 125, {}),
        "2001": ("bob", CC0, 125, {"genres": ["hip hop"]}),
        "2002": ("bob", CC0, 170, {"bpm": "170"}),
        "2003": ("bob", CC0, 125, {"discard": True}),
        "2004": ("bob", CC0, 125, {"signature": "3/4"}),
        "2005": ('ann, "the\nüne"', CC_BY, 125, {}),
        "2006": ("bob", CC0, 125, {}),
        "2007": ("bob", CC0, None, {"bpm": "1e9"}),
    }
    members: dict[str, Any] = {
        f"audio/wav/{sound}_1.wav.wav": as_wav(music(860 + i)) for i, sound in enumerate(said)
    }
    members["audio/wav/2006_1.wav.wav"] = b"RIFF, and no more"
    members["audio/wav/3000.wav"] = as_wav(music(899))
    members["../../evil.wav"] = as_wav(music(898))
    members["metadata.json"] = json.dumps(
        {sound: metadata(user, licence, bpm) for sound, (user, licence, bpm, _) in said.items()}
    )
    for sound, (_, _, bpm, answers) in said.items():
        members[f"annotations/1/sound-{sound}.json"] = judgement(
            **{"bpm": str(bpm), "genres": ["house / techno"], **answers}
        )
    write_zip(path, members)


def test_the_freesound_loop_dataset_end_to_end(tmp_path):
    listed(tmp_path / "in" / "FSL10K.zip")
    source = FSLDSource(
        str(tmp_path / "in"),
        licences=["CC0", "CC-BY"],
        genres=["techno"],
        min_bpm=100.0,
        max_bpm=140.0,
    )
    card = prepare_loops(source, tmp_path / "loops", RECIPE, **settings(tmp_path))
    _, index, _, rejected = prepared(tmp_path / "loops")
    rows = {row["file"].rpartition("/")[2][:4]: row for row in rejected}
    assert {key: row["reason"] for key, row in rows.items()} == {
        "2000": "licence",
        "2001": "genre",
        "2002": "tempo",
        "2003": "discarded",
        "2004": "other_meter",
        "2006": "unreadable",
        "2007": "tempo",
        "3000": "licence",
        "evil": "unreadable",
    }
    told = {key: (row["value"], row["limit"]) for key, row in rows.items()}
    assert told["2000"] == ("CC-BY-NC-3.0", "CC0, CC-BY")
    assert told["2001"] == ("hip hop", "techno")
    assert told["2002"] == ("170.0", "100 to 140")
    assert told["2004"] == ("3.0", "4.0")
    assert told["3000"] == ("unknown", "CC0, CC-BY")
    assert not list(tmp_path.rglob("*evil*"))

    named = rows_of(tmp_path / "loops" / "attribution.csv")
    used = index.drop_duplicates("name")
    assert len(named) == len(used) == 21
    for row, (_, loop) in zip(named, used.iterrows(), strict=True):
        assert row["file"] == loop["name"]
        assert (row["author"], row["licence"]) == (loop["author"], loop["licence"])
        sound = row["file"].rpartition("/")[2][:4]
        assert row["url"] == f"https://freesound.org/s/{sound}/"
    assert named[-1]["author"] == 'ann, "the\\nüne"'
    assert card["licences"] == dict(Counter(index["licence"]))
    assert card["authors"] == index["author"].nunique() == 11
    assert (index["bpm_source"] == "annotation").all()
    assert index.groupby("author")["split"].nunique().max() == 1


# --- where it cannot be written ---------------------------------------------------------------


@pytest.fixture
def good(tmp_path) -> FolderSource:
    for i in range(20):
        path = tmp_path / "in" / f"{i:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(as_wav(music(860 + i)))
    return FolderSource(tmp_path / "in")


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path, good, monkeypatch):
    told = settings(tmp_path)
    with monkeypatch.context() as patch:
        disk = FullDisk(np.inf)
        patch.setattr(io, "open", disk.open)
        prepare_loops(good, tmp_path / "loops", RECIPE, **told)
    before = contents(tmp_path / "loops")
    assert disk.written > 2 * sum(map(len, before.values()))  # parts first, then the dataset
    soundfile.write(tmp_path / "in" / "20.wav", music(890), RATE)
    for share in (0.1, 0.49, 0.6, 0.98, 0.999):  # parts, and each of the files of the dataset
        told["checkpoints"] = tmp_path / "checkpoints" / str(share)
        with monkeypatch.context() as patch:
            patch.setattr(io, "open", FullDisk(share * disk.written).open)
            with pytest.raises(OSError, match="No space left") as error:
                prepare_loops(good, tmp_path / "loops", RECIPE, **told)
        assert error.value.errno == errno.ENOSPC
        assert contents(tmp_path / "loops") == before
        assert {p.name for p in tmp_path.iterdir()} == {"in", "loops", "checkpoints"}
    prepare_loops(good, tmp_path / "loops", RECIPE, **told)
    assert len(prepared(tmp_path / "loops")[1]) == 42
    assert not list(told["checkpoints"].rglob("*"))


@pytest.mark.parametrize("place", ["loops/loops", "checkpoints/part"])
def test_a_file_in_the_way_of_a_folder_is_said_and_stays(tmp_path, good, place):
    prepare_loops(good, tmp_path / "before", RECIPE, **settings(tmp_path / "other"))
    (tmp_path / place).parent.write_text("precious")
    told = settings(tmp_path, checkpoints=tmp_path / "checkpoints" / "part")
    with pytest.raises((OSError, ValueError), match=place.partition("/")[0]):
        prepare_loops(good, tmp_path / "loops" / "loops", RECIPE, **told)
    assert (tmp_path / place).parent.read_text() == "precious"


def test_a_file_in_the_place_of_the_dataset_is_no_dataset_to_be_replaced(tmp_path, good):
    (tmp_path / "loops").write_text("precious")
    with pytest.raises((OSError, ValueError), match="loops"):
        prepare_loops(good, tmp_path / "loops", RECIPE, **settings(tmp_path))
    assert (tmp_path / "loops").read_text() == "precious"


def test_what_else_lies_with_the_checkpoints_stays(tmp_path, good):
    (tmp_path / "checkpoints" / "train").mkdir(parents=True)
    (tmp_path / "checkpoints" / "train" / "state").write_text("precious")
    prepare_loops(good, tmp_path / "loops", RECIPE, **settings(tmp_path))
    assert [p.name for p in (tmp_path / "checkpoints").rglob("*")] == ["train", "state"]


def test_a_folder_that_is_gone_before_it_is_read(tmp_path, good):
    class Gone(FolderSource):
        def items(self):
            found = super().items()
            shutil.rmtree(self.uri)
            return found

    with pytest.raises(ValueError, match=r"none of 20 items.*unreadable: 20.*No such file"):
        prepare_loops(Gone(tmp_path / "in"), tmp_path / "loops", RECIPE, **settings(tmp_path))
    assert not (tmp_path / "loops").exists()
    with pytest.raises(ValueError, match="is not a folder"):
        prepare_loops(good, tmp_path / "loops", RECIPE, **settings(tmp_path))


# --- odd settings -----------------------------------------------------------------------------


def test_a_confidence_that_nothing_has_is_an_error_that_names_the_reason(tmp_path, good):
    recipe = replace(RECIPE, min_confidence=1.0)
    with pytest.raises(ValueError, match=r"none of 20 items.*tempo_uncertain: 20.*limit 1\.0"):
        prepare_loops(good, tmp_path / "loops", recipe, **settings(tmp_path))


def test_loops_longer_than_any_file_are_an_error_that_names_the_reason(tmp_path, good):
    recipe = replace(RECIPE, grid=replace(GRID, bars=8))
    with pytest.raises(ValueError, match=r"shorter_than_a_loop: 20.*limit 32"):
        prepare_loops(good, tmp_path / "loops", recipe, **settings(tmp_path))


def test_everything_the_same_is_an_error_that_names_the_reason(tmp_path, good):
    with pytest.raises(ValueError, match=r"empty.*near.duplicate.*max_similarity"):
        prepare_loops(good, tmp_path / "loops", RECIPE, **settings(tmp_path, max_similarity=0.0))


# --- damage at random -------------------------------------------------------------------------


def originals() -> dict[str, bytes]:
    """Two bars in each format, with all the tags it may have."""
    x = music(920)
    tags = (acid(125.0), smpl(0, len(x) - 1), artist("X"), chunk(b"id3 ", id3("Y")))
    basc = chunk(b"basc", struct.pack(">IIHHHHH", 1, 8, 48, 2, 4, 4, 1) + bytes(66), ">")
    return {
        "WAV": more(as_wav(x), *tags),
        "float": more(encoded(x, subtype="FLOAT"), *tags),
        "FLAC": encoded(x, format="FLAC"),
        "OGG": encoded(at(16_000, x), 16_000, "OGG"),
        "MP3": id3("Y") + encoded(at(16_000, x), 16_000, "MP3"),
        "AIFF": more(encoded(x, format="AIFF"), basc, chunk(b"ID3 ", id3("Y"), ">")),
    }


def damaged(content: bytes, seed: int) -> bytes:
    """Some bytes changed, cut out or put in, often in the header."""
    rng, bytes_ = np.random.default_rng(seed), bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(min(len(bytes_), (64, len(content))[rng.integers(2)]) or 1))
        some = int(rng.integers(1, 200))
        match int(rng.integers(5)):
            case 0:
                bytes_[place : place + 4] = rng.bytes(4)
            case 1:
                bytes_[place : place + some % 8] = bytes([rng.choice([0, 127, 128, 255])]) * 4
            case 2:
                del bytes_[place:]
            case 3:
                del bytes_[place : place + some]
            case _:
                bytes_[place:place] = rng.bytes(some)
    return bytes(bytes_)


@pytest.mark.parametrize("value", [1e12, 1e30, -3e38])
def test_numbers_beyond_all_measure_are_no_sound(tmp_path, value):
    (tmp_path / "x.wav").write_bytes(more(spoilt(value), acid(125.0)))
    _, _, (row,) = prepare_item(FolderSource(tmp_path), Item("x.wav"), RECIPE)
    assert row["reason"] == "unreadable"
    assert "3 of its 15360 samples" in row["detail"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numbers beyond all measure
@pytest.mark.parametrize("kind", originals())
def test_whatever_is_damaged_ends_as_loops_or_a_row(tmp_path, kind):
    source, content = FolderSource(tmp_path), originals()[kind]
    (tmp_path / "x").write_bytes(content)
    loops, _, _ = prepare_item(source, Item("x"), RECIPE)  # whole, and what it takes is imported
    assert len(loops) == 2
    ends: Counter[str] = Counter()
    for seed in range(40):
        (tmp_path / "x").write_bytes(damaged(content, seed))
        began = time.process_time()
        loops, rows, rejected = prepare_item(source, Item("x"), RECIPE)
        assert time.process_time() - began < 1, seed
        assert loops or rejected, seed
        assert len(loops) == len(rows)
        reasons = {row["reason"] for row in rejected}
        assert "failed" not in reasons, (seed, rejected)  # which would be a defect of ours
        numbers = [v for row in rows for v in row.values() if isinstance(v, float)]
        assert np.isfinite(numbers).all(), (seed, rows)
        ends.update(reasons or {"used"})
    assert ends["unreadable"] > 2
    assert ends["used"] > 0

"""The Freesound Loop Dataset: its items, its files, its filters and its download."""

import hashlib
import io
import json
import pickle
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from upath import UPath

from techloop.audio.recording import Unreadable
from techloop.data.source import Item
from techloop.data.sources.fsld import download
from techloop.data.sources.fsld.download import download_fsld
from techloop.data.sources.fsld.judgements import tempo_of
from techloop.data.sources.fsld.licences import licence_of
from techloop.data.sources.fsld.source import FSLDSource

CC = "http://creativecommons.org/"
CC0 = CC + "publicdomain/zero/1.0/"
CC_BY = CC + "licenses/by/3.0/"
CC_BY_NC = CC + "licenses/by-nc/3.0/"
CLIMBERS = ("../../evil.wav", "/evil.wav", "C:\\evil.wav", "audio/wav/../../../evil.wav")


def wav(seed: int, samples: int = 400) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, 2))
    soundfile.write(stream, noise, 8000, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def metadata(user: str, licence: str, bpm: object) -> dict:
    """As published: the entry of Freesound, and the tempo from names and tags."""
    return {
        "name": "loop.wav",
        "username": user,
        "license": licence,
        "tags": ["loop", "techno"],
        "pack": None,
        "annotations": {"bpm": bpm},
    }


def judgement(**answers: object) -> str:
    """As the listeners' page wrote it; the tempo is the text of an input field."""
    return json.dumps(
        {
            "discard": False,
            "save_for_later": False,
            "instrumentation": {"percussion": True, "bass": False},
            "defined_tempo": True,
            "bpm": "120",
            "signature": "4/4",
            "well_cut": True,
            "key": "none",
            "mode": "none",
            "genres": ["house / techno", "electronic"],
            "comments": "",
        }
        | answers
    )


SOUNDS = {
    "1000": metadata("ann", CC0, 120),
    "1001": metadata("ann", CC_BY, 100),
    "1002": metadata("bob", CC_BY_NC, 140),
    "1003": metadata("ユーザー", CC_BY, 90),
    "1004": metadata("bob", CC + "licenses/sampling+/1.0/", 120),
    "1005": metadata("cat", CC0, 128.5),
    "1006": metadata("cat", CC0, None),
}
WAVS = {
    "audio/wav/1000_1.wav.wav": wav(0),
    "audio/wav/1001_1.wav.wav": wav(1),
    "audio/wav/1002_2.aiff.wav": wav(2),
    "audio/wav/1003_ユーザー.WAV": wav(3),
    "audio/wav/1004.wav": wav(4),
    "audio/wav/1005_3.wav.wav": wav(5),
    "audio/wav/1006_3.wav.wav": b"RIFF, and no more",
    "audio/wav/9999_9.wav.wav": wav(9),
    "audio/wav/ohne Nummer ß.wav": wav(10),
}
REST = {
    "metadata.json": json.dumps(SOUNDS).encode(),
    "ac_analysis/1000_1_analysis.json": b"{}",
    "ac_analysis/odd.wav": b"not in its place",
    "audio/wav/readme.txt": b"no audio",
}
ANNOTATIONS = {
    "1/sound-1000.json": judgement(),
    "2/sound-1000.json": judgement(bpm="60", well_cut=False, genres=["bass music"]),
    "1/sound-1001.json": judgement(bpm="101", signature="3/4", genres=["hip hop"]),
    "1/sound-1002.json": judgement(defined_tempo=False, bpm="140"),
    "1/sound-1003.json": judgement(save_for_later=True, bpm="1"),
    "1/sound-1004.json": judgement(),
    "2/sound-1004.json": judgement(discard=True),
    "1/sound-1005.json": "{ broken",
    "1/sound-1006.json": judgement(bpm="none", defined_tempo=None, signature="none", genres=[]),
    "1/sound-7777.json": judgement(),
}


def write_zip(file: Path, members: dict[str, bytes | str], top: str = "") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name if name in CLIMBERS else top + name, content)
    return file


def write_folder(folder: Path, members: dict[str, bytes | str]) -> Path:
    for name, content in members.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def annotations(top: str = "annotations/") -> dict[str, str]:
    return {top + name: content for name, content in ANNOTATIONS.items()}


def items_of(path: Path | str, **filters: object) -> dict[str, Item]:
    with pytest.warns(UserWarning, match=r"1 annotations cannot be read.*sound-1005"):
        items = FSLDSource(str(path), **filters).items()
    return {re.split(r"[_.]", item.name.rpartition("/")[2])[0]: item for item in items}


@pytest.fixture
def archive(tmp_path) -> Path:
    """As published: the archive has no folder FSL10K at its top."""
    return write_zip(tmp_path / "FSL10K.zip", WAVS | REST | annotations())


# --- metadata and judgements ---------------------------------------------------------------


def test_an_item_has_the_values_of_metadata_and_listeners(archive):
    item = items_of(archive)["1001"]
    assert item.name == "FSL10K/audio/wav/1001_1.wav.wav"
    assert (item.author, item.group, item.licence) == ("ann", "ann", "CC-BY-3.0")
    assert item.url == "https://freesound.org/s/1001/"
    assert (item.bpm, item.beats_per_bar, item.exact) == (101.0, 3, True)
    assert item.size_bytes == len(WAVS["audio/wav/1001_1.wav.wav"])
    assert item.rejection is None


def test_items_are_the_wavs_of_one_folder_sorted(archive):
    names = [item.name for item in items_of(archive).values()]
    assert names == sorted("FSL10K/" + name for name in WAVS)


def test_listeners_who_disagree(archive):
    item = items_of(archive)["1000"]
    assert item.bpm == 120.0  # the uploader agrees with the first
    assert item.beats_per_bar == 4
    assert item.exact is False  # the box is ticked until someone unticks it


def test_a_listener_who_hears_no_tempo_outweighs_the_uploader(archive):
    assert items_of(archive)["1002"].bpm is None


def test_a_sound_saved_for_later_has_no_judgement(archive):
    item = items_of(archive)["1003"]
    assert (item.bpm, item.beats_per_bar, item.exact) == (90.0, None, None)
    assert item.author == "ユーザー"


def test_a_damaged_annotation_counts_as_absent(archive):
    item = items_of(archive)["1005"]
    assert (item.bpm, item.exact, item.rejection) == (128.5, None, None)


def test_empty_answers(archive):
    item = items_of(archive)["1006"]
    assert (item.bpm, item.beats_per_bar) == (None, None)


def test_a_wav_without_metadata_is_its_own_group(archive):
    items = items_of(archive)
    for key, url in (("9999", "https://freesound.org/s/9999/"), ("ohne Nummer ß", "")):
        item = items[key]
        assert (item.author, item.licence, item.bpm, item.url) == ("", "", None, url)
        assert item.group == item.name


@pytest.mark.parametrize(
    ("url", "licence"),
    [
        (CC0, "CC0-1.0"),
        (CC_BY, "CC-BY-3.0"),
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        (CC_BY_NC, "CC-BY-NC-3.0"),
        (CC + "licenses/sampling+/1.0/", "CC-Sampling-Plus-1.0"),
        ("ask me", "ask me"),
        ("", ""),
    ],
)
def test_licences_become_identifiers(url, licence):
    assert licence_of(url) == licence


@pytest.mark.parametrize(
    ("given", "uploader", "bpm"),
    [
        ([], 120.0, 120.0),
        ([], None, None),
        (["128"], 120.0, 128.0),
        (["128.0 "], None, 128.0),
        (["60", "120", "120"], 60.0, 120.0),  # most listeners decide, not the uploader
        (["60", "120"], None, None),
        (["60", "120"], 90.0, None),  # never 90, which no listener gave
        (["60", "120"], 60.0, 60.0),
        (["120", "120.5"], None, 120.0),  # within 1 %, so the same tempo
        (["120", "120.5"], 120.5, 120.5),
        (["none"], 120.0, None),
        (["0", "-3", "nan", "inf", "fast", ""], 120.0, None),
    ],
)
def test_the_tempo_is_one_that_somebody_gave(given, uploader, bpm):
    assert tempo_of([{"bpm": value} for value in given], uploader) == bpm


def test_the_meter_is_that_of_most_listeners(tmp_path):
    answers = {
        "1": ["3/4", "4/4", " 3 / 4 "],
        "2": ["3/4", "4/4"],
        "3": ["6/8"],
        "4": ["4", "0/4", 4],
    }
    members: dict[str, bytes | str] = {"metadata.json": "{}"}
    for sound, signatures in answers.items():
        members[f"audio/wav/{sound}_1.wav"] = b""
        for listener, signature in enumerate(signatures):
            name = f"annotations/{listener}/sound-{sound}.json"
            members[name] = judgement(signature=signature)
    write_folder(tmp_path, members)
    assert [i.beats_per_bar for i in FSLDSource(str(tmp_path)).items()] == [3, None, 6, None]


def test_a_defined_tempo_is_needed_where_it_was_asked_for():
    unclear = {"bpm": "140", "defined_tempo": False}
    assert tempo_of([unclear], 140.0) is None
    assert tempo_of([unclear, {"bpm": 70, "defined_tempo": True}], 140.0) == 70.0


# --- files ----------------------------------------------------------------------------


def places(tmp_path: Path) -> dict[str, Path]:
    everything = WAVS | REST | annotations()
    write_folder(tmp_path / "plain", everything)
    write_folder(tmp_path / "holds" / "FSL10K", everything)
    write_zip(tmp_path / "bare" / "FSL10K.zip", everything)
    write_zip(tmp_path / "named" / "loops.zip", everything, "FSL10K/")
    write_zip(tmp_path / "near" / "FSL10K.zip", WAVS | REST)
    write_zip(tmp_path / "near" / "annotations.zip", annotations())
    write_zip(tmp_path / "next" / "FSL10K.zip", WAVS | REST)
    write_folder(tmp_path / "next", annotations())
    for name, where in (("beside", "."), ("within", "FSL10K")):
        write_folder(tmp_path / name / "FSL10K", WAVS | REST)
        write_zip(tmp_path / name / where / "annotations.zip", annotations())
    return {
        "the folder": tmp_path / "plain",
        "a folder that holds it": tmp_path / "holds",
        "a folder that holds the archive": tmp_path / "bare",
        "the archive": tmp_path / "bare" / "FSL10K.zip",
        "an archive of the folder": tmp_path / "named" / "loops.zip",
        "annotations in an archive near": tmp_path / "near",
        "annotations in a folder near": tmp_path / "next" / "FSL10K.zip",
        "annotations in an archive beside the folder": tmp_path / "beside" / "FSL10K",
        "annotations in an archive within the folder": tmp_path / "within",
    }


def test_items_and_audio_do_not_depend_on_the_place(tmp_path):
    seen = {}
    for place, path in places(tmp_path).items():
        items = items_of(path)
        source = FSLDSource(str(path))
        audio = {
            key: source.read(item).samples.tobytes() for key, item in items.items() if key != "1006"
        }
        seen[place] = ([replace(item, version="") for item in items.values()], audio)
    first = seen.pop("the folder")
    assert len(first[0]) == len(WAVS)
    assert len(set(first[1].values())) == len(WAVS) - 1
    for place, other in seen.items():
        assert other == first, place


def test_files_that_other_programs_left_in_the_archive_are_ignored(tmp_path):
    others = {"__MACOSX/FSL10K/audio/wav/._1000_1.wav.wav": b"", "FSL10K/old/audio/wav/1.wav": b""}
    members = {f"FSL10K/{name}": content for name, content in (WAVS | REST | annotations()).items()}
    write_zip(tmp_path / "FSL10K.zip", members | others)
    assert [i.name for i in items_of(tmp_path).values()] == sorted("FSL10K/" + n for n in WAVS)


def test_annotations_beside_the_archive_replace_those_inside(archive):
    write_zip(archive.parent / "annotations.zip", {"annotations/7/sound-1000.json": judgement()})
    items = {item.name: item for item in FSLDSource(str(archive)).items()}
    assert items["FSL10K/audio/wav/1000_1.wav.wav"].exact is True
    assert items["FSL10K/audio/wav/1001_1.wav.wav"].bpm == 100.0  # the uploader's


@pytest.mark.parametrize("packed", [True, False])
def test_it_is_read_by_uri(packed):
    top = UPath(f"memory://fsld-{packed}/FSL10K")
    everything = WAVS | REST | annotations()
    if packed:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in everything.items():
                archive.writestr(name, content)
        top.parent.mkdir(parents=True)
        (top.parent / "FSL10K.zip").write_bytes(stream.getvalue())
    else:
        for name, content in everything.items():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content.encode() if isinstance(content, str) else content)
    items = items_of(f"memory://fsld-{packed}")
    assert len(items) == len(WAVS)
    assert items["1001"].bpm == 101.0
    assert FSLDSource(str(top.parent)).read(items["1001"]).rate_hz == 8000


def test_the_version_changes_with_the_audio(tmp_path):
    versions = []
    for seed in (0, 0, 1):
        members = {"audio/wav/1_1.wav": wav(seed), "metadata.json": "{}"}
        write_zip(tmp_path / "FSL10K.zip", members)
        with pytest.warns(UserWarning, match="no annotations"):
            (item,) = FSLDSource(str(tmp_path)).items()  # not what was open before
        versions.append(item.version)
    assert versions[0] == versions[1] != versions[2]


def test_a_relative_path_stays_where_it_was(archive, monkeypatch):
    monkeypatch.chdir(archive.parent)
    source = FSLDSource("FSL10K.zip")
    monkeypatch.chdir("/")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert len(source.items()) == len(WAVS)


def samples(source: FSLDSource, item: Item) -> bytes:
    return source.read(item).samples.tobytes()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_what_this_one_reads(tmp_path, start):
    members: dict[str, bytes | str] = {f"audio/wav/{i}_1.wav": wav(i, 50_000) for i in range(8)}
    write_zip(tmp_path / "FSL10K.zip", members | {"metadata.json": "{}"})
    source = FSLDSource(str(tmp_path), licences=["CC0", "CC-BY"])
    with pytest.warns(UserWarning, match="no annotations"):
        items = source.items()
    expected = [samples(source, item) for item in items]  # it is open here when a process forks
    assert len(pickle.dumps(source)) < 1000
    with ProcessPoolExecutor(4 if start == "fork" else 2, mp_context=get_context(start)) as pool:
        assert list(pool.map(samples, [source] * 64, items * 8)) == expected * 8


def test_threads_read_at_the_same_time(archive):
    items = [item for key, item in items_of(archive).items() if key != "1006"]
    source = FSLDSource(str(archive))
    expected = [samples(source, item) for item in items]
    got: list[list[bytes]] = [[] for _ in range(8)]

    def read(into: list[bytes]) -> None:
        into.extend(samples(source, item) for item in items)

    threads = [threading.Thread(target=read, args=(into,)) for into in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 8


def test_an_archive_is_opened_once_for_all_items(archive, monkeypatch):
    items = items_of(archive)
    opened = []
    monkeypatch.setattr(zipfile, "ZipFile", lambda *a, **k: opened.append(a))
    for key in ("1000", "1001", "1002"):
        FSLDSource(str(archive)).read(items[key])
    assert opened == []


# --- damage --------------------------------------------------------------------


@pytest.mark.parametrize("climber", CLIMBERS)
def test_a_member_whose_name_leads_out_is_listed_and_refused(tmp_path, climber):
    write_zip(tmp_path / "FSL10K.zip", WAVS | REST | {climber: wav(66)})
    source = FSLDSource(str(tmp_path), licences=["CC0"])
    with pytest.warns(UserWarning, match="no annotations"):
        items = source.items()
    assert len(items) == len(WAVS) + 1
    (item,) = [item for item in items if "evil" in item.name]
    assert (item.name, item.rejection, item.licence) == (climber, None, "")
    with pytest.raises(Unreadable, match=r"evil\.wav.*leads out of the data set"):
        source.read(item)


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    write_folder(tmp_path / "FSL10K", WAVS | REST)
    (tmp_path / "secret.wav").write_bytes(wav(0))
    climber = Item(name="FSL10K/../secret.wav", group="")
    with pytest.raises(Unreadable, match="leads out"):
        FSLDSource(str(tmp_path)).read(climber)


def test_audio_that_cannot_be_decoded_is_unreadable(archive):
    source, item = FSLDSource(str(archive)), items_of(archive)["1006"]
    reasons = []
    for _ in range(2):
        with pytest.raises(Unreadable) as error:
            source.read(item)
        reasons.append(str(error.value))
    assert reasons[0] == reasons[1]  # the reject table is the same in each run
    assert "0x" not in reasons[0]


def test_a_damaged_member_is_unreadable_and_the_others_are_not(archive):
    items = items_of(archive)
    with zipfile.ZipFile(archive) as opened:
        place = opened.getinfo("audio/wav/1001_1.wav.wav").header_offset
    content = bytearray(archive.read_bytes())
    content[place + 200 : place + 260] = bytes(60)
    archive.write_bytes(content)
    source = FSLDSource(str(archive))
    with pytest.raises(Unreadable, match=r"1001_1\.wav\.wav") as error:
        source.read(items["1001"])
    assert str(archive.parent) not in str(error.value)
    assert source.read(items["1000"]).rate_hz == 8000


def test_a_file_that_vanished_is_unreadable(tmp_path):
    top = write_folder(tmp_path / "FSL10K", WAVS | REST | annotations())
    item = items_of(tmp_path)["1001"]
    (top / "audio/wav/1001_1.wav.wav").unlink()
    with pytest.raises(Unreadable, match=r"1001_1\.wav\.wav: No such file") as error:
        FSLDSource(str(tmp_path)).read(item)
    assert str(tmp_path) not in str(error.value)


def test_a_link_to_nowhere_is_an_item_that_cannot_be_read(tmp_path):
    top = write_folder(tmp_path / "FSL10K", WAVS | REST | annotations())
    (top / "audio/wav/1_1.wav").symlink_to(tmp_path / "nowhere")
    item = items_of(tmp_path)["1"]
    with pytest.raises(Unreadable, match=r"1_1\.wav"):
        FSLDSource(str(tmp_path)).read(item)


def test_without_annotations_the_uploader_is_believed(tmp_path):
    write_zip(tmp_path / "FSL10K.zip", WAVS | REST)
    with pytest.warns(UserWarning, match=r"no annotations were found.*annotations\.zip belongs"):
        items = FSLDSource(str(tmp_path)).items()
    assert {item.bpm for item in items} == {120, 100, 140, 90, 128.5, None}
    assert {(item.beats_per_bar, item.exact) for item in items} == {(None, None)}


@pytest.mark.parametrize("content", [None, b"{ broken", b"[]", b"\xff\xfe{"])
def test_without_metadata_nothing_is_licensed(tmp_path, content):
    members = {k: v for k, v in (WAVS | REST).items() if k != "metadata.json"}
    if content is not None:
        members["metadata.json"] = content
    write_zip(tmp_path / "FSL10K.zip", members)
    write_folder(tmp_path / "unpacked", members)
    for path in (tmp_path, tmp_path / "unpacked"):
        with pytest.raises(ValueError, match=r"metadata\.json of the Freesound Loop Dataset"):
            FSLDSource(str(path)).items()


def test_metadata_of_an_odd_shape_count_as_absent(tmp_path):
    odd = {"1000": "gone", "1001": {"annotations": [], "license": None, "username": None}}
    write_folder(tmp_path, WAVS | REST | annotations() | {"metadata.json": json.dumps(odd)})
    items = items_of(tmp_path)
    assert (items["1000"].licence, items["1001"].licence, items["1001"].bpm) == ("", "", 101.0)


def test_a_place_without_the_data_set_is_refused_and_says_what_to_do(tmp_path):
    (tmp_path / "audio").mkdir()
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"audio/wav.*FSL10K\.zip.*\.path.*fetch-fsld"):
            FSLDSource(str(path)).items()


def test_another_archive_is_refused(tmp_path):
    file = write_zip(tmp_path / "other.zip", {"readme.txt": "hello"})
    with pytest.raises(ValueError, match=r"other\.zip has no audio/wav"):
        FSLDSource(str(file)).items()


def test_an_archive_cut_short_is_refused(archive):
    archive.write_bytes(archive.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"may be incomplete.*fetch-fsld"):
        FSLDSource(str(archive)).items()


def test_annotations_cut_short_are_refused(archive):
    (archive.parent / "annotations.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"annotations\.zip cannot be read as.*fetch-fsld"):
        FSLDSource(str(archive)).items()


# --- filters ----------------------------------------------------------------------------------


def rejections(path: Path, **filters: object) -> dict[str, tuple]:
    """Reason, value and limit of each rejection, besides that of the discarded sound."""
    rows = {k: i.rejection for k, i in items_of(path, **filters).items() if i.rejection}
    assert rows.pop("1004").reason == "discarded"
    return {key: (row.reason, row.value, row.limit) for key, row in rows.items()}


def test_a_sound_that_a_listener_discards_is_rejected(archive):
    items = items_of(archive)
    assert {key for key, item in items.items() if item.rejection} == {"1004"}
    assert items["1004"].rejection == (
        "discarded",
        "a listener says that it is not a loop",
        "1 of 2",
        "0",
    )


def test_licences(archive):
    limit = "CC0, CC-BY"
    assert rejections(archive, licences=["CC0", "CC-BY"]) == {
        "1002": ("licence", "CC-BY-NC-3.0", limit),
        "9999": ("licence", "unknown", limit),
        "ohne Nummer ß": ("licence", "unknown", limit),
    }
    assert set(rejections(archive, licences=["cc-by-3.0"])) == set(SOUNDS) - {
        "1001",
        "1003",
        "1004",
    } | {"9999", "ohne Nummer ß"}
    assert "1001" in rejections(archive, licences=["CC-BY-4.0"])


@pytest.mark.parametrize("licence", ["CC", "CC-BY-", "BY", "CC-BY-NC-ND", "", "CC BY"])
def test_a_licence_that_freesound_does_not_have_is_refused(licence):
    with pytest.raises(ValueError, match=r"not a licence of Freesound.*CC0, CC-BY"):
        FSLDSource("anywhere", licences=[licence])


def test_genres(archive):
    unjudged = {"1003", "1005", "1006", "9999", "ohne Nummer ß"}
    rows = rejections(archive, genres=["Techno"])
    assert set(rows) == {"1001"} | unjudged
    assert rows["1001"] == ("genre", "hip hop", "Techno")
    assert rows["9999"] == ("genre", "unknown", "Techno")
    assert set(rejections(archive, genres=["HIP HOP", "bass music"])) == {"1002"} | unjudged
    assert set(rejections(archive, genres=["house / techno", "hip hop"])) == unjudged


def test_a_genre_that_nobody_named_is_refused_and_lists_the_others(archive):
    with (
        pytest.raises(ValueError, match=r"'tekno'.*bass music, electronic, hip hop, house"),
        pytest.warns(UserWarning, match="cannot be read"),
    ):
        FSLDSource(str(archive), genres=["tekno"]).items()


def test_tempi_are_taken_literally(archive):
    limit = "110 to 128"
    assert rejections(archive, min_bpm=110.0, max_bpm=128.0) == {
        "1001": ("tempo", 101.0, limit),
        "1003": ("tempo", 90.0, limit),
        "1005": ("tempo", 128.5, limit),
    }
    assert set(rejections(archive, max_bpm=100.0)) == {"1000", "1001", "1005"}
    assert rejections(archive, min_bpm=0.0, max_bpm=float("inf")) == {}


def test_an_impossible_range_of_tempi_is_refused():
    with pytest.raises(ValueError, match="no tempo is from 130 to 120"):
        FSLDSource("anywhere", min_bpm=130.0, max_bpm=120.0)


# --- the download -----------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves `files` by path; records requests and how many bytes were sent.

    Attributes:
        cuts: numbers of bytes after which the next connections are cut.
        ranges: whether it can start in the middle of a file.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.cuts: list[int] = []
        self.ranges = True
        self.statuses: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        self.encodings: set[str] = set()
        self.sent = 0

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, asked = self.path[1:], self.headers["Range"]
        self.server.asked.append((path, asked))
        self.server.encodings.add(self.headers["Accept-Encoding"])
        if path not in self.server.files or self.server.statuses:
            self.send_response(self.server.statuses.pop(0) if self.server.statuses else 404)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.files[path]
        start = int(asked[6:-1]) if asked and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked and self.server.ranges else 200)
        if asked and self.server.ranges:
            whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", whole)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
        self.server.sent += len(body)
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


CONTENT = np.random.default_rng(0).bytes(1_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
BLOCK = download.BLOCK


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({"FSL10K.zip": CONTENT}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, **options: object) -> Path:
    options = {"size": len(CONTENT), "md5": MD5} | options
    return download_fsld(folder, url=server.url("FSL10K.zip"), **options)


def test_a_download_is_complete_and_not_repeated(server, tmp_path):
    file = fetch(server, tmp_path / "new" / "folder")
    assert file == tmp_path / "new" / "folder" / "FSL10K.zip"
    assert file.read_bytes() == CONTENT
    assert [f.name for f in file.parent.iterdir()] == ["FSL10K.zip"]
    assert fetch(server, file.parent) == file
    assert server.asked == [("FSL10K.zip", None)]
    assert server.encodings == {"identity"}  # compressed, a range would be of other bytes


def test_a_cut_connection_resumes_where_it_was_cut(server, tmp_path):
    server.cuts = [5 * BLOCK, 2 * BLOCK]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    ranges = [asked for _, asked in server.asked]
    assert ranges == [None, f"bytes={5 * BLOCK}-", f"bytes={7 * BLOCK}-"]
    assert server.sent == len(CONTENT)  # no byte twice


def test_the_next_run_resumes_an_interrupted_download(server, tmp_path):
    server.cuts = [3 * BLOCK, 0]
    with pytest.raises(ConnectionError, match=rf"{3 * BLOCK} bytes in .*\.part are kept"):
        fetch(server, tmp_path)
    part = tmp_path / "FSL10K.zip.part"
    assert [f.name for f in tmp_path.iterdir()] == [part.name]
    assert part.read_bytes() == CONTENT[: 3 * BLOCK]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("FSL10K.zip", f"bytes={3 * BLOCK}-")
    assert server.sent == len(CONTENT)
    assert not part.exists()


def test_ctrl_c_leaves_a_part_that_is_resumed(server, tmp_path, monkeypatch):
    class Pressed(download.tqdm):
        def update(self, n: float | None = 1) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "tqdm", Pressed)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path)
    assert (tmp_path / "FSL10K.zip.part").read_bytes() == CONTENT[:BLOCK]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("FSL10K.zip", f"bytes={BLOCK}-")


def test_a_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "FSL10K.zip.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == []
    (tmp_path / "FSL10K.zip").rename(tmp_path / "FSL10K.zip.part")
    assert fetch(server, tmp_path, size=None).read_bytes() == CONTENT
    assert server.asked == [("FSL10K.zip", f"bytes={len(CONTENT)}-")]


def test_a_part_longer_than_the_file_is_downloaded_again(server, tmp_path):
    (tmp_path / "FSL10K.zip.part").write_bytes(bytes(len(CONTENT) + 1))
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_server_that_cannot_start_in_the_middle_starts_at_the_beginning(server, tmp_path):
    server.ranges = False
    (tmp_path / "FSL10K.zip.part").write_bytes(CONTENT[:BLOCK])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [("FSL10K.zip", f"bytes={BLOCK}-")]
    assert server.sent == len(CONTENT)


def test_a_wrong_checksum_removes_the_download(server, tmp_path):
    with pytest.raises(ValueError, match=rf"MD5 is {MD5}, it should be {'0' * 32}.*removed"):
        fetch(server, tmp_path, md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_stays_and_is_named(server, tmp_path):
    (tmp_path / "FSL10K.zip").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"FSL10K\.zip is there.*Move it away"):
        fetch(server, tmp_path)
    assert (tmp_path / "FSL10K.zip").read_bytes() == b"mine"


def test_a_file_of_another_size_is_not_downloaded(server, tmp_path):
    with pytest.raises(ValueError, match="has 1000000 bytes, the file 999"):
        fetch(server, tmp_path, size=999)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_reported_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)._replace(free=500_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"free, FSL10K\.zip needs"):
        fetch(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "FSL10K.zip.part").write_bytes(CONTENT[:600_000])  # the rest fits
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_without_a_server_the_error_says_what_else_to_do(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/FSL10K.zip"
        with pytest.raises(ConnectionError, match=r"cannot be fetched.*prepare_loops\.path"):
            download_fsld(tmp_path, url=url, md5=MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_reported_with_its_number(server, tmp_path):
    with pytest.raises(ConnectionError, match="404"):
        download_fsld(tmp_path, url=server.url("gone.zip"), md5=MD5)


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = [503]  # the first time without waiting
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def record(server: Server, **files: bytes) -> dict:
    """As Zenodo's API lists a record."""
    return {
        "id": 3967852,
        "files": [
            {
                "key": name.replace("_", "."),
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": server.url(name)},
            }
            for name, content in files.items()
        ],
    }


def test_the_record_gives_size_and_checksum_and_has_annotations(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "RECORD", server.url("record"))
    notes = b"annotations"
    listed = record(server, FSL10K_zip=CONTENT, annotations_zip=notes)
    server.files |= {"record": json.dumps(listed).encode(), "annotations_zip": notes}
    file = download_fsld(tmp_path, url=server.url("FSL10K.zip"))
    assert file.read_bytes() == CONTENT
    assert (tmp_path / "annotations.zip").read_bytes() == notes
    server.files["FSL10K.zip"] = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match="not the published file"):
        download_fsld(tmp_path / "again", url=server.url("FSL10K.zip"))


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b'{"files": [{"key": "FSL10K.zip"}]}', b"[]"])
def test_a_record_of_another_form_is_reported(server, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(download, "RECORD", server.url("record"))
    server.files["record"] = answer
    with pytest.raises(ValueError, match=r"does not list FSL10K\.zip.*as md5"):
        download_fsld(tmp_path, url=server.url("FSL10K.zip"))


def test_a_downloaded_archive_is_read(archive, tmp_path):
    content = archive.read_bytes()
    with Server({"FSL10K.zip": content}) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        md5 = hashlib.md5(content).hexdigest()
        download_fsld(tmp_path / "fetched", url=server.url("FSL10K.zip"), md5=md5)
        server.shutdown()
        thread.join()
    assert set(items_of(tmp_path / "fetched")) == set(items_of(archive))

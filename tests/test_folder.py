import errno
import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from upath import UPath

from techloop.audio.recording import Unreadable
from techloop.data.source import Item
from techloop.data.sources.folder import FolderSource


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((100, 2)), 8000, format="WAV")


def test_audio_is_found_in_every_folder_sorted_by_name(tmp_path):
    for name in ("b.wav", "a/z.FLAC", "a/b/c.Mp3", "Ünïcode/テクノ.aiff"):
        write(tmp_path / name)
    (tmp_path / "README.md").write_text("no audio")
    items = FolderSource(tmp_path).items()
    assert [i.name for i in items] == ["a/b/c.Mp3", "a/z.FLAC", "b.wav", "Ünïcode/テクノ.aiff"]
    assert all(i.group == "" and i.bpm is None for i in items)


def test_a_pickled_source_reads_from_another_working_folder(tmp_path, monkeypatch):
    write(tmp_path / "in" / "x.wav")
    monkeypatch.chdir(tmp_path)
    source = pickle.loads(pickle.dumps(FolderSource("in")))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    recording = source.read(source.items()[0])
    assert (recording.samples.shape, recording.rate_hz) == ((100,), 8000)


def test_links_are_followed_once_and_circles_end(tmp_path):
    write(tmp_path / "in" / "x.wav")
    write(tmp_path / "elsewhere" / "y.wav")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "same.wav").symlink_to(tmp_path / "in" / "x.wav")
    assert [i.name for i in FolderSource(tmp_path / "in").items()] == ["out/y.wav", "same.wav"]


def test_items_have_size_and_version_which_change_with_the_file(tmp_path):
    write(tmp_path / "x.wav")
    (before,) = FolderSource(tmp_path).items()
    assert before.size_bytes == (tmp_path / "x.wav").stat().st_size
    assert FolderSource(tmp_path).items() == [before]
    os.utime(tmp_path / "x.wav", ns=(0, 0))
    assert FolderSource(tmp_path).items()[0].version != before.version


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("file", ["a/b/x.wav", "a/b/y.wav", "a/z.wav", "top.wav"]),
        ("author", ["", "", "", ""]),
        ("folder", ["a/b", "a/b", "a", "top.wav"]),
    ],
)
def test_groups(tmp_path, group, expected):
    for name in ("a/b/x.wav", "a/b/y.wav", "a/z.wav", "top.wav"):
        write(tmp_path / name)
    assert [item.group for item in FolderSource(tmp_path, group).items()] == expected


NAMES = ["テクノ/ループ.wav", "تكنو.wav", "🥁 128.wav", "e\u0301.wav", "a\nb.wav", "a\\b.wav"]


def test_names_in_any_script_are_listed_and_read(tmp_path):
    for name in NAMES:
        write(tmp_path / name)
    source = FolderSource(tmp_path)
    items = source.items()
    assert [item.name for item in items] == sorted(NAMES)
    assert {source.read(item).samples.shape for item in items} == {(100,)}


def test_names_without_a_valid_encoding_are_listed_and_read(tmp_path):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    try:
        os.mkdir(folder)  # noqa: PTH102 - no valid name
    except OSError as error:
        pytest.skip(f"this file system knows valid names alone: {error}")
    write(tmp_path / "x.wav")
    os.rename(tmp_path / "x.wav", folder + b"/\xff.wav")  # noqa: PTH104
    for source in (FolderSource(tmp_path), FolderSource(os.fsdecode(folder))):
        source = pickle.loads(pickle.dumps(source))
        (item,) = source.items()
        assert os.fsencode(item.name).endswith(b"\xff.wav")
        assert source.read(item).rate_hz == 8000


def test_audio_without_a_decoder_is_an_item_and_unreadable(tmp_path):
    (tmp_path / "x.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    (tmp_path / "y.RX2").write_bytes(b"CAT \0\0\0\0REX2")
    write(tmp_path / "z.wma")  # which is a WAV
    source = FolderSource(tmp_path)
    items = source.items()
    assert [item.name for item in items] == ["x.m4a", "y.RX2", "z.wma"]
    for item in items[:2]:
        with pytest.raises(Unreadable, match=r"no decoder for \.(m4a|rx2); convert it to WAV"):
            source.read(item)
    assert source.read(items[2]).rate_hz == 8000
    (tmp_path / "x.m4a").unlink()
    with pytest.raises(Unreadable, match="No such file"):
        source.read(items[0])


def test_a_link_into_nowhere_and_a_pipe_are_unreadable(tmp_path):
    write(tmp_path / "x.wav")
    (tmp_path / "y.wav").symlink_to(tmp_path / "gone.wav")
    os.mkfifo(tmp_path / "z.wav")
    source = FolderSource(tmp_path)
    _, link, pipe = source.items()
    for item, why in ((link, "No such file"), (pipe, "not a regular file")):
        with pytest.raises(Unreadable, match=why):
            source.read(item)


@pytest.fixture
def closed(monkeypatch):
    """Denies access to names with the stem `closed`, as a file system does except to root."""
    listing, opening = os.scandir, Path.open

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return listing(path)

    def open_(path, *args, **kwargs):
        if path.stem == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opening(path, *args, **kwargs)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "open", open_)


@pytest.mark.usefixtures("closed")
def test_a_folder_that_is_closed_is_an_item_and_unreadable(tmp_path):
    for name in ("a/closed/x.wav", "a/x.wav", "closed.wav"):
        write(tmp_path / name)
    source = FolderSource(tmp_path)
    folder, sound, file = source.items()
    assert [folder.name, sound.name, file.name] == ["a/closed", "a/x.wav", "closed.wav"]
    assert source.read(sound).rate_hz == 8000
    for item in (folder, file):
        with pytest.raises(Unreadable, match="cannot be opened: Permission denied"):
            source.read(item)
    with pytest.raises(ValueError, match=r"closed cannot be opened: Permission denied"):
        FolderSource(tmp_path / "a" / "closed").items()


@pytest.mark.parametrize("name", ["../x.wav", "a/../../x.wav", "/x.wav", "..\\x.wav"])
def test_a_name_that_leads_out_is_unreadable(tmp_path, name):
    write(tmp_path / "x.wav")
    with pytest.raises(Unreadable, match="leads out of the folder"):
        FolderSource(tmp_path).read(Item(name=name, group=name))


@pytest.fixture
def memory():
    """A folder in memory, `memory://in`."""
    fsspec.filesystem("memory").store.clear()
    return UPath("memory://in")


def put(folder, *names):
    content = io.BytesIO()
    soundfile.write(content, np.zeros((100, 2)), 8000, format="WAV")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.getvalue())


@pytest.mark.parametrize("uri", ["memory://in", "memory://in/", "memory://"])
def test_a_folder_by_uri(memory, uri):
    put(memory, "b.wav", "a/テ.wav")
    (memory / "README.md").write_text("no audio")
    source = pickle.loads(pickle.dumps(FolderSource(uri, "folder")))
    items = source.items()
    top = "" if "in" in uri else "in/"
    assert [item.name for item in items] == [f"{top}a/テ.wav", f"{top}b.wav"]
    assert [item.group for item in items] == [f"{top}a", top.rstrip("/") or "b.wav"]
    assert all(item.size_bytes == 444 for item in items)
    assert source.items() == items
    assert source.read(items[0]).samples.shape == (100,)
    put(memory, "b.wav")
    again = source.items()
    assert [new.version == old.version for new, old in zip(again, items, strict=True)] == [
        True,
        False,
    ]
    (memory / "b.wav").unlink()
    with pytest.raises(Unreadable, match=r"b\.wav cannot be opened"):
        source.read(items[1])


def zipped(path, *names):
    content = io.BytesIO()
    soundfile.write(content, np.zeros((100, 2)), 8000, format="WAV")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, content.getvalue())


def test_a_zip_is_a_folder_and_names_do_not_lead_out_of_it(tmp_path, monkeypatch):
    zipped(tmp_path / "x.zip", "a/テ.wav", "../out.wav", "/root.wav", "b/../../c.wav")
    monkeypatch.chdir(tmp_path)
    source = pickle.loads(pickle.dumps(FolderSource("zip://::x.zip")))
    monkeypatch.chdir("/")
    items = source.items()
    assert [item.name for item in items] == ["../out.wav", "/root.wav", "a/テ.wav", "b/../../c.wav"]
    assert source.read(items[2]).samples.shape == (100,)
    for item in (items[0], items[1], items[3]):
        with pytest.raises(Unreadable, match="leads out of the folder"):
            source.read(item)
    assert [i.name for i in FolderSource(f"zip://a::{tmp_path}/x.zip").items()] == ["テ.wav"]
    assert source.items() == items
    assert not (tmp_path.parent / "out.wav").exists()


def test_a_damaged_member_is_unreadable(tmp_path):
    zipped(tmp_path / "x.zip", "x.wav", "y.wav")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[40] ^= 0xFF  # of the first member
    (tmp_path / "x.zip").write_bytes(content)
    source = FolderSource(f"zip://::{tmp_path}/x.zip")
    first, second = source.items()
    with pytest.raises(Unreadable, match=r"x\.wav cannot be opened"):
        source.read(first)
    assert source.read(second).rate_hz == 8000


def test_it_pickles_small(tmp_path):
    for i in range(100):
        write(tmp_path / f"{i}.wav")
    zipped(tmp_path / "x.zip", *map(str, range(100)), "x.wav")
    for path in (tmp_path, f"zip://::{tmp_path}/x.zip"):
        source = FolderSource(path)
        source.items()
        assert len(pickle.dumps(source)) < 1000


def test_a_file_that_vanished_is_unreadable(tmp_path):
    write(tmp_path / "x.wav")
    source = FolderSource(tmp_path)
    (item,) = source.items()
    (tmp_path / "x.wav").unlink()
    with pytest.raises(Unreadable, match=r"x\.wav") as error:
        source.read(item)
    assert str(tmp_path) not in str(error.value)  # it does not depend on the folder


def test_a_folder_without_audio_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")
    with pytest.raises(ValueError, match=r"holds no audio.*\.flac.*prepare_loops\.path"):
        FolderSource(tmp_path).items()


@pytest.mark.parametrize("path", ["nowhere", "x.wav", "x.zip"])
def test_a_path_that_is_not_a_folder_is_refused(tmp_path, path):
    write(tmp_path / "x.wav")
    zipped(tmp_path / "x.zip", "x.wav")
    what = "is not a folder" if path == "nowhere" else "is a file, not a folder"
    with pytest.raises(ValueError, match=rf"{path} {what}.*prepare_loops\.path.*zip://::"):
        FolderSource(tmp_path / path).items()


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("memory://nowhere", "is not a folder"),
        ("nonsense://x", "cannot be opened: .*nonsense"),
        ("zip://::memory://x.zip", "cannot be opened: .*x.zip"),
        ("zip://::/nowhere/x.zip", "cannot be opened: .*No such file"),
    ],
)
def test_a_uri_that_is_not_a_folder_is_refused(uri, why):
    with pytest.raises(ValueError, match=rf"{re.escape(uri)} {why}(.|\n)*prepare_loops\.path"):
        FolderSource(uri).items()


def test_an_empty_zip_holds_no_audio(tmp_path):
    zipped(tmp_path / "x.zip")
    with pytest.raises(ValueError, match=r"x\.zip holds no audio"):
        FolderSource(f"zip://::{tmp_path}/x.zip").items()

import pickle

import numpy as np
import pytest
import soundfile

from techloop.sources import Unreadable
from techloop.sources.folder import FolderSource


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((100, 2)), 8000, format="WAV")


def test_audio_is_found_in_every_folder_sorted_by_name(tmp_path):
    for name in ("b.wav", "a/z.FLAC", "a/b/c.Mp3", "Ünïcode/テクノ.aiff"):
        write(tmp_path / name)
    (tmp_path / "README.md").write_text("no audio")
    items = FolderSource(tmp_path).items()
    assert [i.name for i in items] == ["a/b/c.Mp3", "a/z.FLAC", "b.wav", "Ünïcode/テクノ.aiff"]
    assert all(i.group == i.name and i.bpm is None for i in items)


def test_a_file_reads_after_the_source_was_sent_elsewhere(tmp_path, monkeypatch):
    write(tmp_path / "in" / "x.wav")
    monkeypatch.chdir(tmp_path)
    source = pickle.loads(pickle.dumps(FolderSource("in")))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    samples, rate = source.read(source.items()[0])
    assert (samples.shape, rate) == ((2, 100), 8000)


def test_links_are_followed_once_and_never_in_circles(tmp_path):
    write(tmp_path / "in" / "x.wav")
    write(tmp_path / "elsewhere" / "y.wav")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "same.wav").symlink_to(tmp_path / "in" / "x.wav")
    assert [i.name for i in FolderSource(tmp_path / "in").items()] == ["out/y.wav", "same.wav"]


def test_a_file_that_vanished_is_unreadable(tmp_path):
    write(tmp_path / "x.wav")
    source = FolderSource(tmp_path)
    (item,) = source.items()
    (tmp_path / "x.wav").unlink()
    with pytest.raises(Unreadable, match=r"x\.wav") as error:
        source.read(item)
    assert str(tmp_path) not in str(error.value)  # the same reason wherever the folder lies


def test_a_folder_without_audio_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no audio")
    with pytest.raises(ValueError, match=r"holds no audio.*\.flac.*folder\.path"):
        FolderSource(tmp_path).items()


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no folder.*folder\.path"):
        FolderSource(tmp_path / "nowhere").items()

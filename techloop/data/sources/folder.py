"""A folder of audio files, with its subfolders, as a source: on disk, in a zip, or a URI."""

import functools
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from upath import UPath

from techloop.audio.io import NO_DECODER, SUFFIXES, read_audio
from techloop.audio.recording import Recording, Unreadable
from techloop.data.source import Item


class FolderSource:
    """The audio files in a folder, recursively, in the order of their names.

    An item's name is the path relative to the folder. Links are followed; each file and folder is
    visited once. Audio that cannot be decoded and folders that cannot be opened are items too, and
    unreadable: nothing is left out in silence.

    Args:
        path: a folder on disk or a URI of fsspec: `s3://bucket/loops`, `zip://::loops.zip`.
        group: files that go to the same split. `file`: each file alone. `folder`: those in the same
            folder, those at the top alone. `author`: those whose tags name the same artist, which
            is known once they are read; others alone.
    """

    name = "folder"

    def __init__(
        self, path: str | Path, group: Literal["author", "folder", "file"] = "author"
    ) -> None:
        self.uri = _absolute(str(path))
        self.group = group

    @functools.cached_property
    def path(self) -> UPath:
        """The folder; an archive stays open."""
        return UPath(self.uri)

    def items(self) -> list[Item]:
        """Every file with the suffix of an audio format, sorted by name.

        Raises:
            ValueError: the folder does not exist, cannot be opened, or holds no audio.
        """
        setting = "`prepare_loops.path` in params.yaml"
        try:
            # The top of an archive has no name; it is enough that the archive can be opened.
            is_folder = self.path.is_dir() if self.path.path else bool(self.path.fs)
            is_file = self.path.is_file()
        except Exception as error:  # each file system raises its own kinds
            raise ValueError(
                f"{self.uri} cannot be opened: {error or type(error).__name__}. See {setting}; a "
                "remote folder may need a package or credentials of its file system."
            ) from error
        if not is_folder:
            what = "is a file, not a folder" if is_file else "is not a folder"
            raise ValueError(
                f"{self.uri} {what}, so nothing can be prepared. Set {setting} to the "
                "folder of your recordings (a relative path starts at the top of the repository; "
                "`zip://::loops.zip` is the content of a zip)."
            )
        items = sorted(self._local() if self._on_disk else self._remote(), key=lambda i: i.name)
        if not items:
            raise ValueError(
                f"{self.uri} holds no audio: no file in it, or in a folder in it, ends in one of "
                f"{', '.join(sorted(SUFFIXES))}. {setting} may name the wrong folder."
            )
        return items

    def read(self, item: Item) -> Recording:
        """The audio of a file.

        Raises:
            Unreadable: the file is gone, no decoder opens it, or its name leads out of the folder.
        """
        if item.name.startswith("/") or ".." in re.split(r"[/\\]", item.name):
            raise Unreadable(f"its name leads out of the folder: {item.name}")
        try:
            return self._read(item.name)
        except Unreadable as error:
            suffix = PurePosixPath(item.name).suffix.lower()
            if suffix in NO_DECODER and str(error).startswith("no decoder"):
                raise Unreadable(f"no decoder for {suffix}; convert it to WAV or FLAC") from error
            raise

    @property
    def _on_disk(self) -> bool:
        return self.path.protocol in {"", "file", "local"}

    @property
    def _top(self) -> str:
        """The part of a file's path before its name."""
        return self.path.path.rstrip("/") + "/" if self.path.path else ""

    def _read(self, name: str) -> Recording:
        if self._on_disk:
            path = Path(self.path.path, name)
            if path.is_dir():
                raise Unreadable(f"the folder {name} cannot be opened: {_why_closed(path)}")
            if path.exists() and not path.is_file():  # opening a pipe would wait forever
                raise Unreadable(f"{name} is not a regular file")
            return read_audio(path)
        with tempfile.TemporaryFile() as copy:
            try:
                with self.path.fs.open(self._top + name) as file:
                    shutil.copyfileobj(file, copy, 2**20)
            except Exception as error:  # each file system raises its own kinds
                raise Unreadable(f"{name} cannot be opened: {error}") from error
            return read_audio(copy)

    def _item(self, name: str, size_bytes: int = 0, version: str = "") -> Item:
        folder = name.rpartition("/")[0]
        group = {"author": "", "folder": folder or name, "file": name}[self.group]
        return Item(name=name, group=group, size_bytes=size_bytes, version=version)

    def _local(self) -> Iterator[Item]:
        """Audio files on disk; each once, however many links lead to it, and whatever circles."""
        top = Path(self.path.path)
        errors: list[OSError] = []
        seen: set[str] = set()
        for folder, folders, files in os.walk(top, followlinks=True, onerror=errors.append):
            folders.sort()
            if (real := os.path.realpath(folder)) in seen:
                folders.clear()
                continue
            seen.add(real)
            for file in sorted(files):
                path = Path(folder, file)
                if _is_audio(file) and (real := os.path.realpath(path)) not in seen:
                    seen.add(real)
                    name = path.relative_to(top).as_posix()
                    try:
                        stat = path.stat()
                    except OSError:  # a link to nowhere, or gone: reading it reports that
                        yield self._item(name)
                    else:
                        version = f"{stat.st_size}-{stat.st_mtime_ns}"
                        yield self._item(name, stat.st_size, version)
        for error in errors:
            if Path(error.filename) == top:
                raise ValueError(f"{top} cannot be opened: {error.strerror}") from error
            yield self._item(Path(error.filename).relative_to(top).as_posix())

    def _remote(self) -> Iterator[Item]:
        """Audio files of another file system."""
        for path, details in self.path.fs.find(self.path.path, detail=True).items():
            if _is_audio(path):
                name = path.removeprefix(self._top)
                yield self._item(name, int(details.get("size") or 0), _version(details))


def _absolute(path: str) -> str:
    """The absolute form of a path or URI: workers may run in other folders."""
    if "://" not in path:
        return os.path.abspath(path)  # noqa: PTH100
    chain, separator, last = path.rpartition("::")
    if separator and "://" not in last:  # `zip://::loops.zip`
        last = os.path.abspath(last)  # noqa: PTH100
    return chain + separator + last


def _is_audio(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES | NO_DECODER


def _why_closed(folder: Path) -> str:
    """Why a folder that is listed as an item cannot be opened."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return str(error.strerror)
    return "it could not be opened before, but can now; run the preparation again"


def _version(details: Mapping[str, object]) -> str:
    """Version of a remote file: a hash of the details of its file system (dates, checksums ...)."""
    plain = sorted((k, str(v)) for k, v in details.items() if not hasattr(v, "__dict__"))
    return hashlib.sha256(str(plain).encode("utf-8", "surrogateescape")).hexdigest()[:16]

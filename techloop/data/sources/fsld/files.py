"""The files of the data set, in its folder or read out of its archive in place."""

import functools
import re
import shutil
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PureWindowsPath
from typing import IO

from upath import UPath

from techloop.data.sources.fsld.published import ANNOTATIONS, ARCHIVE, RECORD, TOP, URL

BLOCK = 1 << 16  # bytes copied at once
WAV = re.compile(r"((?:.*/)?)audio/wav/[^/]+\.wav", re.IGNORECASE)
ANNOTATION = re.compile(r"(?:.*/)?sound-(\d+)\.json")
DAMAGE = (
    OSError,
    EOFError,
    KeyError,  # no such member
    NotImplementedError,  # a kind of compression that zipfile does not know
    RuntimeError,  # encrypted
    zipfile.BadZipFile,
    zlib.error,
)


def leads_out(name: str) -> bool:
    """Whether a path of any operating system leads out of the folder that it is relative to."""
    path = PureWindowsPath(name)  # understands both kinds of slash, and drives
    return bool(path.anchor) or ".." in path.parts


class Folder:
    """The data set unpacked into a folder.

    Args:
        top: the folder that holds `audio/wav`.

    Attributes:
        annotation_places: archives and folders that may hold annotations, the newest first.
    """

    def __init__(self, top: UPath) -> None:
        self.top = top
        around = (top.parent, top)
        self.annotation_places = [
            *(folder / ANNOTATIONS for folder in around),
            *(folder / "annotations" for folder in around),
        ]

    def wavs(self) -> Iterator[tuple[str, int, str]]:
        """Name, size in bytes and version of each WAV."""
        for file in (self.top / "audio" / "wav").iterdir():
            if file.suffix.lower() == ".wav":
                try:
                    stat = file.stat()
                    size, version = stat.st_size, f"{stat.st_size}-{stat.st_mtime}"
                except OSError:  # a link to nowhere: reading it reports that
                    size, version = 0, ""
                yield f"{TOP}/audio/wav/{file.name}", size, version

    def copy(self, name: str, into: IO[bytes]) -> None:
        """Copy a file, named relative to the top, into a stream."""
        with (self.top / name).open("rb") as stream:
            shutil.copyfileobj(stream, into, BLOCK)

    def annotations_inside(self) -> Iterator[tuple[str, bytes | None]]:
        """None: those inside the folder are in `annotation_places`."""
        return iter(())


class Archive:
    """The data set in its archive. Nothing is unpacked, so that a name in it cannot lead anywhere.

    Args:
        file: the archive, which stays open.

    Attributes:
        annotation_places: see `Folder`.

    Raises:
        ValueError: the archive is damaged, or holds something else.
    """

    def __init__(self, file: UPath) -> None:
        stream = file.open("rb")
        weakref.finalize(self, stream.close)
        try:
            self.zip = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(
                f"{file} cannot be read as an archive ({error}); it may be incomplete. Fetch it "
                f"again with `techloop fetch-fsld {file.parent}`, which checks the download."
            ) from None
        self.lock = threading.Lock()
        names = [name for name in self.zip.namelist() if not leads_out(name)]
        tops = {match[1] for name in names if (match := WAV.fullmatch(name))}
        if not tops:
            raise ValueError(f"{file} has no audio/wav/*.wav: it is not the {ARCHIVE} of {RECORD}")
        self.top = min(tops, key=len)
        self.annotation_places = [file.parent / ANNOTATIONS, file.parent / "annotations"]

    def wavs(self) -> Iterator[tuple[str, int, str]]:
        """Name, size in bytes and version of each WAV; names that lead out are left as they are."""
        for member in {info.filename: info for info in self.zip.infolist()}.values():
            name, match = member.filename, WAV.fullmatch(member.filename)
            version = f"{member.CRC:08x}"
            if leads_out(name):
                if name.lower().endswith(".wav"):
                    yield name, member.file_size, version
            elif match and match[1] == self.top:
                yield f"{TOP}/{name[len(self.top) :]}", member.file_size, version

    def copy(self, name: str, into: IO[bytes]) -> None:
        """Copy a member, named relative to the top, into a stream."""
        # Members can be read at the same time, but zipfile miscounts its users where threads open
        # and close them at the same time.
        with self.lock, self.zip.open(self.top + name) as stream:
            shutil.copyfileobj(stream, into, BLOCK)

    def annotations_inside(self) -> Iterator[tuple[str, bytes | None]]:
        """Names and contents of the annotations in the archive; None where one is damaged."""
        return _annotations_in(self.zip)


@functools.lru_cache(maxsize=2)
def open_files(path: str, process: int) -> Folder | Archive:
    """The data set at `path`, opened once per process: an archive lists tens of thousands of files.

    Args:
        path: see `FSLDSource`.
        process: id of this process. A forked one must not share the position in an open file.

    Raises:
        ValueError: it is not there, or damaged.
    """
    place = UPath(path)
    for folder in (place, place / TOP):
        if (folder / "audio" / "wav").is_dir():
            return Folder(folder)
    for file in (place, place / ARCHIVE):
        if file.is_file():
            return Archive(file)
    raise ValueError(
        f"the Freesound Loop Dataset is not at {place}: that is neither a folder with audio/wav in "
        f"it, nor one that holds {TOP} or {ARCHIVE}, nor that archive. Set "
        "`prepare_loops.path` in params.yaml to where it is, or fetch it (8.8 GB, from "
        f"{URL}) with `techloop fetch-fsld {place}`."
    )


def read_annotations(files: Folder | Archive) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents of the annotations; the content is None where one is damaged.

    Annotations beside the data set replace those inside it.

    Raises:
        ValueError: the archive of annotations is damaged.
    """
    for place in files.annotation_places:
        if place.suffix == ".zip" and place.is_file():
            with place.open("rb") as stream:
                try:
                    archive = zipfile.ZipFile(stream)
                except zipfile.BadZipFile as error:
                    raise ValueError(
                        f"{place} cannot be read as an archive ({error}): remove it, and fetch it "
                        f"again with `techloop fetch-fsld {place.parent}`"
                    ) from None
                yield from _annotations_in(archive)
            return
        if place.suffix != ".zip" and place.is_dir():
            for file in place.rglob("sound-*.json"):
                try:
                    yield file.relative_to(place).as_posix(), file.read_bytes()
                except OSError:
                    yield file.relative_to(place).as_posix(), None
            return
    yield from files.annotations_inside()


def _annotations_in(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes | None]]:
    for name in dict.fromkeys(archive.namelist()):
        if ANNOTATION.fullmatch(name):
            try:
                yield name, archive.read(name)
            except DAMAGE:
                yield name, None

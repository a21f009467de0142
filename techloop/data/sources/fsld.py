"""The Freesound Loop Dataset: some 9,500 loops under Creative Commons, about 3,000 judged by ear.

Inside its archive, or in the folder `FSL10K` that it is unpacked into, lie `metadata.json` (by
number of the sound: name, username, licence, the tempo its uploader gave), `audio/wav/` with
`<sound>_<user>.wav.wav`, and analyses that are not used here. What listeners said lies in
`annotations/<listener>/sound-<sound>.json`, there or in `annotations.zip` beside it.

References:
    Ramires et al., The Freesound Loop Dataset and Annotation Tool, ISMIR 2020.
    https://zenodo.org/records/3967852
"""

import functools
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import statistics
import tempfile
import threading
import warnings
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import IO, Any, NamedTuple

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from upath import UPath
from urllib3.util import Retry

from techloop.audio.io import read_audio
from techloop.audio.recording import Recording, Rejection, Unreadable
from techloop.data.source import Item

TOP = "FSL10K"
ARCHIVE = "FSL10K.zip"
ANNOTATIONS = "annotations.zip"
URL = f"https://zenodo.org/records/3967852/files/{ARCHIVE}?download=1"
RECORD = "https://zenodo.org/api/records/3967852"  # sizes and checksums of its files
LICENCES = ("CC0", "CC-BY", "CC-BY-NC", "CC-Sampling-Plus")  # those that Freesound has
SAME_TEMPO = 0.01  # relative difference of two tempi that stand for one
TIMEOUT_S = 60
BLOCK = 1 << 16

WAV = re.compile(r"((?:.*/)?)audio/wav/[^/]+\.wav", re.IGNORECASE)
ANNOTATION = re.compile(r"(?:.*/)?sound-(\d+)\.json")
LICENCE_URL = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/(\d\.\d)")

Judgement = dict[str, Any]  # what one listener said of one sound


class FSLDSource:
    """The loops of the data set, in their folder or read out of the archive in place.

    An item's name is `FSL10K/audio/wav/<file>` either way. Its tempo is the listeners' (see
    `tempo_of`), else the uploader's; its group is its author.

    Args:
        path: the folder `FSL10K`, a folder that holds it or `FSL10K.zip`, or that archive: a local
            path or a URI that fsspec knows.
        licences: what is taken, as `CC0` or `CC-BY` (any version, and nothing but it: no
            `CC-BY-NC`) or `CC-BY-3.0`; empty: all.
        genres: what is taken, as listeners named them (`house / techno`) or one of the names
            between the strokes (`techno`); empty: all, those without a judgement too.
        min_bpm: least annotated tempo, as it is written (78 is not 156). Loops without one stay.
        max_bpm: the highest; None or infinity for any.

    Raises:
        ValueError: a licence that Freesound does not have, or `min_bpm` above `max_bpm`.
    """

    name = "fsld"

    def __init__(
        self,
        path: str,
        *,
        licences: Sequence[str] = (),
        genres: Sequence[str] = (),
        min_bpm: float = 0.0,
        max_bpm: float | None = None,
    ) -> None:
        # Absolute: workers on other machines may run elsewhere.
        self.path = str(UPath(path).absolute())
        self.licences = tuple(licences)
        self.genres = tuple(genres)
        self.min_bpm = min_bpm
        self.max_bpm = math.inf if max_bpm is None else max_bpm
        for licence in self.licences:
            if _family(licence).lower() not in [known.lower() for known in LICENCES]:
                raise ValueError(
                    f"fsld: {licence!r} is no licence of Freesound; it has {', '.join(LICENCES)}, "
                    "each of which may be followed by a version (CC-BY-3.0)"
                )
        if not self.min_bpm <= self.max_bpm:
            raise ValueError(f"fsld: no tempo is from {min_bpm:g} to {max_bpm:g} BPM")

    def items(self) -> list[Item]:
        """Every WAV, sorted by name; those that a filter or a listener drops have a `rejection`.

        A WAV without metadata, and one that nobody judged, is an item of which less is known.

        Raises:
            ValueError: the data set is not there, has no metadata, or none of its genres is one
                that was asked for.
        """
        _opened.cache_clear()  # it may have been replaced since
        tree = _opened(self.path, os.getpid())
        metadata = _metadata(tree)
        judgements = _judgements(tree)
        self._check_genres(judgements)
        items = []
        for name, size_bytes, version in tree.wavs():
            climbs = _climbs(name)  # then it is none of the data set's sounds
            file = "" if climbs else name.rpartition("/")[2]
            sound = "".join(itertools.takewhile(str.isdecimal, file))
            known = metadata.get(sound)
            known = known if isinstance(known, dict) else {}
            said = [j for j in judgements.get(sound, []) if not _yes(j.get("save_for_later"))]
            kept = [j for j in said if not _yes(j.get("discard"))]
            author = str(known.get("username") or "")
            licence = licence_of(str(known.get("license") or ""))
            uploader = known.get("annotations")
            bpm = tempo_of(kept, _bpm(uploader.get("bpm") if isinstance(uploader, dict) else None))
            cuts = [_yes(j["well_cut"]) for j in kept if "well_cut" in j]
            item = Item(
                name=name,
                group=author or name,
                author=author,
                licence=licence,
                url=f"https://freesound.org/s/{sound}/" if sound else "",
                bpm=bpm,
                beats_per_bar=_beats_per_bar(kept),
                exact=all(cuts) if cuts else None,
                size_bytes=size_bytes,
                version=version,
                rejection=None
                if climbs
                else self._rejection(licence, _genres(kept), bpm, said, kept),
            )
            items.append(item)
        return sorted(items, key=lambda item: item.name)

    def read(self, item: Item) -> Recording:
        """The audio of an item.

        Raises:
            Unreadable: the file is gone or damaged, no decoder opens it, or its name leads out of
                the data set.
            ValueError: the data set as a whole is no longer there.
        """
        if _climbs(item.name):
            raise Unreadable(
                f"its name {item.name!r} leads out of the data set, where nothing is read; the "
                "published archive has no such file"
            )
        tree = _opened(self.path, os.getpid())
        with tempfile.TemporaryFile() as copy:
            try:
                tree.copy(item.name.removeprefix(f"{TOP}/"), copy)
            except DAMAGE as error:
                # Without the folder, which differs between machines where the audio does not.
                reason = error.strerror if isinstance(error, OSError) else str(error)
                raise Unreadable(f"{item.name}: {reason or type(error).__name__}") from None
            return read_audio(copy)

    def _check_genres(self, judgements: dict[str, list[Judgement]]) -> None:
        """A misspelt genre would leave out everything, one loop at a time."""
        known = {genre for js in judgements.values() for genre in _genres(js)}
        for wanted in self.genres:
            if not any(_is_genre(genre, wanted) for genre in known):
                raise ValueError(
                    f"fsld: no listener named the genre {wanted!r}; those named are: "
                    f"{', '.join(sorted(known)) or 'none, as there are no annotations'}"
                )

    def _rejection(
        self,
        licence: str,
        genres: set[str],
        bpm: float | None,
        said: list[Judgement],
        kept: list[Judgement],
    ) -> Rejection | None:
        if len(kept) < len(said):
            against = f"{len(said) - len(kept)} of {len(said)}"
            return Rejection("discarded", "a listener says that it is no loop", against, "0")
        if self.licences and not any(_is_licence(licence, wanted) for wanted in self.licences):
            limit = ", ".join(self.licences)
            return Rejection(
                "licence", "not among the licences asked for", licence or "unknown", limit
            )
        if self.genres and not any(_is_genre(g, wanted) for g in genres for wanted in self.genres):
            found = ", ".join(sorted(genres)) or "unknown"
            return Rejection(
                "genre", "not among the genres asked for", found, ", ".join(self.genres)
            )
        if bpm is not None and not self.min_bpm <= bpm <= self.max_bpm:
            limit = f"{self.min_bpm:g} to {self.max_bpm:g}"
            return Rejection(
                "tempo", "its annotated tempo is outside of those asked for", bpm, limit
            )
        return None


def licence_of(url: str) -> str:
    """The SPDX identifier of a Creative Commons licence by its address; other text stays as is.

    SPDX has none for Sampling Plus, which becomes `CC-Sampling-Plus-1.0`.
    """
    found = LICENCE_URL.search(url.lower())
    if not found:
        return url
    code, version = found.groups()
    family = {"zero": "CC0", "sampling+": "CC-Sampling-Plus"}.get(code, f"CC-{code.upper()}")
    return f"{family}-{version}"


def tempo_of(judgements: Sequence[Judgement], uploader: float | None) -> float | None:
    """The tempo that most listeners gave, in beats a minute; where they tie, the uploader decides.

    Without any listener it is the uploader's, read off the sound's name and tags by the makers of
    the data set. None: nobody gave one, or the listeners do not agree and none of them agrees
    with the uploader.
    """
    if not judgements:
        return uploader
    given = []
    for judgement in judgements:
        # Early judgements have no `defined_tempo`, but "none" as their tempo.
        bpm = _bpm(judgement.get("bpm"))
        if bpm is not None and _yes(judgement.get("defined_tempo", True)):
            given.append(bpm)
    if not given:
        return None

    def votes(bpm: float) -> float:
        listeners = sum(math.isclose(bpm, other, rel_tol=SAME_TEMPO) for other in given)
        agrees = uploader is not None and math.isclose(bpm, uploader, rel_tol=SAME_TEMPO)
        return listeners + 0.5 * agrees

    most = max(votes(bpm) for bpm in given)
    winners = sorted(bpm for bpm in given if votes(bpm) == most)
    if not math.isclose(winners[0], winners[-1], rel_tol=SAME_TEMPO):
        return None
    return uploader if uploader in winners else statistics.median_low(winners)


def _bpm(value: object) -> float | None:
    """A tempo out of JSON, where it is a number or typed in by hand."""
    try:
        bpm = float(str(value).strip())
    except ValueError:
        return None
    return bpm if math.isfinite(bpm) and bpm > 0 else None


def _yes(value: object) -> bool:
    return str(value).strip().lower() == "true"


def _beats_per_bar(judgements: Sequence[Judgement]) -> int | None:
    """What most listeners gave as time signature ("3/4"); None where they gave none or tie."""
    beats = Counter(
        int(found[1])
        for judgement in judgements
        if (found := re.fullmatch(r"\s*([1-9]\d?)\s*/\s*\d+\s*", str(judgement.get("signature"))))
    )
    ranking = beats.most_common(2)
    if not ranking or (len(ranking) == 2 and ranking[0][1] == ranking[1][1]):
        return None
    return ranking[0][0]


def _genres(judgements: Sequence[Judgement]) -> set[str]:
    """All that listeners named; each means that the loop would be of use in that genre."""
    lists = [j.get("genres") for j in judgements]
    return {str(genre).lower() for genres in lists if isinstance(genres, list) for genre in genres}


def _is_genre(genre: str, wanted: str) -> bool:
    wanted = wanted.strip().lower()
    return wanted == genre or wanted in [part.strip() for part in genre.split("/")]


def _is_licence(licence: str, wanted: str) -> bool:
    """Whether it is the very one, or a version of it."""
    return wanted.lower() in (licence.lower(), _family(licence).lower())


def _family(licence: str) -> str:
    """It without its version."""
    return re.sub(r"-\d\.\d$", "", licence)


def _climbs(name: str) -> bool:
    """Whether a path leads elsewhere than down, on any system."""
    path = PureWindowsPath(name)  # which knows both kinds of stroke, and drives
    return bool(path.anchor) or ".." in path.parts


# --- where it lies ----------------------------------------------------------------------------

DAMAGE = (
    OSError,
    EOFError,
    KeyError,  # no such member
    NotImplementedError,  # a kind of compression that zipfile does not know
    RuntimeError,  # encrypted
    zipfile.BadZipFile,
    zlib.error,
)


class _Folder:
    """The data set unpacked into a folder.

    Attributes:
        near: where annotations may lie, archives and folders, the most recent first.
    """

    def __init__(self, top: UPath) -> None:
        self.top = top
        around = (top.parent, top)
        self.near = [f / ANNOTATIONS for f in around] + [f / "annotations" for f in around]

    def wavs(self) -> Iterator[tuple[str, int, str]]:
        """Name, bytes and version of each."""
        for file in (self.top / "audio" / "wav").iterdir():
            if file.suffix.lower() == ".wav":
                try:
                    about = file.stat()
                    size, version = about.st_size, f"{about.st_size}-{about.st_mtime}"
                except OSError:  # a link to nowhere: reading it says so
                    size, version = 0, ""
                yield f"{TOP}/audio/wav/{file.name}", size, version

    def copy(self, name: str, into: IO[bytes]) -> None:
        with (self.top / name).open("rb") as stream:
            shutil.copyfileobj(stream, into, BLOCK)

    def annotations(self) -> Iterator[tuple[str, bytes | None]]:
        return iter(())  # they are near


class _Archive:
    """The data set in its archive. Nothing is unpacked, so that no name in it leads anywhere."""

    def __init__(self, file: UPath) -> None:
        stream = file.open("rb")
        weakref.finalize(self, stream.close)
        try:
            self.zip = zipfile.ZipFile(stream)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(
                f"{file} is no archive that can be read ({error}), so it may not be whole. Fetch "
                f"it again with `techloop fetch-fsld {file.parent}`, which checks what it fetched."
            ) from None
        self.lock = threading.Lock()
        tops = {m[1] for n in self.zip.namelist() if not _climbs(n) and (m := WAV.fullmatch(n))}
        if not tops:
            raise ValueError(f"{file} has no audio/wav/*.wav: it is not the {ARCHIVE} of {RECORD}")
        self.top = min(tops, key=len)
        self.near = [file.parent / ANNOTATIONS, file.parent / "annotations"]

    def wavs(self) -> Iterator[tuple[str, int, str]]:
        """Name, bytes and version of each; a name that leads out of it stays as it is."""
        for member in {info.filename: info for info in self.zip.infolist()}.values():
            name = member.filename
            inside = WAV.fullmatch(name)
            if _climbs(name):
                named = name if name.lower().endswith(".wav") else ""
            else:
                named = f"{TOP}/{name[len(self.top) :]}" if inside and inside[1] == self.top else ""
            if named:
                yield named, member.file_size, f"{member.CRC:08x}"

    def copy(self, name: str, into: IO[bytes]) -> None:
        # Each member's stream has its own place in the file, but opening and closing them at the
        # same time miscounts how many there are.
        with self.lock, self.zip.open(self.top + name) as stream:
            shutil.copyfileobj(stream, into, BLOCK)

    def annotations(self) -> Iterator[tuple[str, bytes | None]]:
        return _zipped(self.zip)


@functools.lru_cache(maxsize=2)
def _opened(path: str, process: int) -> _Folder | _Archive:
    """The data set at `path`; once a process, as an archive lists tens of thousands of files.

    Args:
        path: as `FSLDSource` has it.
        process: number of this one. One that was forked off would share the place of the other in
            an open file.
    """
    place = UPath(path)
    for folder in (place, place / TOP):
        if (folder / "audio" / "wav").is_dir():
            return _Folder(folder)
    for file in (place, place / ARCHIVE):
        if file.is_file():
            return _Archive(file)
    raise ValueError(
        f"the Freesound Loop Dataset is not at {place}: that is neither a folder with audio/wav in "
        f"it, nor one that holds {TOP} or {ARCHIVE}, nor that archive. Set "
        "`prepare_loops.path` in params.yaml to where it is, or fetch it (8.8 GB, from "
        f"{URL}) with `techloop fetch-fsld {place}`."
    )


def _metadata(tree: _Folder | _Archive) -> dict[str, Any]:
    """What the data set says of its sounds, by number."""
    try:
        with tempfile.TemporaryFile() as copy:
            tree.copy("metadata.json", copy)
            copy.seek(0)
            metadata = json.load(copy)
    except (*DAMAGE, ValueError) as error:
        raise ValueError(
            f"the metadata.json of the Freesound Loop Dataset cannot be read ({error}). Without it "
            "no loop has a licence or an author, so none is used. It lies beside audio/ in "
            f"{ARCHIVE}; `techloop fetch-fsld` fetches that."
        ) from None
    if not isinstance(metadata, dict):
        raise ValueError(
            "the metadata.json of the Freesound Loop Dataset is a "
            f"{type(metadata).__name__}; the published one is an object with a key a sound"
        )
    return metadata


def _judgements(tree: _Folder | _Archive) -> dict[str, list[Judgement]]:
    """What listeners said, by number of the sound; files that cannot be read count as absent."""
    judgements: dict[str, list[Judgement]] = {}
    damaged = []
    for name, content in sorted(_annotations(tree), key=lambda found: found[0]):
        try:
            judgement = json.loads(content) if content is not None else None
        except (ValueError, RecursionError):
            judgement = None
        if not isinstance(judgement, dict):
            damaged.append(name)
        elif sound := ANNOTATION.fullmatch(name):
            judgements.setdefault(sound[1], []).append(judgement)
    if damaged:
        warnings.warn(
            f"fsld: {len(damaged)} annotations cannot be read and count as absent, the first of "
            f"them {damaged[0]}",
            stacklevel=2,
        )
    if not judgements:
        warnings.warn(
            f"fsld: no annotations were found, so that tempi are those of the uploaders, and metre "
            f"and cut are unknown; {ANNOTATIONS} belongs beside the data set",
            stacklevel=2,
        )
    return judgements


def _annotations(tree: _Folder | _Archive) -> Iterator[tuple[str, bytes | None]]:
    """Names and contents of the annotations; those that lie near come instead of those inside."""
    for place in tree.near:
        if place.suffix == ".zip" and place.is_file():
            with place.open("rb") as stream:
                try:
                    archive = zipfile.ZipFile(stream)
                except zipfile.BadZipFile as error:
                    raise ValueError(
                        f"{place} is no archive that can be read ({error}): remove it, and fetch "
                        f"it again with `techloop fetch-fsld {place.parent}`"
                    ) from None
                yield from _zipped(archive)
            return
        if place.suffix != ".zip" and place.is_dir():
            for file in place.rglob("sound-*.json"):
                try:
                    yield file.relative_to(place).as_posix(), file.read_bytes()
                except OSError:
                    yield file.relative_to(place).as_posix(), None
            return
    yield from tree.annotations()


def _zipped(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes | None]]:
    for name in dict.fromkeys(archive.namelist()):
        if ANNOTATION.fullmatch(name):
            try:
                yield name, archive.read(name)
            except DAMAGE:
                yield name, None


# --- where it comes from ----------------------------------------------------------------------


class _Listed(NamedTuple):
    """A file as the record of the data set lists it."""

    url: str
    size_bytes: int
    md5: str


def download_fsld(
    folder: str | Path, *, url: str = URL, size: int | None = None, md5: str | None = None
) -> Path:
    """Fetch `FSL10K.zip`, and `annotations.zip` where the record has it, into a folder.

    What was fetched before an interruption stays in a `.part`, from the end of which the next call
    goes on. A file gets its name once its checksum is right; one that is there is checked and not
    fetched again. A `.part` that is whole and wrong is removed.

    Args:
        folder: where to, made where it is missing.
        url: where from, such as a mirror.
        size: bytes of the archive; None: as the record or else the server says.
        md5: its checksum, as 32 hexadecimal digits. None: as the record says, which is asked for
            it. Where it is given nothing but `url` is asked, and there are no annotations.

    Returns:
        The archive.

    Raises:
        ValueError: a file, one that was there or one that was fetched, is not the published one.
        OSError: no network, the server refuses, or too little space on the disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with requests.Session() as session:
        # A busy server is asked again, later and later; a missing one is not.
        again = Retry(
            total=None,
            connect=0,
            read=0,
            status=5,
            backoff_factor=1,
            status_forcelist=(429, 502, 503, 504),
            raise_on_status=False,
        )
        session.mount("https://", HTTPAdapter(max_retries=again))
        session.mount("http://", HTTPAdapter(max_retries=again))
        if md5 is None:
            listed = _listed(session)
            if annotations := listed.get(ANNOTATIONS):
                _fetch(session, folder / ANNOTATIONS, *annotations)
            size, md5 = size or listed[ARCHIVE].size_bytes, listed[ARCHIVE].md5
        return _fetch(session, folder / ARCHIVE, url, size, md5)


def _listed(session: requests.Session) -> dict[str, _Listed]:
    """The files of the record, by name."""
    try:
        response = session.get(RECORD, timeout=TIMEOUT_S)
        response.raise_for_status()
    except requests.RequestException as error:
        raise _unreachable(RECORD, error) from None
    try:
        listed = {
            file["key"]: _Listed(
                str(file["links"]["self"]),
                int(file["size"]),
                str(file["checksum"]).removeprefix("md5:"),
            )
            for file in response.json()["files"]
        }
        listed[ARCHIVE]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{RECORD} does not list {ARCHIVE} with size and checksum as it used to ({error!r}). "
            "Its page has the checksum: pass that as md5, and nothing is asked."
        ) from None
    return listed


def _fetch(session: requests.Session, file: Path, url: str, size: int | None, md5: str) -> Path:
    """`file`, there with the right checksum, from `url` where it was not."""
    if file.exists():
        if (found := _md5(file)) != md5.lower():
            raise ValueError(
                f"{file} is there, but is not the published file: its MD5 is {found}, it should be "
                f"{md5}. Move it away to fetch that one."
            )
        return file
    part = file.with_name(f"{file.name}.part")
    while True:
        before = _size(part)
        if size is not None and before == size:
            break
        try:
            whole = _go_on(session, part, url, size)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            # Cut off, as happens in hours of fetching: at once again, as long as it leads further.
            if _size(part) <= before:
                raise _unreachable(url, error, part) from None
            continue
        except requests.RequestException as error:
            raise _unreachable(url, error, part) from None
        if whole:
            break
        if _size(part) <= before:
            raise _unreachable(url, ConnectionError("the connection was closed early"), part)
    if (found := _md5(part)) != md5.lower():
        part.unlink()
        raise ValueError(
            f"what {url} gave for {file} is not the published file: its MD5 is {found}, it should "
            f"be {md5}. It was removed; run this again to fetch it from the beginning."
        )
    part.replace(file)
    return file


def _go_on(session: requests.Session, part: Path, url: str, size: int | None) -> bool:
    """Append what is missing, by one request; whether the file is whole then.

    A server that cannot begin in the middle makes it begin anew.
    """
    start = _size(part) if size is None or _size(part) <= size else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:
            return True  # nothing is missing, or it is another file: the checksum tells
        response.raise_for_status()
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else size
        if size is not None and total != size:
            raise ValueError(
                f"{url} is not the published file: it has {total} bytes, the file {size}"
            )
        free = shutil.disk_usage(part.parent).free
        if total is not None and free < total - start:
            raise OSError(
                f"{part.parent} has {free / 1e9:.1f} GB free, {part.stem} needs "
                f"{(total - start) / 1e9:.1f} GB more. Make room, or name another folder."
            )
        with (
            part.open("ab" if start else "wb") as stream,
            tqdm(
                desc=part.stem,
                total=total,
                initial=start,
                unit="B",
                unit_scale=True,
                disable=None,
            ) as bar,
        ):
            for block in response.iter_content(BLOCK):
                stream.write(block)
                bar.update(len(block))
    return total is None or _size(part) == total


def _unreachable(url: str, error: Exception, part: Path | None = None) -> ConnectionError:
    kept = ""
    if part is not None and _size(part):
        kept = f" The {_size(part)} bytes in {part} are kept, and the next run goes on after them."
    return ConnectionError(
        f"{url} cannot be fetched: {error}.{kept} Without a way to the internet (behind a proxy, "
        "set HTTPS_PROXY), fetch it elsewhere and set `prepare_loops.path` in params.yaml to "
        "where you put it; if the server is busy, run this again later."
    )


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with (
        file.open("rb") as stream,
        tqdm(
            desc=f"check {file.name}", total=_size(file), unit="B", unit_scale=True, disable=None
        ) as bar,
    ):
        while block := stream.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()

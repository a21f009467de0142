"""Download of the data set: resumable, and checked against the published checksums."""

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from techloop.data.sources.fsld.published import ANNOTATIONS, ARCHIVE, RECORD, URL

TIMEOUT_S = 60
BLOCK = 1 << 16  # bytes received at once


class _File(NamedTuple):
    """A file that the record of the data set lists."""

    url: str
    size_bytes: int
    md5: str


def download_fsld(
    folder: str | Path, *, url: str = URL, size: int | None = None, md5: str | None = None
) -> Path:
    """Download `FSL10K.zip`, and `annotations.zip` where the record lists it, into a folder.

    An interrupted download stays in a `.part` file, and the next call resumes it. A file gets its
    name once its checksum is right. An existing file is checked, not downloaded again. A complete
    `.part` file with a wrong checksum is deleted.

    Args:
        folder: where the files go; created where it is missing.
        url: of the archive, such as a mirror's.
        size: bytes of the archive; None: as in the record or the server's answer.
        md5: its checksum, 32 hexadecimal digits. None: as in the record, which is requested. Where
            it is given, only `url` is requested, and no annotations are downloaded.

    Returns:
        The archive.

    Raises:
        ValueError: a file, existing or downloaded, is not the published one.
        OSError: no network, the server refuses, or too little space on the disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with requests.Session() as session:
        # A busy server is asked again, with growing pauses; a missing one is not.
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


def _listed(session: requests.Session) -> dict[str, _File]:
    """The files of the record, by name."""
    try:
        response = session.get(RECORD, timeout=TIMEOUT_S)
        response.raise_for_status()
    except requests.RequestException as error:
        raise _unreachable(RECORD, error) from None
    try:
        listed = {
            file["key"]: _File(
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
    """`file` with the right checksum, downloaded where it is missing."""
    if file.exists():
        if (actual := _md5(file)) != md5.lower():
            raise ValueError(
                f"{file} is there, but is not the published file: its MD5 is {actual}, it should "
                f"be {md5}. Move it away to fetch that one."
            )
        return file
    part = file.with_name(f"{file.name}.part")
    while True:
        before = _size(part)
        if size is not None and before == size:
            break
        try:
            whole = _resume(session, part, url, size)
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            # A long download is often cut off: try again, as long as each try adds bytes.
            if _size(part) <= before:
                raise _unreachable(url, error, part) from None
            continue
        except requests.RequestException as error:
            raise _unreachable(url, error, part) from None
        if whole:
            break
        if _size(part) <= before:
            raise _unreachable(url, ConnectionError("the connection was closed early"), part)
    if (actual := _md5(part)) != md5.lower():
        part.unlink()
        raise ValueError(
            f"the download of {file} from {url} is not the published file: its MD5 is {actual}, "
            f"it should be {md5}. It was removed; run this again to download it from the beginning."
        )
    part.replace(file)
    return file


def _resume(session: requests.Session, part: Path, url: str, size: int | None) -> bool:
    """Append the missing bytes by one request; True if the file is complete then.

    Where the server cannot start in the middle, the download starts from the beginning.
    """
    start = _size(part) if size is None or _size(part) <= size else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:
            return True  # nothing is missing, or it is another file: the checksum decides
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
    rest = ""
    if part is not None and _size(part):
        rest = f" The {_size(part)} bytes in {part} are kept; the next run resumes after them."
    return ConnectionError(
        f"{url} cannot be fetched: {error}.{rest} Without internet access (behind a proxy, set "
        "HTTPS_PROXY), fetch it elsewhere and set `prepare_loops.path` in params.yaml to "
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

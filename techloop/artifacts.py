"""Files and folders that appear complete or not at all; JSON; fingerprints."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from upath import UPath


@contextmanager
def atomic_folder(path: str | Path | UPath) -> Iterator[Path]:
    """A new folder that replaces `path` only when the block ends without an error.

    Until then the old folder stays. The new one is made beside it, so that the rename is a single
    step of the file system; after an error it is removed. Where `path` is a URI, the file system
    may have to copy each file instead; then `card.json` goes last, and a folder without one is not
    taken for an artifact.

    Raises:
        ValueError: `path` is a file.
        OSError: it cannot be written; the error names `path`.
    """
    path = UPath(path)
    if path.is_file():
        raise ValueError(f"{path} is a file, so no folder can be made there. Move it away.")
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.with_name(f".{path.name}-old")
    for leftover in path.parent.glob(f".{path.name}-new-*"):  # of a process that was killed
        remove(leftover)
    if old.exists() and not path.exists():
        old.rename(path)
    new = path.with_name(f".{path.name}-new-{uuid.uuid4().hex[:8]}")
    new.mkdir()
    try:
        yield cast(Path, new)  # a UPath, which has a Path's methods
        if isinstance(path, Path):
            remove(old)
            if path.exists():
                path.rename(old)
            try:
                new.rename(path)
            except OSError:
                if old.exists():
                    old.rename(path)
                raise
            remove(old)
        else:
            remove(path)
            path.mkdir()
            for file in sorted(new.rglob("*"), key=lambda file: file.name == "card.json"):
                if file.is_file():
                    target = path / file.relative_to(new)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.fs.mv(file.path, target.path)
            remove(new)
    except BaseException as error:
        remove(new)
        _add_path(error, path)
        raise


def remove(folder: Path | UPath) -> None:
    """Delete a folder with everything in it, if it exists."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.fs.rm(folder.path, recursive=True)


@contextmanager
def atomic_file(path: str | Path | UPath) -> Iterator[Path]:
    """A new file that replaces `path` only when the block ends without an error.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    path = UPath(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        yield cast(Path, new)
        if isinstance(path, Path):
            new.replace(path)
        else:
            path.fs.mv(new.path, path.path)
    except BaseException as error:
        new.unlink(missing_ok=True)
        _add_path(error, path)
        raise


def _add_path(error: BaseException, path: Path | UPath) -> None:
    """Add the path to the error of a failed write (a full disk), which often has none."""
    if isinstance(error, OSError) and error.errno and error.filename is None:
        error.filename = str(path)


def atomic_write(path: str | Path | UPath, content: str | bytes) -> None:
    """Write a file beside `path`, then rename it to `path`."""
    with atomic_file(path) as new:
        new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: str | Path | UPath, value: object) -> None:
    """Write a JSON file: keys in their order, indented, NaN and infinities as null."""
    atomic_write(path, json.dumps(_json_value(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path | UPath) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is not there or damaged; the message says what to do.
    """
    path = UPath(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not there, so {path.parent} is not a complete artifact of techloop. "
            "`dvc repro` makes it, `dvc pull dvc.yaml` or `dvc checkout dvc.yaml` fetches it."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete {path.parent} and run `dvc checkout dvc.yaml` or "
            "`dvc repro`."
        ) from None


def fingerprint(source: str | Path | UPath | Mapping[str, Path]) -> str:
    """SHA-256 over the names and contents of files; 16 hexadecimal digits.

    Args:
        source: a folder, which stands for all files in it, or files by name.
    """
    files: Mapping[str, Path | UPath]
    if isinstance(source, Mapping):
        files = source
    else:
        folder = UPath(source)
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    total = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()[:16]


def _json_value(value: object) -> object:
    """A value as JSON can hold it: NumPy numbers as plain ones, NaN and infinities as None."""
    if isinstance(value, dict):
        return {str(k): _json_value(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value

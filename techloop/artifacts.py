"""Self-describing folders: written whole, then renamed into place; fingerprinted."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A new folder that takes the place of `path` only when the block ends without an error.

    What stood at `path` stays until then. The new folder is made beside it, so that the rename
    is one step of the file system; after an error nothing of it is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.with_name(f".{path.name}-old")
    for left in path.parent.glob(f".{path.name}-new-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    if old.exists() and not path.exists():
        old.rename(path)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}-new-", dir=path.parent))
    new.chmod(0o755)
    try:
        yield new
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A new file that takes the place of `path` only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    try:
        yield new
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file beside its place, then rename it there."""
    with whole_file(path) as new:
        new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON whole: keys as given, two spaces, NaN as null, a closing newline."""
    write_whole(path, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is not there or damaged, with the way out.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not there, so {path.parent} is no complete artifact of techloop. "
            "`dvc repro` makes it, `dvc pull` or `dvc checkout` fetches it."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete {path.parent} and run `dvc checkout` or "
            "`dvc repro`."
        ) from None


def fingerprint(source: str | Path | Mapping[str, Path]) -> str:
    """SHA-256 over the names and contents of a folder's files, or of these; 16 hex digits."""
    if isinstance(source, str | Path):
        folder = Path(source)
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    else:
        files = dict(source)
    total = hashlib.sha256()
    for name in sorted(files):
        with files[name].open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()[:16]


def _finite(value: object) -> object:
    """The same with NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value

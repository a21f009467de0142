"""What a number may depend on: commit, inputs, library versions, machine; and what it cost."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil
from filelock import FileLock

import techloop
from techloop.artifacts import atomic_write, fingerprint, read_json

LIBRARIES = ("torch", "numpy", "scipy", "pandas", "lightning-fabric", "dvc")
CHECKOUT = Path("mlruns/checkout")  # at the repository's top: a random id of this checkout
MAX_FLAGS_CHARS = 6000


def git_state(root: Path) -> tuple[str, bool]:
    """The commit checked out at `root`, and whether files differ from it.

    A changed `dvc.lock` does not count: `dvc repro` changes it between stages. Without git, outside
    a repository or before its first commit: ("unknown", False).
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        commit = git("rev-parse", "--verify", "HEAD")
        return commit, bool(git("status", "--porcelain", "--", ".", ":(exclude,glob)**/dvc.lock"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def checkout_id(root: Path) -> str:
    """A random id of this checkout, as another machine may have one at the same path."""
    file = root / CHECKOUT
    with FileLock(root / f"{CHECKOUT}.lock"):
        if not file.exists():
            atomic_write(file, uuid.uuid4().hex)
        return file.read_text()


def input_fingerprints(root: Path, inputs: Sequence[str | Path]) -> dict[str, str]:
    """Inputs by name (see `shown_path`), each with the fingerprint of its content.

    Raises:
        ValueError: an input is missing.
    """
    return {shown_path(root, path): _input_fingerprint(Path(path)) for path in inputs}


def _input_fingerprint(path: Path) -> str:
    if not path.exists():
        raise ValueError(
            f"{path} is missing. `dvc repro` makes it, `dvc pull dvc.yaml` fetches it."
        )
    card = path / "card.json"  # reading it is cheaper than hashing gigabytes
    if card.is_file() and (noted := read_json(card).get("fingerprint")):
        return str(noted)
    return fingerprint(path)


def shown_path(root: Path, path: str | Path) -> str:
    """A path as it may be shown to others: from the repository's top, else its last part."""
    path = Path(path).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def digest(value: object) -> str:
    """SHA-256 of a value's JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python, techloop and the libraries that numbers depend on."""
    return {
        "python": platform.python_version(),
        "techloop": techloop.__version__,
        **{library: _version(library) for library in LIBRARIES},
    }


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def machine() -> dict[str, str]:
    """What a number may depend on besides code and data: device, system, processor, threads."""
    device, threads = f"cpu: {os.cpu_count()} cores", os.environ.get("OMP_NUM_THREADS", "")
    if torch := sys.modules.get("torch"):
        threads = str(torch.get_num_threads())
        if torch.cuda.is_available():
            device = f"cuda: {torch.cuda.get_device_name()}"
    cpu: dict[str, str] = {}
    with contextlib.suppress(OSError):  # only Linux has the file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        cpu = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return {
        "device": device,
        "threads": threads or str(os.cpu_count()),
        "platform": platform.platform(),
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu.flags": (cpu.get("flags") or cpu.get("Features") or "unknown")[:MAX_FLAGS_CHARS],
    }


def process_start(pid: int) -> float:
    """When a process of this machine started, in seconds since 1970; 0 if there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


class PeakMemory:
    """Peak of the resident memory of this process and its children together.

    Polled twice per second: the system keeps a peak per process, but none of their sum.
    """

    def __enter__(self) -> "PeakMemory":
        self._bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def megabytes(self) -> float:
        """The peak until now, in MB."""
        unit = 1 if sys.platform == "darwin" else 1024
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return max(own, self._bytes) / 1e6

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(0.5):
            total = 0
            for process in (this, *this.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it may just have ended
                    total += process.memory_info().rss
            self._bytes = max(self._bytes, total)

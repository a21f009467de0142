"""What may be wrong with a machine or a checkout, and the remedy: `techloop doctor`."""

# Other packages are imported inside the checks: what they report may be that one is missing.
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from techloop.tracking.address import OUTBOX, shown_address, tracking_address

PYTHON = ((3, 11), (3, 14))
DISK_GB = 2.0  # what `make demo` writes, rounded up
MEMORY_GB = 4.0  # what its largest stage holds, rounded up
TIMEOUT_S = 5
STALE_DAYS = 7
VARIABLES = {"DEVICES", "IMAGE", "IMAGES", "PRECISION", "QUICK", "STATUS", "STRATEGY", "WORKERS"}
# As `uv pip compile` writes them; a pin whose condition this machine does not meet does not count.
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\]+))?", re.MULTILINE)
TOP = "run this at the top of a checkout"
INSTALL = "`touch requirements.lock && make .venv/installed`, then `source .venv/bin/activate`"
SQLITE_HEADER = b"SQLite format 3\0"


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        about: what was checked.
        level: ok, note or problem.
        message: how it is.
        remedy: what to do about it; empty if it is ok.
    """

    about: str
    level: str
    message: str
    remedy: str = ""


def run_checks(root: Path) -> list[Finding]:
    """All checks, in the order in which one would set things right.

    Args:
        root: top of the repository; nothing there is changed.
    """
    checks: tuple[Callable[[Path], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _environment,
        _devices,
        _space,
        _mlflow,
        _outbox,
        _dvc,
        _data,
        _checkpoints,
    )
    findings = []
    for check in checks:
        try:
            for finding in check(root):
                findings.append(finding)  # those before an error count
        except Exception as error:  # one broken part must not hide the others
            about = check.__name__.strip("_")
            message = f"the check itself failed: {type(error).__name__}: {error}"
            remedy = INSTALL if isinstance(error, ImportError) else ""
            findings.append(Finding(about, "problem", message, remedy))
    return findings


def _python(_: Path) -> Iterator[Finding]:
    version = platform.python_version()
    low, high = PYTHON
    if low <= sys.version_info[:2] < high:
        yield Finding("python", "ok", f"{version} on {platform.platform()}")
    else:
        wanted = f"{low[0]}.{low[1]} or newer, older than {high[0]}.{high[1]}"
        remedy = "`touch requirements.lock && make PYTHON=python3.12 .venv/installed`"
        yield Finding("python", "problem", f"{version}; techloop needs {wanted}", remedy)


def _packages(root: Path) -> Iterator[Finding]:
    from packaging.markers import Marker

    lock = root / "requirements.lock"
    if not lock.is_file():
        yield Finding("packages", "note", "no requirements.lock here to compare with", TOP)
        return
    pins = [
        (name, version)
        for name, version, condition in PIN.findall(lock.read_text(encoding="utf-8"))
        if not condition or Marker(condition).evaluate()
    ]
    other = [
        f"{name} {installed or 'missing'} instead of {version}"
        for name, version in pins
        if (installed := _installed(name).partition("+")[0]) != version
    ]
    if other:
        message = f"{len(other)} of {len(pins)} differ from what is tested: {', '.join(other[:5])}"
        message += ", ..." if len(other) > 5 else ""
        yield Finding("packages", "problem", message, INSTALL)
    else:
        yield Finding("packages", "ok", f"{len(pins)}, all as tested")


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _environment(_: Path) -> Iterator[Finding]:
    for name in sorted(os.environ):
        if name.startswith("TECHLOOP_") and name.removeprefix("TECHLOOP_") not in VARIABLES:
            names = ", ".join(sorted(VARIABLES))
            message = f"techloop does not read {name}, only TECHLOOP_ with one of {names}"
            yield Finding("environment", "problem", message, f"`unset {name}`")
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        place = urlsplit(address)
        try:
            socket.create_connection((place.hostname, place.port or 8786), TIMEOUT_S).close()
        except OSError as error:
            message = f"no Dask scheduler at {address} ({type(error).__name__})"
            remedy = "`dask scheduler` there, or `unset DASK_SCHEDULER_ADDRESS` to prepare here"
            yield Finding("dask", "problem", message, remedy)
        else:
            yield Finding("dask", "ok", f"the scheduler at {address} answers")


def _devices(_: Path) -> Iterator[Finding]:
    import torch

    from techloop.training.distributed import precision_from_environment

    trained = f"trained in {precision_from_environment()}"
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GB)" for gpu in gpus)
        yield Finding("devices", "ok", f"{names}; {trained}")
        return
    cores, threads = os.cpu_count(), torch.get_num_threads()
    yield Finding("devices", "ok", f"no GPU; {cores} cores, torch uses {threads}; {trained}")
    if shutil.which("nvidia-smi"):
        message = f"NVIDIA's driver is installed, but torch {torch.__version__} finds no usable GPU"
        remedy = "`nvidia-smi` lists the GPUs and the driver; update an old driver"
        yield Finding("devices", "problem", message, remedy)


def _space(root: Path) -> Iterator[Finding]:
    free_gb = shutil.disk_usage(root).free / 1e9
    message = f"{free_gb:.1f} GB free here; the demo takes {DISK_GB:g}"
    if free_gb < DISK_GB:
        remedy = "`dvc gc --workspace` drops from DVC's cache all but the outputs of this checkout"
        yield Finding("disk", "problem", message, remedy)
    else:
        yield Finding("disk", "ok", message)

    import psutil

    free_gb = psutil.virtual_memory().available / 1e9
    message = f"{free_gb:.1f} GB available; the demo takes {MEMORY_GB:g}"
    if free_gb < MEMORY_GB:
        remedy = "`export TECHLOOP_WORKERS=1` for fewer processes of preparation"
        yield Finding("memory", "note", message, remedy)
    else:
        yield Finding("memory", "ok", message)


def _mlflow(root: Path) -> Iterator[Finding]:
    try:
        address = tracking_address(root)
    except ValueError as error:
        yield Finding("mlflow", "problem", str(error), "`unset MLFLOW_TRACKING_URI`, or correct it")
        return
    if address.startswith("http"):
        yield _server(address)
    elif address.startswith("sqlite:///"):
        yield _database(Path(address.removeprefix("sqlite:///")))
    else:
        yield Finding("mlflow", "ok", f"{shown_address(address)}, not checked from here")


def _server(address: str) -> Finding:
    import requests

    name, password = (os.environ.get(f"MLFLOW_TRACKING_{k}", "") for k in ("USERNAME", "PASSWORD"))
    login = (name, password) if name else None
    try:
        answer = requests.get(f"{address.rstrip('/')}/health", auth=login, timeout=TIMEOUT_S)
        answer.raise_for_status()
    except requests.HTTPError:
        message = f"{shown_address(address)} answers with {answer.status_code}"
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, if it asks for a login"
        return Finding("mlflow", "problem", message, remedy)
    except requests.RequestException as error:
        message = f"{shown_address(address)} does not answer ({type(error).__name__})"
        remedy = (
            "start the server; stages run without it meanwhile. `unset MLFLOW_TRACKING_URI` keeps "
            "runs here"
        )
        return Finding("mlflow", "problem", message, remedy)
    return Finding("mlflow", "ok", f"{shown_address(address)} answers")


def _database(file: Path) -> Finding:
    """The database's file. Whether its version fits, MLflow says when a stage opens it."""
    if not file.is_file():
        return Finding("mlflow", "ok", f"{file.name}, which the first stage creates")
    with file.open("rb") as stream:
        if stream.read(len(SQLITE_HEADER)) != SQLITE_HEADER:
            remedy = f"`mv {file} {file}.old`: the next stage creates a new one"
            return Finding("mlflow", "problem", f"{file.name} is not a database", remedy)
    return Finding("mlflow", "ok", f"{file.name}, {_size(file.stat().st_size)}")


def _outbox(root: Path) -> Iterator[Finding]:
    files = sorted((root / OUTBOX).glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in files.copy():
        try:
            _json(file)
        except ValueError as error:
            files.remove(file)
            message = f"{file} is damaged ({error})"
            yield Finding("outbox", "problem", message, f"`rm {file}`")
    if files:
        message = f"runs queued for the tracking server: {len(files)}, since {_when(files[0])}"
        remedy = "the next stage sends them; `python -m techloop.tracking.outbox` sends them now"
        yield Finding("outbox", "note", message, remedy)


def _when(file: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))


def _dvc(root: Path) -> Iterator[Finding]:
    if not (root / ".dvc").is_dir():
        yield Finding("dvc", "note", f"{root} is not a DVC repository", TOP)
        return
    if not _run(root, "git", "rev-parse", "--git-dir"):
        message = "this folder is not in a git repository, so DVC refuses to work"
        yield Finding("dvc", "problem", message, "`git init`")
        return
    answer = _run(root, sys.executable, "-m", "dvc", "cache", "dir")
    if not answer:
        remedy = "`dvc doctor` names the mistake"
        yield Finding("dvc", "problem", "DVC cannot read its settings in .dvc", remedy)
        return
    cache = root / answer
    message = f"cache of {_size(_bytes(_files(cache)))}; `dvc doctor` says how outputs are linked"
    yield Finding("dvc", "ok", message)


def _run(root: Path, *command: str) -> str:
    """What a command prints in a folder; nothing if it fails."""
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return "" if ran.returncode else ran.stdout.strip()


def _data(root: Path) -> Iterator[Finding]:
    data = root / "data"
    if not (data / "loops").is_dir():
        yield Finding("data", "note", "no data/loops yet", "`dvc pull dvc.yaml`, or `dvc repro`")
    for kind, summary in OUTPUTS.items():
        for path in sorted(data.glob(kind if kind == "loops" else f"{kind}/[!.]*/")):
            name = path.relative_to(root).as_posix()
            try:
                message = summary(path)
                stale = kind == "latents" and _of_other_loops(path, data / "loops")
            except (ValueError, LookupError) as error:
                if other := _other_format(path):
                    message = f"a model of format {other}, which this version does not read"
                    yield Finding(name, "problem", message, "`dvc repro` trains it anew")
                    continue
                remedy = f"`dvc checkout --force {name}`; `dvc repro` makes what its cache lacks"
                yield Finding(name, "problem", f"damaged: {error}", remedy)
                continue
            if stale:
                remedy = f"`dvc repro extract_latents@{path.name}`"
                yield Finding(name, "problem", "made from other loops than data/loops", remedy)
            else:
                yield Finding(name, "ok", f"{message}, {_size(_bytes(_files(path)))}")


def _loops(path: Path) -> str:
    from techloop.data.datasets import LoopDataset

    loops = LoopDataset(path)
    loops.audio([len(loops) - 1])  # opens every shard
    return ", ".join(f"{n} {split}" for split, n in loops.card["splits"].items())


def _audio_vae(path: Path) -> str:
    from techloop.models.audio_vae import AudioVAE

    return f"{AudioVAE.load(path).sizes['latent_dim']} numbers per frame"


def _latents(path: Path) -> str:
    from techloop.data.datasets import LatentDataset

    latents = LatentDataset(path)
    latents[len(latents) - 1]  # opens every shard
    return f"{len(latents)} loops"


def _instrument(path: Path) -> str:
    from techloop.instrument import Instrument

    dimensions, length = Instrument.load(path).point_shape
    return f"{length} points of {dimensions} numbers per loop"


OUTPUTS = {
    "loops": _loops,
    "audio_vae": _audio_vae,
    "decoder": _audio_vae,
    "latents": _latents,
    "latent_vae": _instrument,
    "instrument": _instrument,
}


def _other_format(folder: Path) -> str:
    """The format of a model in a folder if this version reads another one; else nothing."""
    from techloop.models.base import FORMAT

    for file in sorted(folder.rglob("config.json")):
        try:
            number = _json(file)["format"]
        except (ValueError, LookupError, TypeError):
            continue  # damaged
        if number != FORMAT:
            return str(number)
    return ""


def _of_other_loops(latents: Path, loops: Path) -> bool:
    if not (loops / "card.json").is_file():
        return False  # latents need none
    made_of = _json(latents / "card.json")["loops_fingerprint"]
    return bool(made_of != _json(loops / "card.json")["fingerprint"])


def _checkpoints(root: Path) -> Iterator[Finding]:
    files = sorted(_files(root / "checkpoints"), key=lambda file: file.stat().st_mtime)
    if not files:
        return
    message = (
        f"{_size(_bytes(files))} of interrupted or finished work, the oldest of {_when(files[0])}"
    )
    if time.time() - files[0].stat().st_mtime > STALE_DAYS * 86_400:
        remedy = "`dvc repro` resumes what still fits; `rm -r checkpoints` drops all of it"
        yield Finding("checkpoints", "note", message, remedy)
    else:
        yield Finding("checkpoints", "ok", message)


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size > 0.95e9 else f"{size / 1e6:.1f} MB"

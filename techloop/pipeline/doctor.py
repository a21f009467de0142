"""What may be wrong with a machine or a checkout, and what to do about it: `techloop doctor`."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

from techloop.artifacts import read_json

PYTHON = ((3, 11), (3, 14))
DISK_GB = 2.0  # what `make demo` writes, rounded up
MEMORY_GB = 4.0  # what its largest stage holds, rounded up
TIMEOUT_S = 5
COPIES_GB = 1.0  # of outputs stored twice, from which on links are worth a setting
STALE_DAYS = 7
VARIABLES = {"DEVICES", "IMAGE", "IMAGES", "PRECISION", "QUICK", "STRATEGY", "WORKERS"}
# As `uv pip compile` writes them; what has a condition that this machine does not meet is no pin.
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\]+))?", re.MULTILINE)
TOP = "run this at the top of a checkout"


class Finding(NamedTuple):
    """What was looked at, how it is (ok, note or problem), and what to do where it is not well."""

    about: str
    level: str
    told: str
    do: str = ""


def examine(root: Path) -> list[Finding]:
    """Everything, in the order in which one would set things right.

    Args:
        root: top of the repository; nothing there is changed.
    """
    looks: tuple[Callable[[Path], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _environment,
        _devices,
        _room,
        _mlflow,
        _waiting,
        _dvc,
        _data,
        _checkpoints,
    )
    found = []
    for look in looks:
        try:
            found += list(look(root))
        except Exception as error:  # a sick machine must not keep the doctor from the rest
            about = look.__name__.strip("_")
            told = f"could not be looked at: {type(error).__name__}: {error}"
            found.append(Finding(about, "problem", told))
    return found


def _python(_: Path) -> Iterator[Finding]:
    version = platform.python_version()
    low, high = PYTHON
    if low <= sys.version_info[:2] < high:
        yield Finding("python", "ok", f"{version} on {platform.platform()}")
    else:
        wanted = f"{low[0]}.{low[1]} up to, without, {high[0]}.{high[1]}"
        do = "`touch requirements.lock && make PYTHON=python3.12 .venv/installed`"
        yield Finding("python", "problem", f"{version}; techloop needs {wanted}", do)


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
        told = f"{len(other)} of {len(pins)} are not what is tested: {', '.join(other[:5])}"
        told += ", ..." if len(other) > 5 else ""
        do = "`touch requirements.lock && make .venv/installed`, then `source .venv/bin/activate`"
        yield Finding("packages", "problem", told, do)
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
            known = ", ".join(sorted(VARIABLES))
            told = f"{name} is nothing that techloop reads (TECHLOOP_ and one of {known})"
            yield Finding("environment", "problem", told, f"`unset {name}`")
    if address := os.environ.get("DASK_SCHEDULER_ADDRESS"):
        place = urlsplit(address)
        try:
            socket.create_connection((place.hostname, place.port or 8786), TIMEOUT_S).close()
        except OSError as error:
            told = f"no Dask scheduler at {address} ({type(error).__name__})"
            do = "`dask scheduler` there, or `unset DASK_SCHEDULER_ADDRESS` to prepare here"
            yield Finding("dask", "problem", told, do)
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
        told = f"NVIDIA's driver is here, but torch {torch.__version__} finds no GPU it can use"
        do = "`nvidia-smi` says what there is; an old driver has to be updated"
        yield Finding("devices", "problem", told, do)


def _room(root: Path) -> Iterator[Finding]:
    free_gb = shutil.disk_usage(root).free / 1e9
    told = f"{free_gb:.1f} GB free here; the demo takes {DISK_GB:g}"
    if free_gb < DISK_GB:
        do = "`dvc gc --workspace` drops all of DVC's cache but the outputs of this checkout"
        yield Finding("disk", "problem", told, do)
    else:
        yield Finding("disk", "ok", told)
    free_gb = psutil.virtual_memory().available / 1e9
    told = f"{free_gb:.1f} GB available; the demo takes {MEMORY_GB:g}"
    if free_gb < MEMORY_GB:
        do = "`export TECHLOOP_WORKERS=1` for fewer processes of preparation"
        yield Finding("memory", "note", told, do)
    else:
        yield Finding("memory", "ok", told)


def _mlflow(root: Path) -> Iterator[Finding]:
    from techloop.tracking.run import shown_address, tracking_address

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
        yield Finding("mlflow", "ok", f"{shown_address(address)}, not looked at from here")


def _server(address: str) -> Finding:
    import requests

    from techloop.tracking.run import shown_address

    name, password = (os.environ.get(f"MLFLOW_TRACKING_{k}", "") for k in ("USERNAME", "PASSWORD"))
    who = (name, password) if name else None
    try:
        answer = requests.get(f"{address.rstrip('/')}/health", auth=who, timeout=TIMEOUT_S)
        answer.raise_for_status()
    except requests.HTTPError:
        said = f"{shown_address(address)} answers with {answer.status_code}"
        do = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, where it asks who one is"
        return Finding("mlflow", "problem", said, do)
    except requests.RequestException as error:
        said = f"{shown_address(address)} does not answer ({type(error).__name__})"
        do = "start the server; stages go on meanwhile. `unset MLFLOW_TRACKING_URI` keeps runs here"
        return Finding("mlflow", "problem", said, do)
    return Finding("mlflow", "ok", f"{shown_address(address)} answers")


def _database(file: Path) -> Finding:
    from techloop.tracking.run import database_schemas

    if not file.is_file():
        return Finding("mlflow", "ok", f"{file.name}, which the first stage makes")
    newest, known = database_schemas()
    away = f"`mv {file} {file}.old`: the next stage begins a new one"
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
        ) as database:
            [(schema,)] = database.execute("select version_num from alembic_version").fetchall()
            [(runs,)] = database.execute("select count(*) from runs").fetchall()
    except (sqlite3.Error, ValueError) as error:
        return Finding("mlflow", "problem", f"{file.name} is no database of MLflow: {error}", away)
    if schema not in known:
        told = f"{file.name} is of another MLflow, of a schema ({schema}) that this one lacks"
        return Finding("mlflow", "problem", told, away)
    if schema != newest:
        told = f"{file.name} is of an older MLflow"
        return Finding("mlflow", "problem", told, f"`mlflow db upgrade sqlite:///{file}`")
    return Finding("mlflow", "ok", f"{file.name}, {runs} runs")


def _waiting(root: Path) -> Iterator[Finding]:
    from techloop.tracking.run import WAITING

    waiting = sorted((root / WAITING).glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in waiting.copy():
        try:
            read_json(file)
        except ValueError as error:
            waiting.remove(file)
            yield Finding("waiting", "problem", str(error).partition(" Delete")[0], f"`rm {file}`")
    if waiting:
        told = f"{len(waiting)} runs for the tracking server, since {_when(waiting[0])}"
        do = "the next stage that runs delivers them, or `python -m techloop.tracking.run` now"
        yield Finding("waiting", "note", told, do)


def _when(file: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))


def _dvc(root: Path) -> Iterator[Finding]:
    from dvc.repo import Repo
    from dvc.scm import SCMError

    if not (root / ".dvc").is_dir():
        yield Finding("dvc", "note", f"{root} is no DVC repository", TOP)
        return
    try:
        with Repo(str(root)) as repo:
            core, types = repo.config["core"], list(repo.cache.local.cache_types)
            cache = Path(repo.cache.local.path)
    except SCMError:
        yield Finding(
            "dvc", "problem", "git knows nothing of this folder, so DVC stops", "`git init`"
        )
        return
    remote = f"remote {core['remote']}" if core.get("remote") else "no remote"
    used = _bytes(_files(cache))
    yield Finding("dvc", "ok", f"cache of {_size(used)}, outputs by {' or '.join(types)}; {remote}")
    if core.get("analytics", True) and not os.environ.get("DVC_NO_ANALYTICS"):
        do = "`dvc config core.analytics false`"
        yield Finding("dvc", "note", "DVC sends statistics of its use to its makers", do)
    outputs = (file for name in OUTPUTS for file in _files(root / "data" / name))
    copied = min(used, _bytes(file for file in outputs if file.stat().st_nlink == 1))
    if copied >= COPIES_GB * 1e9 and _links(cache.parent, root / "data") == {"hardlink"}:
        told = f"{_size(copied)} of data/ are in DVC's cache a second time; links would save that"
        # Not reflink,hardlink,copy: what a stage wrote would then be copied all the same.
        do = "`dvc config --local cache.type hardlink,copy`, then `dvc checkout --relink dvc.yaml`"
        yield Finding("dvc", "note", told, do)


def _links(source: Path, target: Path) -> set[str]:
    """How a file of one folder can be in another without a copy: reflink, hardlink."""
    from dvc_objects.fs.system import hardlink, reflink

    possible = set()
    with tempfile.TemporaryDirectory(dir=source) as a, tempfile.TemporaryDirectory(dir=target) as b:
        file = Path(a, "file")
        file.write_text("x")
        for link in (reflink, hardlink):
            with contextlib.suppress(OSError):
                link(str(file), str(Path(b, link.__name__)))
                possible.add(link.__name__)
    return possible


def _data(root: Path) -> Iterator[Finding]:
    data = root / "data"
    if not (data / "loops").is_dir():
        yield Finding("data", "note", "no data/loops yet", "`dvc pull dvc.yaml`, or `dvc repro`")
    for kind, opened in OUTPUTS.items():
        for path in sorted(data.glob(kind if kind == "loops" else f"{kind}/[!.]*/")):
            name = path.relative_to(root).as_posix()
            try:
                told = opened(path)
                stale = kind == "latents" and _of_other_loops(path, data / "loops")
            except (ValueError, LookupError) as error:
                do = f"`dvc checkout --force {name}`; what its cache lacks, `dvc repro` makes"
                yield Finding(name, "problem", f"damaged: {error}", do)
                continue
            if stale:
                do = f"`dvc repro extract_latents@{path.name}`"
                yield Finding(name, "problem", "of other loops than those in data/loops", do)
            else:
                yield Finding(name, "ok", f"{told}, {_size(_bytes(_files(path)))}")


def _loops(path: Path) -> str:
    from techloop.data.datasets import LoopDataset

    loops = LoopDataset(path)
    loops.audio([len(loops) - 1])  # opens every shard
    return ", ".join(f"{n} {split}" for split, n in loops.card["splits"].items())


def _audio_vae(path: Path) -> str:
    from techloop.models.audio_vae import AudioVAE

    return f"{AudioVAE.load(path).sizes['latent_dim']} numbers a frame"


def _latents(path: Path) -> str:
    from techloop.data.datasets import LatentDataset

    latents = LatentDataset(path)
    latents[len(latents) - 1]  # opens every shard
    return f"{len(latents)} loops"


def _latent_vae(path: Path) -> str:
    from techloop.instrument import Instrument

    dimensions, length = Instrument.load(path).point_shape
    return f"{length} points of {dimensions} numbers a loop"


OUTPUTS = {"loops": _loops, "audio_vae": _audio_vae, "latents": _latents, "latent_vae": _latent_vae}


def _of_other_loops(latents: Path, loops: Path) -> bool:
    if not (loops / "card.json").is_file():
        return False  # latents need none
    made_of = read_json(latents / "card.json")["loops_fingerprint"]
    return bool(made_of != read_json(loops / "card.json")["fingerprint"])


def _checkpoints(root: Path) -> Iterator[Finding]:
    files = sorted(_files(root / "checkpoints"), key=lambda file: file.stat().st_mtime)
    if not files:
        return
    told = (
        f"{_size(_bytes(files))} of interrupted or finished work, the oldest of {_when(files[0])}"
    )
    if time.time() - files[0].stat().st_mtime > STALE_DAYS * 86_400:
        do = "`dvc repro` goes on with what still fits; if nothing is to, `rm -r checkpoints`"
        yield Finding("checkpoints", "note", told, do)
    else:
        yield Finding("checkpoints", "ok", told)


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size > 0.95e9 else f"{size / 1e6:.1f} MB"

"""What may be wrong with a machine or a checkout, and what to do about it: `techloop doctor`."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

LEVELS = ("ok", "note", "problem")
PYTHON = ((3, 11), (3, 14))
DISK_GB, MEMORY_GB = 6.0, 6.0  # what `make demo` takes
TIMEOUT_S = 5
# As `uv pip compile` writes them; what has a condition that this machine does not meet is no pin.
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)(?: ; ([^\\]+))?", re.MULTILINE)


class Finding(NamedTuple):
    """What was looked at, how it is (one of LEVELS), and what to do where it is not well."""

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
        _versions,
        _devices,
        _room,
        _tracking,
        _dvc,
        _data,
        _models,
    )
    found = []
    for look in looks:
        try:
            found += list(look(root))
        except Exception as error:  # a sick machine must not keep the doctor from the rest
            about = look.__name__.strip("_")
            found.append(Finding(about, "problem", f"{type(error).__name__}: {error}"))
    return found


def _python(_: Path) -> Iterator[Finding]:
    version = platform.python_version()
    low, high = PYTHON
    if low <= sys.version_info[:2] < high:
        yield Finding("python", "ok", f"{version} on {platform.platform()}")
    else:
        wanted = f"{low[0]}.{low[1]} up to, without, {high[0]}.{high[1]}"
        do = "name another one: `make PYTHON=python3.12 test`"
        yield Finding("python", "problem", f"{version}; techloop needs {wanted}", do)


def _versions(root: Path) -> Iterator[Finding]:
    from packaging.markers import Marker

    lock = root / "requirements.lock"
    if not lock.is_file():
        told = "no requirements.lock here, so versions were not compared"
        yield Finding("packages", "note", told, "run this at the top of the repository")
        return
    other = []
    pins = PIN.findall(lock.read_text(encoding="utf-8"))
    for name, version, condition in pins:
        if condition and not Marker(condition).evaluate():
            continue
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed.partition("+")[0] != version:
            other.append(f"{name} {installed} instead of {version}")
    if other:
        told = f"{len(other)} are not what is tested: {', '.join(other[:5])}"
        told += ", ..." if len(other) > 5 else ""
        do = "`touch requirements.lock && make test` installs them, or run this from .venv"
        yield Finding("packages", "problem", told, do)
    else:
        yield Finding("packages", "ok", f"{len(pins)} pinned, all as tested")


def _devices(_: Path) -> Iterator[Finding]:
    import torch

    from techloop.parallel import precision_from_environment

    precision = precision_from_environment()
    flags = [name for name, has in sorted(torch.cpu.get_capabilities().items()) if has is True]
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GB)" for gpu in gpus)
        yield Finding("devices", "ok", f"{names}; trained in {precision}")
    else:
        cores, threads = os.cpu_count(), torch.get_num_threads()
        yield Finding(
            "devices",
            "ok",
            f"no GPU; {cores} cores, {threads} threads, trained in {precision} ({' '.join(flags)})",
        )
        if shutil.which("nvidia-smi"):
            do = "update the driver, or install a torch for the one there is"
            yield Finding("devices", "problem", "a GPU is there, but torch cannot use it", do)


def _room(root: Path) -> Iterator[Finding]:
    free_gb = shutil.disk_usage(root).free / 1e9
    level = "ok" if free_gb >= DISK_GB else "problem"
    do = "" if level == "ok" else "`dvc gc --workspace` drops cached outputs that no file names"
    yield Finding("disk", level, f"{free_gb:.0f} GB free here; the demo takes {DISK_GB:g}", do)
    memory_gb = psutil.virtual_memory().available / 1e9
    level = "ok" if memory_gb >= MEMORY_GB else "note"
    do = "" if level == "ok" else "fewer processes of preparation: TECHLOOP_WORKERS=1"
    yield Finding("memory", level, f"{memory_gb:.0f} GB available", do)


def _tracking(root: Path) -> Iterator[Finding]:
    from techloop.tracking import shown_address, tracking_address

    address = tracking_address(root)
    if not address.startswith("http"):
        local = "MLFLOW_TRACKING_URI" not in os.environ
        yield Finding("mlflow", "ok", "in mlflow.db here" if local else shown_address(address))
        return
    import requests

    try:
        requests.get(f"{address.rstrip('/')}/health", timeout=TIMEOUT_S).raise_for_status()
    except requests.RequestException as error:
        told = f"{shown_address(address)} does not answer ({type(error).__name__})"
        do = "start the server, or unset MLFLOW_TRACKING_URI to keep runs here"
        yield Finding("mlflow", "problem", told, do)
    else:
        yield Finding("mlflow", "ok", f"{shown_address(address)} answers")


def _dvc(root: Path) -> Iterator[Finding]:
    from dvc.repo import Repo

    if not (root / ".dvc").is_dir():
        told = f"{root} is no DVC repository; what needs none works"
        yield Finding("dvc", "note", told, "run this at the top of the repository")
        return
    with Repo(str(root)) as repo:
        cache = repo.cache.local
        types, remote = cache.cache_types, repo.config["core"].get("remote")
        used = sum(file.stat().st_size for file in Path(cache.path).rglob("*") if file.is_file())
    told = f"cache of {used / 1e9:.1f} GB, outputs by {' or '.join(types)}"
    yield Finding("dvc", "ok", f"{told}; " + (f"remote {remote}" if remote else "no remote"))
    if used > 5e9 and types[:2] == ["reflink", "copy"]:
        do = "`dvc config cache.type reflink,hardlink,copy`, then `dvc checkout --relink`"
        told = "where the file system has no reflinks, every output is stored twice"
        yield Finding("dvc", "note", told, do)


def _data(root: Path) -> Iterator[Finding]:
    from techloop.datasets import LatentDataset, LoopDataset

    folder = root / "data" / "loops"
    if not folder.is_dir():
        yield Finding("loops", "note", "none yet", "`dvc repro prepare_loops`")
        return
    loops = LoopDataset(folder)
    loops.audio([len(loops) - 1])  # opens every shard
    splits = ", ".join(f"{n} {split}" for split, n in loops.card["splits"].items())
    yield Finding("loops", "ok", f"{len(loops)}: {splits}")
    for path in sorted((root / "data" / "latents").glob("[!.]*/")):
        latents = LatentDataset(path)
        if latents.card["loops"] != loops.card["fingerprint"]:
            told = f"{path.name} is of other loops than those in data/loops"
            yield Finding("latents", "problem", told, f"`dvc repro extract_latents@{path.name}`")
        else:
            yield Finding("latents", "ok", f"{path.name}: {len(latents)} loops")


def _models(root: Path) -> Iterator[Finding]:
    from techloop.instrument import Instrument
    from techloop.models.audio_vae import AudioVAE

    kinds = {"audio_vae": AudioVAE, "latent_vae": Instrument}
    for name, kind in kinds.items():
        for path in sorted((root / "data" / name).glob("[!.]*/")):
            try:
                kind.load(path)
            except ValueError as error:
                yield Finding(
                    name, "problem", str(error), f"`dvc checkout data/{name}/{path.name}`"
                )
            else:
                yield Finding(name, "ok", path.name)

"""What `pip install` brings: the base plays a model, extras do the rest; and what the lock pins."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from techloop import Instrument, __version__
from techloop.artifacts import write_json
from techloop.audio.wav import write_loop
from tests.helpers.datasets import kicks
from tests.helpers.params import GRID

TOP = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
LOCK = (TOP / "requirements.lock").read_text(encoding="utf-8")
# Not imported: a library that is pinned for another one's sake.
NOT_IMPORTED = {"fastapi"}
# Imported where the user has installed it: none of the extras brings it.
OPTIONAL = {"beat_this"}

BASE_ONLY = """
import sys
from importlib.machinery import PathFinder

ABSENT = set(sys.argv.pop(1).split(","))


class BaseOnly(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in ABSENT
        return None if absent else PathFinder.find_spec(name, path, target)


# What is found through the checkout and site-packages; finders of editable installs are left out.
sys.meta_path = [f for f in sys.meta_path if getattr(f, "__module__", "").startswith("_frozen")]
sys.meta_path[sys.meta_path.index(PathFinder)] = BaseOnly
sys.path_importer_cache.clear()
"""
PLAY = """
import json

from techloop import Instrument

instrument = Instrument.load(sys.argv[1])
audio = instrument.generate(2, seed=1)
assert audio.shape == (2, instrument.grid.samples), audio.shape
assert 0 < abs(audio).max() <= 1

from techloop.cli import app

for command in json.loads(sys.argv[2]):
    app(command, standalone_mode=False)
"""


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for; the project's own extras are replaced by what they ask for."""
    named = list(PROJECT["dependencies"])
    for extra in extras:
        named += PROJECT["optional-dependencies"][extra]
    parsed = [Requirement(name) for name in named]
    own = [r for r in parsed if r.name == PROJECT["name"]]
    inner = [r for outer in own for r in requirements(*outer.extras)]
    return [r for r in parsed if r.name != PROJECT["name"]] + inner


def installed_closure(wanted: list[Requirement]) -> set[str]:
    """Names of these distributions and of all that they need here."""
    names: set[str] = set()
    waiting = [(r.name, extra) for r in wanted for extra in (*r.extras, "")]
    visited = set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        names.add(canonicalize_name(name))
        for text in metadata.requires(name) or []:
            r = Requirement(text)
            if r.marker is None or r.marker.evaluate({"extra": extra}):
                waiting += [(r.name, inner) for inner in (*r.extras, "")]
    return names


@pytest.fixture(scope="session")
def absent() -> str:
    """Installed modules that belong to none of the base dependencies, as `BASE_ONLY` takes them."""
    base = installed_closure(requirements())
    owners = metadata.packages_distributions()
    refused = {
        module
        for module, names in owners.items()
        if not {canonicalize_name(name) for name in names} & (base | {"techloop"})
    }
    assert refused >= {
        *("prefect", "dvc", "dask", "distributed", "mlflow", "pandas", "matplotlib"),
        *("sklearn", "librosa", "lightning_fabric", "altair", "torchaudio", "psutil"),
    }
    return ",".join(refused)


def with_base_only(code: str, absent: str, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Run code in a process that finds nothing but the base dependencies."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TOP), "HOME": "/nonexistent"}
    return subprocess.run(
        [sys.executable, "-c", BASE_ONLY + code, absent, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_other_libraries_are_not_found(absent: str) -> None:
    run = with_base_only("import pandas", absent)
    assert "ModuleNotFoundError: No module named 'pandas'" in run.stderr


def test_base_dependencies_play_a_model_folder(
    latent_vae_folder: Path, tmp_path: Path, absent: str
) -> None:
    a, b = (str(tmp_path / f"{name} {GRID.bpm:g}bpm.wav") for name in "ab")
    for file, audio in zip((a, b), kicks(2), strict=True):
        write_loop(Path(file), audio, GRID.sample_rate_hz, GRID.bpm, GRID.beats)
    instrument = Instrument.load(latent_vae_folder)
    control = {
        "descriptor": "centroid_hz",
        "unit": "Hz",
        "interval": [90.0, 110.0],
        "gains": {"centroid_hz": 100.0},
        "direction": np.eye(*instrument.point_shape).tolist(),
    }
    controls = {"latent_vae": instrument.fingerprint, "controls": {"brighter": control}}
    write_json(tmp_path / "controls.json", controls)
    moved = ["--set", "brighter=+1.5", "--controls", str(tmp_path / "controls.json")]
    out = tmp_path / "out"
    options = ["--out", str(out), "--model", str(latent_vae_folder)]
    commands = [
        ["generate", "--loops", "2", "--seed", "1", *options],
        ["generate", "--loops", "1", "--seed", "2", *moved, *options],
        ["walk", "--bars", "2", *options],
        ["reconstruct", a, *options],
        ["morph", a, b, "--bars", "2", *options],
    ]
    run = with_base_only(PLAY, absent, latent_vae_folder, json.dumps(commands))
    assert run.returncode == 0, run.stderr
    wavs = sorted(out.glob("*.wav"))
    assert [wav.name.partition("-")[0] for wav in wavs] == [
        *("generate", "generate", "generate", "morph", "reconstruct", "walk")
    ]
    for wav in wavs:
        assert json.loads(wav.with_suffix(".json").read_text())["techloop"] == __version__


def test_a_recording_whose_tempo_is_in_doubt_asks_for_the_extra(
    latent_vae_folder: Path, tmp_path: Path, absent: str
) -> None:
    samples = int(7.3 * GRID.sample_rate_hz)  # no whole number of bars at a likely tempo
    noise = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, GRID.sample_rate_hz)
    options = ["--out", str(tmp_path / "out"), "--model", str(latent_vae_folder)]
    command = ["reconstruct", str(tmp_path / "noise.wav"), *options]
    run = with_base_only(PLAY, absent, latent_vae_folder, json.dumps([command]))
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in run.stderr
    [paragraph] = [line for line in run.stderr.splitlines() if line.startswith("techloop: ")]
    assert "pip install 'techloop[data]'" in paragraph


def test_base_and_extras_are_apart() -> None:
    base, data = (installed_closure(requirements(*extras)) for extras in ((), ("data",)))
    everything = installed_closure(requirements("pipeline"))
    assert base < data < everything
    assert "pandas" in data - base
    assert {"prefect", "dvc", "mlflow", "lightning-fabric"} <= everything - data


def test_the_extras_bring_every_import_and_nothing_that_is_not_imported() -> None:
    owners = metadata.packages_distributions()
    imported = set()
    for file in [*(TOP / "techloop").rglob("*.py"), *(TOP / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    imported -= {*sys.stdlib_module_names, "techloop", "stages", *OPTIONAL}
    distributions = {m: {canonicalize_name(name) for name in owners[m]} for m in imported}
    dev = {canonicalize_name(Requirement(r).name) for r in PYPROJECT["dependency-groups"]["dev"]}
    declared = {canonicalize_name(r.name) for r in requirements("pipeline")}
    brought = installed_closure(requirements("pipeline")) | dev
    assert [m for m, names in distributions.items() if not names & brought] == []
    assert declared - NOT_IMPORTED <= set().union(*distributions.values())


def test_the_lock_pins_what_pyproject_asks_for_with_hashes_and_without_addresses() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, flags=re.MULTILINE))
    dev = [Requirement(text) for text in PYPROJECT["dependency-groups"]["dev"]]
    for r in [*requirements("pipeline"), *dev]:
        name = canonicalize_name(r.name)
        assert name in pins, f"{r} is not in requirements.lock: run `make lock`"
        assert pins[name] in r.specifier, f"requirements.lock has {pins[name]}, not {r}"
    assert not re.search(r"://|--(index|extra-index|find-links)", LOCK)
    entries = re.split(r"^(?=[\w.-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert [e.splitlines()[0] for e in entries if "--hash=sha256:" not in e] == []


def test_what_is_built_holds_the_code_the_templates_and_the_types_marker(tmp_path: Path) -> None:
    source, dist = tmp_path / "source", tmp_path / "dist"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOP / "techloop", source / "techloop", ignore=ignored)
    for name in ("pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]):
        shutil.copy(TOP / name, source)
    dist.mkdir()
    build = "import sys; from setuptools import build_meta as b; out = sys.argv[1]; "
    build += "b.build_sdist(out); b.build_wheel(out)"
    subprocess.run([sys.executable, "-c", build, dist], cwd=source, check=True, capture_output=True)
    files = {p.relative_to(TOP).as_posix() for p in (TOP / "techloop").rglob("*") if p.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert "techloop/py.typed" in expected
    assert any(name.startswith("techloop/reporting/templates/") for name in expected)

    (wheel,) = dist.glob(f"techloop-{__version__}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = archive.read(f"techloop-{__version__}.dist-info/METADATA").decode()
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert set(re.findall(r"^Provides-Extra: (.*)$", about, re.MULTILINE)) == {"data", "pipeline"}

    with tarfile.open(dist / f"techloop-{__version__}.tar.gz") as archive:
        top = f"techloop-{__version__}/"
        assert {f"{top}{name}" for name in expected} <= set(archive.getnames())

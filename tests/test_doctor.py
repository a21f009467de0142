"""Each finding, provoked for real; where its remedy is a command, the command is run."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from techloop.artifacts import read_json, write_json
from techloop.cli import app
from techloop.pipeline import doctor
from techloop.pipeline.doctor import Finding, examine
from techloop.tracking.run import track
from tests.helpers.params import ROOT, free_port


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout, and an environment that says nothing."""
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "DVC_NO_ANALYTICS", "DASK_SCHEDULER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    # What remedies name are this interpreter's programs.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(root: Path, about: str) -> list[Finding]:
    """What `examine` has to say of it, which changes nothing."""

    def files() -> dict[Path, int]:
        notes_of_dvc = root / ".dvc" / "tmp"
        every = (p for p in root.rglob("*") if p.is_file() and notes_of_dvc not in p.parents)
        return {p: p.stat().st_mtime_ns for p in every}

    before = files()
    findings = [f for f in examine(root) if f.about == about]
    assert files() == before
    return findings


def one(root: Path, about: str) -> Finding:
    [finding] = found(root, about)
    return finding


def run(root: Path, finding: Finding) -> None:
    """The first command of its remedy."""
    command = finding.do.split("`")[1]
    subprocess.run(["bash", "-ec", command], cwd=root, check=True, capture_output=True, timeout=120)


def away() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def world(
    root: Path,
    loops_folder: Path,
    audio_vae_folder: Path,
    latents_folder: Path,
    latent_vae_folder: Path,
) -> Path:
    for folder in (loops_folder, audio_vae_folder, latents_folder, latent_vae_folder):
        shutil.copytree(folder, root / "data" / folder.relative_to(loops_folder.parent))
    return root


def test_a_sound_checkout_is_well(world: Path) -> None:
    said = CliRunner().invoke(app, ["doctor", str(world)])
    assert said.exit_code == 0, said.output
    assert "All is well." in said.output
    findings = {f.about: f for f in examine(world)}
    for name, told in {
        "data/loops": " train, ",
        "data/audio_vae/kl": "4 numbers a frame",
        "data/latents/kl": "60 loops",
        "data/latent_vae/kl-posterior-4": "4 points of 6 numbers",
    }.items():
        assert findings[name].level == "ok"
        assert told in findings[name].told
        assert "MB" in findings[name].told
    assert findings["mlflow"].told == "mlflow.db, which the first stage makes"
    assert "cache of 0.0 MB, outputs by reflink or copy; no remote" in findings["dvc"].told


def test_a_problem_is_exit_code_1_and_a_note_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(root / ".dvc")
    said = CliRunner().invoke(app, ["doctor", str(root)])
    assert said.exit_code == 0
    assert "note     dvc" in said.output
    assert "-> run this at the top of a checkout" in said.output
    monkeypatch.setattr(doctor, "PYTHON", ((3, 5), (3, 6)))
    said = CliRunner().invoke(app, ["doctor", str(root)])
    assert said.exit_code == 1
    assert "techloop needs 3.5 up to, without, 3.6" in said.output
    assert said.output.endswith("problems: 1\n")


def test_what_breaks_one_look_keeps_none_of_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".dvc" / "config").write_text("[core\n")
    finding = one(root, "dvc")
    assert finding.level == "problem"
    assert "could not be looked at" in finding.told
    assert one(root, "python").level == "ok"


def test_other_versions_than_those_of_the_lock(root: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    versions = {name: version for name, version, _ in doctor.PIN.findall(lock)}
    assert {"torch", "mlflow", "numpy"} < set(versions)
    [numpy] = {line for line in lock.splitlines() if line.startswith("numpy==")}
    assert versions["numpy"] in numpy
    elsewhere = "nosuch==1.0 ; sys_platform == 'amiga' \\\n"
    here = f"numpy=={versions['numpy']} \\\n    --hash=sha256:0\n"
    (root / "requirements.lock").write_text(here + elsewhere)
    assert one(root, "packages") == Finding("packages", "ok", "1, all as tested")
    (root / "requirements.lock").write_text(here + elsewhere + "torch==0.1 \\\nnosuch==1.0 \\\n")
    finding = one(root, "packages")
    assert finding.level == "problem"
    assert finding.told.startswith("2 of 3 are not what is tested: torch 2.")
    assert finding.told.endswith("instead of 0.1, nosuch missing instead of 1.0")


def test_a_variable_that_nothing_reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ("techloop", "stages", "notebooks")
    files = [*(ROOT / "cluster").iterdir(), ROOT / "Makefile"]
    files += [file for name in folders for file in (ROOT / name).rglob("*.py")]
    read = {name for f in files for name in re.findall(r"TECHLOOP_([A-Z]+)", f.read_text())}
    assert read == doctor.VARIABLES
    monkeypatch.setenv("TECHLOOP_WORKERS", "2")
    assert found(root, "environment") == []
    monkeypatch.setenv("TECHLOOP_WORKER", "2")
    assert one(root, "environment").do == "`unset TECHLOOP_WORKER`"


def test_a_dask_scheduler_that_is_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", f"tcp://{away()}")
    assert one(root, "dask").level == "problem"
    with socket.create_server(("127.0.0.1", 0)) as there:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", f"tcp://127.0.0.1:{there.getsockname()[1]}")
        assert one(root, "dask").level == "ok"


def test_a_gpu_that_torch_cannot_use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(root))
    assert [f.level for f in found(root, "devices")] == ["ok"]
    driver = root / "nvidia-smi"
    driver.touch(mode=0o755)
    assert [f.level for f in found(root, "devices")] == ["ok", "problem"]


def test_no_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(root, "disk").level == "ok"
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free=1_200_000_000))
    assert one(root, "disk").told == "1.2 GB free here; the demo takes 2"
    assert one(root, "disk").level == "problem"
    memory = namedtuple("memory", "available")
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory(available=3e9))
    assert one(root, "memory").level == "note"


def test_a_tracking_server_that_is_away_or_wants_a_password(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://team:hunter2@{away()}")
    finding = one(root, "mlflow")
    assert finding.level == "problem"
    assert "does not answer (ConnectionError)" in finding.told
    assert "hunter2" not in "".join(finding)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://team:hunter2@host")
    assert "is no address" in one(root, "mlflow").told

    script = (
        "import http.server as h\n"
        "class Guarded(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if 'Authorization' in self.headers else 401)\n"
        "        self.end_headers()\n"
        "server = h.HTTPServer(('127.0.0.1', 0), Guarded)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()"
    )
    guarded = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert guarded.stdout
        monkeypatch.setenv(
            "MLFLOW_TRACKING_URI", f"http://127.0.0.1:{guarded.stdout.readline().strip()}"
        )
        finding = one(root, "mlflow")
        assert "answers with 401" in finding.told
        assert "MLFLOW_TRACKING_USERNAME" in finding.do
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "team")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
        assert one(root, "mlflow").level == "ok"
    finally:
        guarded.kill()
        guarded.communicate()


def test_a_database_of_another_mlflow_or_of_none(root: Path) -> None:
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    database = root / "mlflow.db"
    settings = _get_alembic_config(f"sqlite:///{database}")
    Base.metadata.create_all(create_engine(f"sqlite:///{database}"))
    command.upgrade(settings, "0584bdc529eb")  # of MLflow 1.29
    finding = one(root, "mlflow")
    assert (finding.level, finding.told) == ("problem", "mlflow.db is of an older MLflow")
    run(root, finding)
    assert one(root, "mlflow") == Finding("mlflow", "ok", "mlflow.db, 0 runs")

    command.stamp(settings, "head")
    with doctor.contextlib.closing(doctor.sqlite3.connect(database)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'ffffffffffff'")
    assert "of another MLflow" in one(root, "mlflow").told
    database.write_bytes(b"no database" * 1000)
    finding = one(root, "mlflow")
    assert "is no database of MLflow: file is not a database" in finding.told
    run(root, finding)
    assert not database.exists()
    with track("stage", {}):
        pass
    assert one(root, "mlflow").told == "mlflow.db, 2 runs"


def test_runs_that_wait_for_the_server(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(root, "waiting") == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{away()}")
    with pytest.warns(UserWarning, match="cannot be reached"), track("stage", {}):
        pass
    finding = one(root, "waiting")
    assert finding.level == "note"
    assert finding.told.startswith("1 runs for the tracking server, since 20")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    subprocess.run([sys.executable, "-m", "techloop.tracking.run"], cwd=root, check=True)
    assert "python -m techloop.tracking.run" in finding.do
    assert found(root, "waiting") == []
    assert one(root, "mlflow").told == "mlflow.db, 2 runs"

    damaged = root / "mlruns" / "waiting" / "x.json"
    damaged.write_text("{")
    finding = one(root, "waiting")
    assert finding.level == "problem"
    run(root, finding)
    assert found(root, "waiting") == []


def test_a_checkout_without_git(root: Path) -> None:
    shutil.rmtree(root / ".git")
    finding = one(root, "dvc")
    assert finding.level == "problem"
    run(root, finding)
    assert one(root, "dvc").level == "ok"


def test_dvc_that_tells_or_copies(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dvc(*arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        subprocess.run(command, cwd=world, check=True, capture_output=True)

    dvc("add", "data/loops", "data/latents/kl")
    assert [f.level for f in found(world, "dvc")] == ["ok"]
    monkeypatch.setattr(doctor, "COPIES_GB", 0.001)
    monkeypatch.setattr(doctor, "_links", lambda a, b: {"reflink", "hardlink"})
    assert [f.level for f in found(world, "dvc")] == ["ok"], "reflinks are DVC's default"
    monkeypatch.setattr(doctor, "_links", lambda a, b: set())
    assert [f.level for f in found(world, "dvc")] == ["ok"]
    monkeypatch.setattr(doctor, "_links", lambda a, b: {"hardlink"})
    finding = found(world, "dvc")[1]
    cached = (file for file in (world / ".dvc" / "cache").rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in cached)
    assert finding.told.startswith(f"{size / 1e6:.1f} MB of data/ ")
    run(world, finding)
    dvc("checkout", "--relink")
    assert [f.level for f in found(world, "dvc")] == ["ok"], "nothing is stored twice"

    config = world / ".dvc" / "config"
    config.write_text(config.read_text().replace("analytics = false", ""))
    finding = found(world, "dvc")[1]
    run(world, finding)
    assert [f.level for f in found(world, "dvc")] == ["ok"]


def test_links_are_tried_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert "hardlink" in doctor._links(tmp_path / "a", tmp_path / "b")
    monkeypatch.delattr("os.link")
    monkeypatch.setattr("dvc_objects.fs.system.has_link", False)
    assert "hardlink" not in doctor._links(tmp_path / "a", tmp_path / "b")
    assert {path.name for path in tmp_path.rglob("*")} == {"a", "b"}


def test_a_damaged_model_comes_back_from_the_cache(world: Path) -> None:
    folder = world / "data" / "latent_vae" / "kl-posterior-4"
    command = [sys.executable, "-m", "dvc", "add", str(folder)]
    subprocess.run(command, cwd=world, check=True, capture_output=True)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    finding = one(world, "data/latent_vae/kl-posterior-4")
    assert finding.level == "problem"
    assert "truncated" in finding.told
    run(world, finding)
    assert one(world, "data/latent_vae/kl-posterior-4").level == "ok"


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("loops/audio-00000.npy", "data/loops"),
        ("latents/kl/index.parquet", "data/latents/kl"),
        ("audio_vae/kl/config.json", "data/audio_vae/kl"),
        ("latent_vae/kl-posterior-4/audio_vae/config.json", "data/latent_vae/kl-posterior-4"),
    ],
)
def test_damaged_folders(world: Path, file: str, name: str) -> None:
    content = (world / "data" / file).read_bytes()
    (world / "data" / file).write_bytes(content[: len(content) // 2])
    finding = one(world, name)
    assert finding.level == "problem"
    assert finding.told.startswith("damaged: ")
    assert [f for f in examine(world) if f.about != name and f.level == "problem"] == []


def test_latents_of_other_loops(world: Path) -> None:
    card = world / "data" / "loops" / "card.json"
    write_json(card, read_json(card) | {"fingerprint": "0" * 16})
    finding = one(world, "data/latents/kl")
    assert (finding.level, finding.do) == ("problem", "`dvc repro extract_latents@kl`")
    shutil.rmtree(world / "data" / "loops")
    assert one(world, "data/latents/kl").level == "ok", "they need no loops"
    assert one(world, "data").do == "`dvc pull dvc.yaml`, or `dvc repro`"


def test_stale_checkpoints(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(root, "checkpoints") == []
    (root / "checkpoints" / "0123").mkdir(parents=True)
    (root / "checkpoints" / "0123" / "last.pt").write_bytes(bytes(1_500_000))
    assert one(root, "checkpoints").level == "ok"
    assert one(root, "checkpoints").told.startswith(
        "1.5 MB of interrupted or finished work, the oldest of 20"
    )
    monkeypatch.setattr(doctor, "STALE_DAYS", 0)
    assert one(root, "checkpoints").level == "note"

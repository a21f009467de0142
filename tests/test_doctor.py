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
from techloop.pipeline.doctor import Finding, run_checks
from techloop.tracking.run import track
from tests.helpers.params import ROOT, free_port
from tests.helpers.tracking import statuses


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


def findings_about(root: Path, about: str) -> list[Finding]:
    """What `run_checks` finds about it; the checks change nothing."""

    def files() -> dict[Path, int]:
        notes_of_dvc = root / ".dvc" / "tmp"
        every = (p for p in root.rglob("*") if p.is_file() and notes_of_dvc not in p.parents)
        return {p: p.stat().st_mtime_ns for p in every}

    before = files()
    findings = [f for f in run_checks(root) if f.about == about]
    assert files() == before
    return findings


def one(root: Path, about: str) -> Finding:
    [finding] = findings_about(root, about)
    return finding


def run(root: Path, finding: Finding) -> None:
    """The first command of its remedy."""
    command = finding.remedy.split("`")[1]
    subprocess.run(["bash", "-ec", command], cwd=root, check=True, capture_output=True, timeout=120)


def away() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def world(
    root: Path,
    loops_folder: Path,
    audio_vae_folder: Path,
    decoder_folder: Path,
    latents_folder: Path,
    latent_vae_folder: Path,
    instrument_folder: Path,
) -> Path:
    for folder in (
        loops_folder,
        audio_vae_folder,
        decoder_folder,
        latents_folder,
        latent_vae_folder,
        instrument_folder,
    ):
        shutil.copytree(folder, root / "data" / folder.relative_to(loops_folder.parent))
    return root


def test_a_sound_checkout_is_well(world: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(world)])
    assert result.exit_code == 0, result.output
    assert "All is well." in result.output
    findings = {f.about: f for f in run_checks(world)}
    for name, text in {
        "data/loops": " train, ",
        "data/audio_vae/kl": "4 numbers per frame",
        "data/latents/kl": "60 loops",
        "data/decoder/kl": "4 numbers per frame",
        "data/latent_vae/kl-posterior-4": "4 points of 6 numbers per loop",
        "data/instrument/kl-posterior-4": "4 points of 6 numbers per loop",
    }.items():
        assert findings[name].level == "ok"
        assert text in findings[name].message
        assert "MB" in findings[name].message
    assert findings["mlflow"].message == "mlflow.db, which the first stage creates"
    assert findings["dvc"].message.startswith("cache of 0.0 MB; ")


def test_a_problem_is_exit_code_1_and_a_note_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(root / ".dvc")
    result = CliRunner().invoke(app, ["doctor", str(root)])
    assert result.exit_code == 0
    assert "note     dvc" in result.output
    assert "-> run this at the top of a checkout" in result.output
    monkeypatch.setattr(doctor, "PYTHON", ((3, 5), (3, 6)))
    result = CliRunner().invoke(app, ["doctor", str(root)])
    assert result.exit_code == 1
    assert "techloop needs 3.5 or newer, older than 3.6" in result.output
    assert result.output.endswith("problems: 1\n")


def test_a_check_that_fails_itself_hides_no_other(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: object) -> None:
        raise PermissionError(f"{path} may not be read")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    finding = one(root, "space")
    assert finding.level == "problem"
    assert finding.message.startswith("the check itself failed: PermissionError: ")
    assert one(root, "python").level == "ok"


def test_it_starts_without_libraries_and_names_the_remedy(root: Path) -> None:
    absent = ("pydantic", "ruamel", "filelock", "upath", "psutil", "torch", "numpy", "packaging")
    code = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({absent})\n"
        "from pathlib import Path\n"
        "from techloop.pipeline.doctor import run_checks\n"
        "for finding in run_checks(Path.cwd()): print(*finding, sep=' | ')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    for about in ("python", "disk", "mlflow", "dvc"):
        assert any(line.startswith(f"{about} | ok | ") for line in lines)
    [space] = [line for line in lines if line.startswith("space | problem | ")]
    assert "the check itself failed: ModuleNotFoundError: import of psutil halted" in space
    assert space.endswith(doctor.INSTALL)


def test_a_file_of_dvc_that_is_damaged(root: Path) -> None:
    (root / ".dvc" / "config").write_text("[core\n")
    finding = one(root, "dvc")
    assert finding.level == "problem"
    assert finding.message == "DVC cannot read its settings in .dvc"


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
    assert finding.message.startswith("2 of 3 differ from what is tested: torch 2.")
    assert finding.message.endswith("instead of 0.1, nosuch missing instead of 1.0")


def test_a_variable_that_nothing_reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = ("techloop", "stages", "notebooks")
    files = [*(ROOT / "cluster").iterdir(), ROOT / "Makefile"]
    files += [file for name in folders for file in (ROOT / name).rglob("*.py")]
    read = {name for f in files for name in re.findall(r"TECHLOOP_([A-Z]+)", f.read_text())}
    assert read == doctor.VARIABLES
    monkeypatch.setenv("TECHLOOP_WORKERS", "2")
    assert findings_about(root, "environment") == []
    monkeypatch.setenv("TECHLOOP_WORKER", "2")
    assert one(root, "environment").remedy == "`unset TECHLOOP_WORKER`"


def test_a_dask_scheduler_that_is_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", f"tcp://{away()}")
    assert one(root, "dask").level == "problem"
    with socket.create_server(("127.0.0.1", 0)) as there:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", f"tcp://127.0.0.1:{there.getsockname()[1]}")
        assert one(root, "dask").level == "ok"


def test_a_gpu_that_torch_cannot_use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(root))
    assert [f.level for f in findings_about(root, "devices")] == ["ok"]
    driver = root / "nvidia-smi"
    driver.touch(mode=0o755)
    assert [f.level for f in findings_about(root, "devices")] == ["ok", "problem"]


def test_no_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(root, "disk").level == "ok"
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free=1_200_000_000))
    assert one(root, "disk").message == "1.2 GB free here; the demo takes 2"
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
    assert "does not answer (ConnectionError)" in finding.message
    assert "hunter2" not in "".join(finding)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htp://team:hunter2@host")
    assert "is not the address" in one(root, "mlflow").message

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
        assert "answers with 401" in finding.message
        assert "MLFLOW_TRACKING_USERNAME" in finding.remedy
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "team")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
        assert one(root, "mlflow").level == "ok"
    finally:
        guarded.kill()
        guarded.communicate()


def test_a_database_that_is_none(root: Path) -> None:
    database = root / "mlflow.db"
    with track("stage", {}):
        pass
    size = f"mlflow.db, {database.stat().st_size / 1e6:.1f} MB"
    assert one(root, "mlflow") == Finding("mlflow", "ok", size)
    database.write_bytes(b"something else" * 1000)
    finding = one(root, "mlflow")
    assert (finding.level, finding.message) == ("problem", "mlflow.db is not a database")
    run(root, finding)
    assert not database.exists()
    with track("stage", {}):
        pass
    assert one(root, "mlflow").level == "ok"


def test_runs_that_wait_for_the_server(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings_about(root, "outbox") == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{away()}")
    with pytest.warns(UserWarning, match="cannot be reached"), track("stage", {}):
        pass
    finding = one(root, "outbox")
    assert finding.level == "note"
    assert finding.message.startswith("runs queued for the tracking server: 1, since 20")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    command = finding.remedy.split("`")[1].split()
    assert command == ["python", "-m", "techloop.tracking.outbox"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command[1:]], cwd=root, check=True, env=environment)
    assert findings_about(root, "outbox") == []
    assert statuses(root, "stage") == [("stage", "FINISHED")]

    (root / "mlruns" / "outbox" / "x.json").write_text("{")
    finding = one(root, "outbox")
    assert finding.level == "problem"
    run(root, finding)
    assert findings_about(root, "outbox") == []


def test_a_checkout_without_git(root: Path) -> None:
    shutil.rmtree(root / ".git")
    finding = one(root, "dvc")
    assert finding.level == "problem"
    run(root, finding)
    assert one(root, "dvc").level == "ok"


def test_the_size_of_dvcs_cache(world: Path) -> None:
    command = [sys.executable, "-m", "dvc", "add", "data/loops", "data/latents/kl"]
    subprocess.run(command, cwd=world, check=True, capture_output=True)
    cached = (file for file in (world / ".dvc" / "cache").rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in cached)
    assert size > 1e6
    assert one(world, "dvc").message.startswith(f"cache of {size / 1e6:.1f} MB; ")


def test_a_damaged_model_comes_back_from_the_cache(world: Path) -> None:
    folder = world / "data" / "latent_vae" / "kl-posterior-4"
    command = [sys.executable, "-m", "dvc", "add", str(folder)]
    subprocess.run(command, cwd=world, check=True, capture_output=True)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    finding = one(world, "data/latent_vae/kl-posterior-4")
    assert finding.level == "problem"
    assert "truncated" in finding.message
    run(world, finding)
    assert one(world, "data/latent_vae/kl-posterior-4").level == "ok"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("audio_vae/kl/config.json", "data/audio_vae/kl"),
        ("latent_vae/kl-posterior-4/audio_vae/config.json", "data/latent_vae/kl-posterior-4"),
    ],
)
def test_a_model_of_an_older_format_is_trained_anew(world: Path, config: str, name: str) -> None:
    file = world / "data" / config
    write_json(file, read_json(file) | {"format": 1, "model": "VAE1"})
    assert one(world, name) == Finding(
        name,
        "problem",
        "a model of format 1, which this version does not read",
        "`dvc repro` trains it anew",
    )


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
    assert finding.message.startswith("damaged: ")
    assert [f for f in run_checks(world) if f.about != name and f.level == "problem"] == []


def test_latents_of_other_loops(world: Path) -> None:
    card = world / "data" / "loops" / "card.json"
    write_json(card, read_json(card) | {"fingerprint": "0" * 16})
    finding = one(world, "data/latents/kl")
    assert (finding.level, finding.remedy) == ("problem", "`dvc repro extract_latents@kl`")
    shutil.rmtree(world / "data" / "loops")
    assert one(world, "data/latents/kl").level == "ok", "they need no loops"
    assert one(world, "data").remedy == "`dvc pull dvc.yaml`, or `dvc repro`"


def test_stale_checkpoints(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert findings_about(root, "checkpoints") == []
    (root / "checkpoints" / "0123").mkdir(parents=True)
    (root / "checkpoints" / "0123" / "last.pt").write_bytes(bytes(1_500_000))
    assert one(root, "checkpoints").level == "ok"
    assert one(root, "checkpoints").message.startswith(
        "1.5 MB of interrupted or finished work, the oldest of 20"
    )
    monkeypatch.setattr(doctor, "STALE_DAYS", 0)
    assert one(root, "checkpoints").level == "note"

"""The graph as a person runs it: `dvc repro` of all stages, small, in a copy of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from techloop.artifacts import read_json
from tests.worlds import ROOT, small_params

pytestmark = pytest.mark.timeout(500)

COPIED = (
    "stages",
    "techloop",
    "data/raw",
    "dvc.yaml",
    "study",
    "pyproject.toml",
    ".dvc/config",
    ".gitignore",
)


def run(folder: Path, *command: str, fails: bool = False) -> str:
    """What a command prints, run with this interpreter's environment first on the path."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "TECHLOOP_WORKERS": "1",
    }
    for inherited in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(inherited, None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with one cell a level, sizes of seconds, and everything run."""
    folder = tmp_path_factory.mktemp("repository")
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    params = small_params().model_dump()
    params["prepare_loops"]["synth"]["loops"] = 240
    params["train_audio_vae"]["cells"].pop("wae")
    params["study"] |= {"regulariser": ["kl"], "objective": ["posterior"], "length": [1]}
    params["study"]["seed"] = [0, 1]
    params["evaluate_smoothness"]["paths"] = 4
    params["evaluate_generation"] |= {"loops": 24, "seeds": 2}
    params["evaluate_prior"]["loops"] = 24
    params["evaluate_controls"] = {"loops": 48, "probes": 4}
    cells = params["train_latent_vae"]["cells"]
    params["train_latent_vae"]["cells"] = {"kl-posterior-4": cells["kl-posterior-4"]}
    YAML().dump(params, folder / "params.yaml")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "repro")
    return folder


def test_one_command_makes_everything_and_a_second_nothing(repository: Path) -> None:
    stages = run(repository, "dvc", "stage", "list", "--name-only").split()
    runs = {p.stem: read_json(p) for p in (repository / "reports" / "runs").glob("*.json")}
    assert set(runs) == set(stages)
    assert len({r["run_id"] for r in runs.values()}) == len(stages) == 11
    assert len({r["parent_run_id"] for r in runs.values()}) == 1
    page = (repository / "reports" / "index.html").read_text(encoding="utf-8")
    assert page.count('data-title="Generated ') == 8
    loops = pd.read_parquet(repository / "data" / "loops" / "index.parquet")
    assert len(loops) == 240

    again = run(repository, "dvc", "repro")
    assert "Running stage" not in again
    assert run(repository, sys.executable, "-m", "stages.flow").count("Running stage") == 0

    out = repository / "out"
    run(repository, "techloop", "generate", "--loops", "2", "--seed", "3", "--out", str(out))
    assert len(list(out.glob("generate-seed3-*-125bpm.wav"))) == 2
    some = next((repository / "reports" / "reconstruction").rglob("*.wav"))
    run(repository, "techloop", "reconstruct", str(some), "--out", str(out))
    assert list(out.glob("reconstruct-*.wav"))


def test_the_study_is_made_when_asked_for_and_reported(repository: Path) -> None:
    said = run(repository, "dvc", "repro", "study/dvc.yaml")
    assert said.count("> python -m stages.study ") == 2
    assert "> python -m stages.train_audio_vae" not in said
    table = pd.read_csv(repository / "reports" / "study" / "summary" / "study.csv")
    assert table[["regulariser", "objective", "length"]].to_numpy().tolist() == [
        ["kl", "posterior", 1]
    ]
    assert table["coverage_low"][0] <= table["coverage"][0] <= table["coverage_high"][0]
    again = run(repository, "dvc", "repro", "study/dvc.yaml")
    assert "Running stage" not in again


@pytest.mark.parametrize(
    ("stage", "change", "complaint"),
    [
        ("prepare_loops", ("bpm: 125", "bpm: 126"), "nearest tempi that are"),
        ("prepare_loops", ("seed: 0", "sead: 0"), "`sead` is no known key"),
        ("prepare_loops", ("source: synth", "source: folder"), "no audio"),
        ("train_latent_vae", ("length: 4", "length: 7"), "7 does not divide the 240 latent frames"),
    ],
)
def test_a_persons_mistake_ends_as_one_paragraph(
    repository: Path, stage: str, change: tuple[str, str], complaint: str
) -> None:
    def written() -> dict[Path, int]:
        files = (p for p in (repository / "data").rglob("*") if p.is_file())
        return {p: p.stat().st_mtime_ns for p in files}

    params, before = repository / "params.yaml", written()
    right = params.read_text(encoding="utf-8")
    cell = ["kl-posterior-4"] if stage == "train_latent_vae" else []
    try:
        params.write_text(right.replace(*change), encoding="utf-8")
        said = run(repository, sys.executable, "-m", f"stages.{stage}", *cell, fails=True)
    finally:
        params.write_text(right, encoding="utf-8")
    assert complaint in said
    assert "Traceback" not in said
    assert written() == before

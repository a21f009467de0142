"""The graph as a person runs it: `dvc repro` of all stages, small, in a copy of the repository."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from techloop.artifacts import read_json
from tests.helpers.datasets import contents
from tests.helpers.params import ROOT, small_params

pytestmark = pytest.mark.timeout(500)

COPIED = (
    "stages",
    "techloop",
    "data/decoder",
    "data/raw",
    "dvc.yaml",
    "reports/decoder",
    "study",
    "pyproject.toml",
    ".dvc/config",
    ".gitignore",
)


# Stages that take long and resume.
LONG = (
    "prepare_loops",
    "train_audio_vae@kl",
    "finetune_decoder@kl",
    "extract_latents@kl",
    "train_latent_vae@kl-posterior-4",
)


def environment() -> dict[str, str]:
    """With this interpreter's programs first on the path."""
    variables = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "TECHLOOP_WORKERS": "1",
    }
    inherited = ("DVC_ROOT", "MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in variables.items() if name not in inherited}


def run(folder: Path, *command: str, fails: bool = False) -> str:
    """What a command prints."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def copied(folder: Path) -> Path:
    """A copy of what `dvc repro` needs, one cell per level and sizes of seconds; nothing run."""
    for name in COPIED:
        place, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():  # without what this checkout's own pipeline has in data/decoder
            shutil.copytree(
                place, target, ignore=shutil.ignore_patterns("__pycache__", "dvc.lock", "kl")
            )
        else:
            shutil.copy(place, target)
    params = small_params().model_dump()
    params["prepare_loops"]["synth"]["loops"] = 240
    params["train_audio_vae"]["cells"].pop("wae")
    params["study"] |= {"regulariser": ["kl"], "objective": ["posterior"], "length": [1]}
    params["study"]["seed"] = [0]
    params["evaluate_smoothness"]["paths"] = 4
    params["evaluate_smoothness"]["points"] = 8
    params["evaluate_descriptors"]["bootstrap"] = 50
    params["evaluate_generation"] |= {"loops": 24, "examples": 2}
    params["evaluate_prior"] |= {"loops": 24, "examples": 2}
    params["evaluate_controls"] = {"loops": 48, "probes": 4}
    cells = params["train_latent_vae"]["cells"]
    params["train_latent_vae"]["cells"] = {"kl-posterior-4": cells["kl-posterior-4"]}
    YAML().dump(params, folder / "params.yaml")
    run(folder, "git", "init", "--quiet")
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a copy, everything run."""
    folder = copied(tmp_path_factory.mktemp("repository"))
    run(folder, "dvc", "repro")
    return folder


def test_one_command_makes_everything_and_a_second_nothing(repository: Path) -> None:
    stages = run(repository, "dvc", "stage", "list", "--name-only").split()
    runs = {p.stem: read_json(p) for p in (repository / "reports" / "runs").glob("*.json")}
    assert set(runs) == set(stages)
    assert len({r["run_id"] for r in runs.values()}) == len(stages) == 14
    assert len({r["parent_run_id"] for r in runs.values()}) == 1
    page = (repository / "reports" / "index.html").read_text(encoding="utf-8")
    assert page.count('data-title="Generated ') == 2
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


def stale(repository: Path) -> set[str]:
    """The stages that are out of date."""
    output = run(repository, "dvc", "status", "--json", "dvc.yaml")
    return set(json.loads(output[output.index("{") :]))


def test_the_decoder_does_not_touch_the_latents(repository: Path) -> None:
    """Other settings of the decoder, and another one that plays, train no latent VAE anew."""
    assert stale(repository) == set()
    tuned = {"finetune_decoder@kl", "evaluate_decoder@kl"}
    played = tuned | {"assemble_instrument@kl-posterior-4", "report"}
    played |= {
        f"evaluate_{kind}@kl-posterior-4" for kind in ("smoothness", "generation", "controls")
    }
    for old, new in (
        ("warmup_loops: 48", "warmup_loops: 40"),
        ("feature_matching: 1", "feature_matching: 2"),
    ):
        with mistaken(repository, old, new):
            changed = stale(repository)
        assert "finetune_decoder@kl" in changed
        assert changed <= played
    with mistaken(repository, "plays: decoder/kl", "plays: audio_vae/kl"):
        changed = stale(repository)
        assert "assemble_instrument@kl-posterior-4" in changed
        assert changed <= played - tuned


def test_params_can_leave_the_decoder_out(repository: Path, tmp_path: Path) -> None:
    """Without cells the stage is gone, and everything else is as it was."""
    before = set(run(repository, "dvc", "stage", "list", "--name-only").split())
    params = YAML(typ="safe").load(repository / "params.yaml")
    text = (repository / "params.yaml").read_text(encoding="utf-8")
    params["finetune_decoder"]["cells"] = {}
    params["train_latent_vae"]["cells"]["kl-posterior-4"]["plays"] = "audio_vae/kl"
    try:
        YAML().dump(params, repository / "params.yaml")
        after = set(run(repository, "dvc", "stage", "list", "--name-only").split())
        assert before - after == {"finetune_decoder@kl", "evaluate_decoder@kl"}
        assert after < before
        changed = stale(repository)
        run(repository, "dvc", "repro", "--single-item", "report")
    finally:
        (repository / "params.yaml").write_text(text, encoding="utf-8")
    assert "extract_latents@kl" not in changed
    assert "train_latent_vae@kl-posterior-4" not in changed
    run(repository, "dvc", "repro")
    assert stale(repository) == set()


@pytest.mark.ci
def test_a_clone_pulls_what_was_pushed_and_nothing_runs_again(
    repository: Path, tmp_path: Path
) -> None:
    def outputs(folder: Path) -> dict[str, dict[str, bytes]]:
        return {name: contents(folder / name) for name in ("data", "reports")}

    run(repository, "dvc", "remote", "add", "--default", "team", str(tmp_path / "store"))
    run(repository, "git", "add", ".")
    me = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    run(repository, "git", *me, "commit", "--quiet", "--message", "the demo")
    run(repository, "dvc", "push", "dvc.yaml")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(repository), str(clone))
    run(clone, "dvc", "pull", "dvc.yaml")

    assert outputs(clone) == outputs(repository)
    assert sum(map(len, outputs(clone).values())) > 50
    assert "up to date" in run(clone, "dvc", "status", "dvc.yaml")
    assert "Running stage" not in run(clone, "dvc", "repro")
    output = run(clone, "techloop", "doctor")
    assert "data/instrument/kl-posterior-4: 4 points of 6 numbers per loop" in output
    run(clone, "techloop", "generate", "--loops", "1", "--out", str(tmp_path / "out"))

    run(clone, "dvc", "config", "--local", "cache.type", "hardlink,copy")
    run(clone, "dvc", "checkout", "--relink", "dvc.yaml")
    again = run(clone, "dvc", "repro", "--force", "--single-item", "extract_latents@kl")
    assert "Running stage" in again, "a stage replaces outputs that are links"
    assert run(clone, "dvc", "diff", "--targets", "data/loops", "data/audio_vae/kl") == ""


@pytest.mark.ci
def test_the_study_is_made_when_asked_for_and_reported(repository: Path) -> None:
    output = run(repository, "dvc", "repro", "study/dvc.yaml")
    assert output.count("> python -m stages.study ") == 1
    assert "> python -m stages.train_audio_vae" not in output
    table = pd.read_csv(repository / "reports" / "study" / "summary" / "study.csv")
    assert table[["regulariser", "objective", "length"]].to_numpy().tolist() == [
        ["kl", "posterior", 1]
    ]
    assert table["coverage_low"][0] <= table["coverage"][0] <= table["coverage_high"][0]
    again = run(repository, "dvc", "repro", "study/dvc.yaml")
    assert "Running stage" not in again


@contextmanager
def mistaken(repository: Path, *change: str) -> Iterator[None]:
    """params.yaml with one text for another."""
    params = repository / "params.yaml"
    right = params.read_text(encoding="utf-8")
    try:
        params.write_text(right.replace(*change), encoding="utf-8")
        yield
    finally:
        params.write_text(right, encoding="utf-8")


@pytest.mark.parametrize(
    ("stage", "change", "complaint"),
    [
        ("prepare_loops", ("bpm: 125", "bpm: 126"), "nearest tempi that are"),
        ("prepare_loops", ("seed: 0", "sead: 0"), " known key"),
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

    before = written()
    cell = ["kl-posterior-4"] if stage == "train_latent_vae" else []
    with mistaken(repository, *change):
        output = run(repository, sys.executable, "-m", f"stages.{stage}", *cell, fails=True)
    assert complaint in output
    assert "Traceback" not in output
    assert written() == before


@pytest.mark.ci
def test_the_outputs_from_before_a_failed_stage_can_be_restored(repository: Path) -> None:
    before = contents(repository / "data")
    with mistaken(repository, "bpm: 125", "bpm: 126"):
        output = run(repository, "dvc", "repro", "prepare_loops", fails=True)
    assert "nearest tempi that are" in output
    assert contents(repository / "data") != before, "DVC clears outputs before a stage begins"
    run(repository, "dvc", "checkout", "dvc.yaml")
    assert contents(repository / "data") == before
    assert "Running stage" not in run(repository, "dvc", "repro")


def hashes(repository: Path) -> dict[str, str]:
    """Hashes of all outputs in dvc.lock, without ids, times and memory of runs."""
    lock = YAML(typ="safe").load(repository / "dvc.lock")
    outs = [out for stage in lock["stages"].values() for out in stage["outs"]]
    digests = {o["path"]: o["md5"] for o in outs if not o["path"].startswith("reports/runs/")}
    page = (repository / "reports" / "index.html").read_text(encoding="utf-8")
    of_runs = r"<tr>.*<td>[\d,]+ MB</td>.*</tr>|(wall time of all stages|peak memory)</dt>.*</dd>"
    return digests | {"reports/index.html": re.sub(of_runs, "", page)}


def begun(repository: Path, stage: str) -> subprocess.Popen:
    """`dvc repro` of a stage, as soon as the stage itself begins."""
    process = subprocess.Popen(
        ["dvc", "repro", stage],
        cwd=repository,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    output = []
    for line in process.stdout:
        output.append(line)
        if f"> python -m stages.{stage.replace('@', ' ')}" in line:
            return process
    pytest.fail(f"{stage} did not begin: {''.join(output)[-3000:]}")


def killed(process: subprocess.Popen) -> bool:
    """Kill DVC and all that it started; whether it was still running."""
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return running


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Another copy, nothing run."""
    return copied(tmp_path)


@pytest.mark.ci
def test_twice_from_scratch_is_the_same_though_each_long_stage_is_killed_once(
    repository: Path, copy: Path
) -> None:
    generator, cut_off = random.Random(0), 0
    for stage in LONG:
        process = begun(copy, stage)
        time.sleep(generator.uniform(1, 6))
        cut_off += killed(process)
    assert cut_off > 1
    run(copy, "dvc", "repro")
    assert hashes(copy) == hashes(repository)
    assert "Running stage" not in run(copy, "dvc", "repro")
    assert not list((copy / "data").glob("**/.*-new-*"))
    assert not list((copy / "data").glob("**/.*-parts"))
    assert {p.name for p in copy.glob("checkpoints/*/*")} == {"finished.pt"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("stage", LONG)
def test_killed_ten_times_a_stage_ends_the_same(copy: Path, stage: str) -> None:
    params = YAML(typ="safe").load(copy / "params.yaml")
    for section in ("train_audio_vae", "finetune_decoder", "train_latent_vae"):
        params[section]["training"]["loops"] = 300
    params["extract_latents"]["shard_mb"] = 1
    YAML().dump(params, copy / "params.yaml")
    run(copy, "dvc", "repro", stage)
    place = re.sub("train_|finetune_|extract_", "", stage).replace("@", "/")
    out = copy / "data" / place
    out = copy / "data" / "loops" if stage == "prepare_loops" else out
    before, generator, interrupted, resumed = contents(out), random.Random(stage), 0, 0
    takes_s = 3 + read_json(copy / "reports" / "runs" / f"{stage}.json")["wall_s"]  # with imports
    for kill in range(30):
        shutil.rmtree(out)
        shutil.rmtree(copy / "checkpoints", ignore_errors=True)  # or it would finish at once
        lock = YAML(typ="safe").load(copy / "dvc.lock")
        del lock["stages"][stage]  # nor may DVC have it in its run cache
        YAML().dump(lock, copy / "dvc.lock")
        shutil.rmtree(copy / ".dvc" / "cache" / "runs")
        process = begun(copy, stage)
        moment_s = generator.uniform(0, takes_s)
        time.sleep(moment_s)
        running = killed(process)
        interrupted += running
        takes_s = takes_s if running else moment_s  # machines differ from one minute to the next
        assert running or out.exists()
        assert not out.exists() or contents(out) == before
        checkpoints = [p.name for p in copy.glob("checkpoints/*/last.pt")]
        resumed += len(checkpoints)
        run(copy, "dvc", "repro", stage)
        assert contents(out) == before
        end = "cut off" if running else "done"
        print(f"{stage}, {kill + 1}: after {moment_s:.1f} s, {end}, {checkpoints}")
        if interrupted == 10:
            break
    assert interrupted == 10
    assert resumed or not stage.startswith("train_")

"""The flow does what DVC's graph asks for, no more, and says what failed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.flow import stages_to_run

TOP = Path(__file__).resolve().parents[1]
PIPELINE = """
stages:
  first: {cmd: cp in.txt first.txt, deps: [in.txt], outs: [first.txt]}
  each:
    foreach: [a, b]
    do: {cmd: "cp first.txt ${item}.txt && cat %s.txt", deps: [first.txt], outs: ["${item}.txt"]}
  last: {cmd: cat a.txt b.txt > last.txt, deps: [a.txt, b.txt], outs: [last.txt]}
  aside: {cmd: cp b.txt aside.txt, deps: [b.txt], outs: [aside.txt]}
"""


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """first -> each@a, each@b -> last; each@b -> aside."""
    for name in ("DVC_ROOT", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(tmp_path)
    dvc("init", "--no-scm", "-q")
    Path("in.txt").write_text("1")
    Path("dvc.yaml").write_text(PIPELINE % "${item}")
    return tmp_path


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def flow(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.flow", *arguments]
    environment = os.environ | {"PYTHONPATH": str(TOP)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_plan_is_what_changed_and_what_follows_from_it(pipeline: Path) -> None:
    plan = stages_to_run(pipeline)
    assert plan == {
        "first": [],
        "each@a": ["first"],
        "each@b": ["first"],
        "last": ["each@a", "each@b"],
        "aside": ["each@b"],
    }
    for stage, upstream in plan.items():
        assert all(list(plan).index(name) < list(plan).index(stage) for name in upstream)

    dvc("repro", "-q")
    assert stages_to_run(pipeline) == {}
    (pipeline / "b.txt").unlink()
    # `first` and `each@a` are up to date: no task, and nobody waits for them.
    assert stages_to_run(pipeline) == {
        "each@b": [],
        "last": ["each@b"],
        "aside": ["each@b"],
    }


def test_an_unchanged_pipeline_does_not_start_prefect(pipeline: Path) -> None:
    dvc("repro", "-q")
    ended = flow()
    assert (ended.returncode, ended.stdout) == (0, "Data and pipelines are up to date.\n")
    assert not (pipeline / ".prefect").exists()


def test_a_failing_stage_fails_what_depends_on_it_and_nothing_else(pipeline: Path) -> None:
    (pipeline / "dvc.yaml").write_text(PIPELINE % "never-${item}" + "# each@a and each@b fail\n")
    (pipeline / "never-b.txt").write_text("each@b does not")
    ended = flow()
    assert ended.returncode != 0
    assert "not completed: each@a, last." in ended.stderr
    made = {file.name for file in pipeline.glob("*.txt")} - {"in.txt", "never-b.txt"}
    assert {"first.txt", "b.txt", "aside.txt"} <= made
    assert "last.txt" not in made
    assert (pipeline / ".prefect").is_dir(), "Prefect keeps its things inside the repository"
    assert list(stages_to_run(pipeline)) == ["each@a", "last"]


def test_help_and_errors_are_a_paragraph(pipeline: Path) -> None:
    said = flow("--help").stdout
    assert "usage: python -m stages.flow" in said
    (pipeline / "dvc.yaml").write_text("stages: [")
    ended = flow()
    assert ended.returncode == 1
    assert ended.stderr.startswith("flow: DVC cannot read the pipeline")
    assert "Traceback" not in ended.stderr


def test_outside_a_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="DVC cannot read"):
        stages_to_run(tmp_path)

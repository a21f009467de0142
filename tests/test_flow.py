"""The flow does what DVC's graph asks for, no more, and says what failed."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import stages
from stages.flow import settled, stages_to_run

TOP = Path(__file__).resolve().parents[1]
PIPELINE = """
stages:
  first: {cmd: cp in.txt first.txt, deps: [in.txt], outs: [first.txt]}
  each:
    foreach: [a, b]
    do:
      cmd: "cp first.txt ${item}.txt && cat %s.txt"
      deps: [first.txt]
      outs: ["${item}.txt"]
      meta: {gpu: true}
  last: {cmd: cat a.txt b.txt > last.txt, deps: [a.txt, b.txt], outs: [last.txt]}
  aside: {cmd: cp b.txt aside.txt, deps: [b.txt], outs: [aside.txt]}
"""
# Each line of what happened: a stage, its try, the graphics card it was given, begin and end.
STAGE = """
import os, signal, sys, time
from pathlib import Path

def wait_for(name):
    end = time.monotonic() + 60
    while not Path(name).exists():
        assert time.monotonic() < end, f"no {name}: the other one does not run beside this"
        time.sleep(0.05)

name, kind = sys.argv[1:]
tries = Path(f"tries-{name}")
tries.write_text((tries.read_text() if tries.exists() else "") + "x")
begin, again = time.time(), len(tries.read_text()) > 1
if kind == "meet":
    Path(f"met-{name}").touch()
    wait_for("met-left" if name == "right" else "met-right")
if kind == "slot":
    time.sleep(4)
if kind == "wrong" or (kind == "tempfail" and not again):
    sys.exit(os.EX_TEMPFAIL if kind == "tempfail" else 1)
if kind == "killed" and not again:
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "report":
    Path("reports/runs").mkdir(parents=True, exist_ok=True)
    Path("reports/runs/report.json").write_text(Path("record.json").read_text())
    Path("reports/index.html").write_text("the page")
else:
    Path(f"{name}.txt").write_text(name)
with open("happened", "a") as file:
    file.write(f"{name} {os.environ['CUDA_VISIBLE_DEVICES']} {begin} {time.time()}\\n")
"""
RECORD = """{"run_id": "5eed", "experiment_id": "7", "tracking_uri": "https://ml.example.org",
"wall_s": 2.5, "peak_memory_mb": 300, "commit": "0123456789", "metrics": {"loss": 0.25, "n": null}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DVC repository to be in."""
    for name in ("DVC_ROOT", "TECHLOOP_DEVICES", "PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.chdir(tmp_path)
    dvc("init", "--no-scm", "-q")
    return tmp_path


@pytest.fixture
def pipeline(folder: Path) -> Path:
    """first -> each@a, each@b -> last; each@b -> aside."""
    (folder / "in.txt").write_text("1")
    (folder / "dvc.yaml").write_text(PIPELINE % "${item}")
    return folder


def dvc(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def flow(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.flow", *arguments]
    environment = os.environ | {"PYTHONPATH": str(TOP)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_plan_is_what_changed_and_what_follows_from_it(pipeline: Path) -> None:
    plan = stages_to_run(pipeline)
    assert plan == {
        "first": ([], False),
        "each@a": (["first"], True),
        "each@b": (["first"], True),
        "last": (["each@a", "each@b"], False),
        "aside": (["each@b"], False),
    }
    for stage, (after, _) in plan.items():
        assert all(list(plan).index(name) < list(plan).index(stage) for name in after)

    dvc("repro", "-q")
    assert stages_to_run(pipeline) == {}
    (pipeline / "b.txt").unlink()
    # `first` and `each@a` are up to date: no task, and nobody waits for them.
    assert stages_to_run(pipeline) == {
        "each@b": ([], True),
        "last": (["each@b"], False),
        "aside": (["each@b"], False),
    }


def test_another_pipeline_of_the_repository_is_left_alone(pipeline: Path) -> None:
    (pipeline / "study").mkdir()
    (pipeline / "study" / "dvc.yaml").write_text(
        "stages: {more: {cmd: cp ../a.txt more.txt, deps: [../a.txt], outs: [more.txt]}}"
    )
    assert len(stages_to_run(pipeline)) == 5
    dvc("repro", "-q", "dvc.yaml")
    assert stages_to_run(pipeline) == {}


def test_what_dvc_has_is_settled_without_running_anything(
    pipeline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def written() -> dict[str, str]:
        return {file.name: file.read_text() for file in pipeline.glob("*.txt")}

    assert not settled("first"), "nothing has run yet"
    dvc("repro", "-q")
    assert settled("first")
    was, lock = written(), (pipeline / "dvc.lock").read_text()
    (pipeline / "in.txt").write_text("2")
    assert not settled("first"), "new to DVC"
    assert (pipeline / "dvc.lock").read_text() == lock
    dvc("repro", "-q")

    (pipeline / "in.txt").write_text("1")
    now = written()
    assert settled("first"), "the run cache has it"
    assert written() == now | {"first.txt": "1"}
    assert all(settled(stage) for stage in ("each@a", "each@b", "last", "aside"))
    assert written() == was
    assert (pipeline / "dvc.lock").read_text() == lock
    assert stages_to_run(pipeline) == {}
    (pipeline / "last.txt").unlink()
    assert settled("last"), "deleted, and still in the cache"
    assert written() == was
    assert not settled("nonsense")
    assert capfd.readouterr() == ("", "")


def test_an_unchanged_pipeline_does_not_start_prefect(pipeline: Path) -> None:
    dvc("repro", "-q")
    ended = flow()
    assert (ended.returncode, ended.stdout) == (0, "Data and pipelines are up to date.\n")
    assert not (pipeline / ".prefect").exists()


@pytest.fixture
def busy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each kind of stage; all but `same`, `wrong` and what comes after can be made."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    (folder / "stage.py").write_text(STAGE)
    (folder / "record.json").write_text(RECORD)
    (folder / "in.txt").write_text("1")
    kinds = {
        **{f"slot{i}": "slot" for i in range(4)},
        **{"left": "meet", "right": "meet", "late": "tempfail", "shot": "killed"},
        **{"wrong": "wrong", "locked": "plain"},
    }
    described = ["stages:", "  upper: {cmd: cat in.txt > u.txt, deps: [in.txt], outs: [u.txt]}"]
    described += ["  same: {cmd: cp u.txt same.txt, deps: [u.txt], outs: [same.txt]}"]
    described += [
        f"  {name}: {{cmd: python stage.py {name} {kind}, deps: [stage.py], outs: [{name}.txt],"
        f" meta: {{gpu: {str(kind == 'slot').lower()}}}}}"
        for name, kind in kinds.items()
    ]
    described += ["  after: {cmd: cp wrong.txt after.txt, deps: [wrong.txt], outs: [after.txt]}"]
    described += ["  report: {cmd: python stage.py report report, deps: [late.txt, shot.txt],"]
    described += ["           outs: [reports/index.html, reports/runs/report.json]}"]
    (folder / "dvc.yaml").write_text("\n".join(described))
    dvc("repro", "-q", "same")
    (folder / "dvc.yaml").write_text("\n".join(described).replace("cat in", "cat < in"))
    return folder


@pytest.mark.ci
def test_a_flow_from_end_to_end(busy: Path) -> None:
    # Another DVC that reads what the stage `locked` is to write, until it is killed below.
    (busy / "locked.txt").write_text("by hand")
    other = subprocess.Popen(["sleep", "200"])
    reads = f'{{"{busy}/locked.txt": [{{"pid": {other.pid}, "cmd": "dvc status"}}]}}'
    (busy / ".dvc" / "tmp" / "rwlock").write_text(f'{{"read": {reads}}}')
    command = [sys.executable, "-m", "stages.flow", "--slots", "2"]
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        lines = []
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if "it is being blocked by" in line:
                other.kill()
                other.wait()
    other.kill()
    said = "".join(lines)

    # What failed, what that took with it, and nothing else.
    assert process.returncode == 1
    assert "flow: not completed: wrong, after. " in said, said
    assert "Traceback" not in said
    assert set(stages_to_run(busy)) == {"wrong", "after"}
    assert (busy / ".prefect").is_dir(), "Prefect keeps its things inside the repository"

    # Again only where that may help.
    tries = {file.name[6:]: len(file.read_text()) for file in busy.glob("tries-*")}
    assert (tries["late"], tries["shot"], tries["wrong"], tries["left"]) == (2, 2, 1, 1)
    assert "it is being blocked by" in said
    assert tries["locked"] == 1, "the first one did not come so far"

    # Two with a model at a time, each with a card of its own; the two that waited for one another
    # met, or they would have failed.
    rows = [line.split() for line in (busy / "happened").read_text().splitlines()]
    slots = [(float(a), float(b), card) for name, card, a, b in rows if name.startswith("slot")]
    assert len(slots) == 4
    beside = [[o[2] for o in slots if o[0] < end and o[1] > begin] for begin, end, _ in slots]
    for begin, _, _ in slots:
        cards = [card for a, b, card in slots if a <= begin < b]
        assert sorted(cards) in (["3"], ["5"], ["3", "5"])
    assert any(len(cards) > 1 for cards in beside)
    assert {card for name, card, *_ in rows if name == "left"} == {"3,5"}

    # `upper` ran and wrote what was there before, so that `same` was no process.
    assert "Task run 'upper' - Running stage 'upper'" in said
    assert "Task run 'same' - Up to date" in said
    assert "didn't change" not in said

    # What Prefect was told.
    with sqlite3.connect(busy / ".prefect" / "prefect.db") as database:
        told = dict(database.execute("select key, data from artifact"))
    assert "[`5eed`](https://ml.example.org/#/experiments/7/runs/5eed)" in told["report"]
    assert "| loss | 0.25 |" in told["report"]
    assert (busy / "reports" / "index.html").as_uri() in told["page"]


def test_help_and_errors_are_a_paragraph(pipeline: Path) -> None:
    said = flow("--help").stdout
    assert "usage: python -m stages.flow" in said
    assert "--slots 0: at least one" in flow("--slots", "0").stderr
    (pipeline / "dvc.yaml").write_text("stages: [")
    ended = flow()
    assert ended.returncode == 1
    assert ended.stderr.startswith("flow: DVC cannot read the pipeline")
    assert "Traceback" not in ended.stderr


def test_outside_a_repository_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="DVC cannot read"):
        stages_to_run(tmp_path)


@pytest.mark.parametrize(
    ("code", "said", "passing"),
    [
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m y, exited with 75", True),
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m y, exited with -9", True),
        (255, "ERROR: failed to reproduce 'x': failed to run: a && b, exited with 137", True),
        (-9, "Running stage 'x':", True),
        (255, "ERROR: Unable to acquire lock. Most likely another DVC process is running", True),
        (255, "ERROR: 'a.txt' is busy, it is being blocked by:\n  (PID 3): dvc status", True),
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m y, exited with 1", False),
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m y, exited with 255", False),
        (255, "ERROR: failed to reproduce 'x': failed to run: python -m y, exited with -2", False),
        (255, "worker exited with -9\nERROR: failed to run: python -m y, exited with 1", False),
        (-2, "", False),
        (255, "ERROR: failed to reproduce 'x': output 'a' does not exist", False),
    ],
)
def test_only_what_may_pass_is_tried_again(code: int, said: str, passing: bool) -> None:
    from stages.scheduled import is_passing

    assert is_passing(code, said) == passing


def test_a_flow_that_is_stopped_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.scheduled import Machine

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine = Machine(None)
    # As DVC does, the first one waits for what it started.
    script = textwrap.dedent("""
        import signal, subprocess
        child = subprocess.Popen(["sleep", "60"])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("begun", flush=True)
        print(child.wait(), flush=True)
    """)
    begin = time.monotonic()
    with machine.process([sys.executable, "-c", script], dict(os.environ)) as process:
        assert process.stdout.readline() == b"begun\n"
        machine.stop()
        assert int(process.stdout.readline()) == -signal.SIGINT
    with machine.process(["sleep", "60"], dict(os.environ)) as process:
        pass
    assert process.returncode == -signal.SIGINT
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    ("named", "together", "slots", "given"),
    [
        ("", "", None, [None]),
        ("", "2", 2, [None] * 2),
        ("3,5", "", None, ["3", "5"]),
        ("3,5", "auto", 1, ["3"]),
        ("3", "1", 2, ["3", "3"]),
        ("0,1,2,3,4", "2", None, ["0,1", "2,3"]),
        ("0,1", "4", None, [None]),  # it has both, and the training says that it wants four
    ],
)
def test_slots_and_cards(
    monkeypatch: pytest.MonkeyPatch,
    named: str,
    together: str,
    slots: int | None,
    given: list[str | None],
) -> None:
    from stages.scheduled import Machine

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setenv("TECHLOOP_DEVICES", together)
    machine = Machine(slots)
    with ExitStack() as held:
        found = [held.enter_context(machine.slot(True)) for _ in given]
        assert sorted((e.get("CUDA_VISIBLE_DEVICES") for e in found), key=str) == given
        assert machine._free.empty(), "one more would have to wait"
        assert held.enter_context(machine.slot(False)) == {}
    assert machine._free.qsize() == len(given)


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        ("raise ConnectionRefusedError('no server')", os.EX_TEMPFAIL),
        ("raise TimeoutError('no answer')", os.EX_TEMPFAIL),
        ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", os.EX_TEMPFAIL),
        ("raise OSError(28, 'No space left on device')", "No space left"),
        ("raise ValueError('a mistake')", "a mistake"),
    ],
)
def test_a_stage_says_whether_it_may_pass(
    raised: str,
    code: int | str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def main() -> None:
        exec(raised)

    monkeypatch.setattr(sys, "argv", ["stages/some.py"])
    with pytest.raises(SystemExit) as ended:
        stages.run_stage(main)
    if isinstance(code, int):
        assert ended.value.code == code
        assert capsys.readouterr().err.startswith("some: ")
    else:
        assert code in str(ended.value.code)  # a message: printed, and 1


def test_where_another_process_of_a_training_ended_it_may_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]")

    monkeypatch.setattr(sys, "argv", ["stages/some.py"])
    with pytest.raises(SystemExit) as ended:
        stages.run_stage(main)
    assert ended.value.code == os.EX_TEMPFAIL
    assert "closed by peer" in capsys.readouterr().err

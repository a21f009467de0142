"""The flow runs what DVC's graph asks for, nothing else, and reports what failed."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import stages
from techloop.pipeline.plan import stages_to_run, stale_stages
from techloop.pipeline.status import VARIABLE, Outcome, Status, is_transient, read_status

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
# Each line of `happened`: a stage, the GPUs it was given, begin and end.
STAGE = """
import os, signal, sys, time
from pathlib import Path
from stages import run_stage

def wait_for(name):
    end = time.monotonic() + 60
    while not Path(name).exists():
        assert time.monotonic() < end, f"no {name}: the other one does not run beside this"
        time.sleep(0.05)

def main(name, kind):
    tries = Path(f"tries-{name}")
    tries.write_text((tries.read_text() if tries.exists() else "") + "x")
    begin, again = time.time(), len(tries.read_text()) > 1
    if kind == "meet":
        Path(f"met-{name}").touch()
        wait_for("met-left" if name == "right" else "met-right")
    if kind == "slot":
        time.sleep(4)
    if kind == "wrong":
        raise ValueError("a mistake in params.yaml")
    if kind == "offline" and not again:
        raise ConnectionRefusedError("no server")
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

run_stage(main)
"""
RECORD = """{"stage": "report", "run_id": "5eed", "experiment_id": "7", "tracking_uri": "https://ml.example.org",
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


def test_what_dvc_calls_stale_is_stale(pipeline: Path) -> None:
    assert stale_stages(pipeline) == {"first", "each@a", "each@b", "last", "aside"}
    dvc("repro", "-q")
    assert stale_stages(pipeline) == set()
    (pipeline / "in.txt").write_text("2")
    assert stale_stages(pipeline) == {"first"}, "what follows is unchanged so far"
    (pipeline / "in.txt").write_text("1")
    text = (pipeline / "dvc.yaml").read_text()
    (pipeline / "dvc.yaml").write_text(text.replace("cat a.txt b.txt", "cat b.txt a.txt"))
    assert stale_stages(pipeline) == {"last"}, "another command"


def test_an_unchanged_pipeline_does_not_start_prefect(pipeline: Path) -> None:
    dvc("repro", "-q")
    ended = flow()
    assert (ended.returncode, ended.stdout) == (0, "Data and pipelines are up to date.\n")
    assert not (pipeline / ".prefect").exists()


@pytest.fixture
def busy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each kind of stage; all but `wrong` and the stage after it can be made."""
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    (folder / "stage.py").write_text(STAGE)
    (folder / "record.json").write_text(RECORD)
    (folder / "in.txt").write_text("1")
    kinds = {
        **{f"slot{i}": "slot" for i in range(4)},
        **{"left": "meet", "right": "meet", "late": "offline", "shot": "killed"},
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
    output = "".join(lines)

    # What failed, the stage that reads its output, and nothing else.
    assert process.returncode == 1
    assert "flow: not completed: wrong, after. " in output, output
    assert "Traceback" not in output
    assert set(stages_to_run(busy)) == {"wrong", "after"}
    assert (busy / ".prefect").is_dir(), "Prefect keeps its things inside the repository"

    # A retry only where it may help.
    tries = {file.name[6:]: len(file.read_text()) for file in busy.glob("tries-*")}
    assert (tries["late"], tries["shot"], tries["wrong"], tries["left"]) == (2, 2, 1, 1)
    assert "it is being blocked by" in output
    assert tries["locked"] == 1, "DVC did not start the first one"

    # Two with a model at a time, each with a GPU of its own; the two that waited for one another
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

    # `upper` ran and wrote what was there before, so DVC found `same` up to date.
    assert "Task run 'upper' - Running stage 'upper'" in output
    assert "Running stage 'same'" not in output
    assert "Task run 'same' - Up to date" in output

    # Prefect's artifacts.
    with sqlite3.connect(busy / ".prefect" / "prefect.db") as database:
        artifacts = dict(database.execute("select key, data from artifact"))
    assert "[`5eed`](https://ml.example.org/#/experiments/7/runs/5eed)" in artifacts["report"]
    assert "| loss | 0.25 |" in artifacts["report"]
    assert (busy / "reports" / "index.html").as_uri() in artifacts["page"]


def test_help_and_errors_are_a_paragraph(pipeline: Path) -> None:
    output = flow("--help").stdout
    assert "usage: python -m stages.flow" in output
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
    ("status", "exit_code", "again"),
    [
        (Status(Outcome.TRANSIENT, os.EX_TEMPFAIL), 255, True),
        (Status(Outcome.TRANSIENT, 128 + signal.SIGTERM), 255, True),
        (Status(Outcome.RUNNING), 255, True),  # killed: it could not write more
        (None, 255, True),  # DVC did not start it
        (None, -signal.SIGKILL, True),
        (Status(Outcome.ERROR, 1), 255, False),
        (Status(Outcome.ERROR, 1), -signal.SIGKILL, False),
        (Status(Outcome.INTERRUPTED, 130), 255, False),
        (Status(Outcome.OK), 255, False),  # DVC refuses its outputs
        (Status(Outcome.OK), -signal.SIGKILL, True),  # DVC was killed while it saved the outputs
        (Status(Outcome.OK), -signal.SIGTERM, True),
        (Status(Outcome.OK), -signal.SIGINT, False),
    ],
)
def test_only_a_transient_end_is_retried(
    status: Status | None, exit_code: int, again: bool
) -> None:
    assert is_transient(status, exit_code) == again


def test_a_flow_that_is_stopped_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    from techloop.pipeline.slots import SlotPool

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pool = SlotPool(None)
    # As DVC does, the parent waits for its child.
    script = textwrap.dedent("""
        import signal, subprocess
        child = subprocess.Popen(["sleep", "60"])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("begun", flush=True)
        print(child.wait(), flush=True)
    """)
    begin = time.monotonic()
    with pool.process([sys.executable, "-c", script], dict(os.environ)) as process:
        assert process.stdout.readline() == b"begun\n"
        pool.stop()
        assert int(process.stdout.readline()) == -signal.SIGINT
    with pool.process(["sleep", "60"], dict(os.environ)) as process:
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
    from techloop.pipeline.slots import SlotPool

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setenv("TECHLOOP_DEVICES", together)
    pool = SlotPool(slots)
    one_more = threading.Event()

    def take_one_more() -> None:
        with pool.slot(True):
            one_more.set()

    waiting = threading.Thread(target=take_one_more, daemon=True)
    with ExitStack() as held:
        environments = [held.enter_context(pool.slot(True)) for _ in given]
        gpus = [environment.get("CUDA_VISIBLE_DEVICES") for environment in environments]
        assert sorted(gpus, key=str) == given
        waiting.start()
        assert not one_more.wait(0.1), "one more has to wait"
        assert held.enter_context(pool.slot(False)) == {}
    assert one_more.wait(10), "a slot is free again"


@pytest.fixture
def status_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stage that the flow started writes how it ended."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "status.json"))
    monkeypatch.setattr(sys, "argv", ["stages/some.py"])
    monkeypatch.setattr(stages, "exit_on_sigterm", lambda: None)
    return tmp_path / "status.json"


@pytest.mark.parametrize(
    ("raised", "end", "message"),
    [
        ("raise ConnectionRefusedError('no server')", (Outcome.TRANSIENT, 75), "no server"),
        ("raise TimeoutError('no answer')", (Outcome.TRANSIENT, 75), "no answer"),
        (
            "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
            (Outcome.TRANSIENT, 75),
            "run it again to resume",
        ),
        (
            "raise RuntimeError('[gloo/pair.cc] Connection closed by peer [127.0.0.1]')",
            (Outcome.TRANSIENT, 75),
            "closed by peer",
        ),
        ("raise OSError(28, 'No space left on device')", (Outcome.ERROR, 1), "No space left"),
        ("raise FileNotFoundError(2, 'No such file', 'x')", (Outcome.ERROR, 1), "No such file"),
        ("raise ValueError('a mistake')", (Outcome.ERROR, 1), "a mistake"),
    ],
)
def test_an_error_ends_a_stage_as_a_paragraph_and_the_flow_reads_how(
    status_file: Path,
    raised: str,
    end: tuple[Outcome, int],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        exec(raised)

    with pytest.raises(SystemExit) as ended:
        stages.run_stage(main)
    assert ended.value.code == end[1]
    assert read_status(status_file) == Status(*end)
    output = capsys.readouterr().err
    assert output.startswith("some: ")
    assert message in output


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (RuntimeError("a defect"), (Outcome.ERROR, 1)),
        (KeyboardInterrupt(), (Outcome.INTERRUPTED, 130)),
        (SystemExit(143), (Outcome.TRANSIENT, 143)),  # SIGTERM, see `exit_on_sigterm`
        (SystemExit("usage"), (Outcome.ERROR, 1)),
    ],
)
def test_other_ends_keep_their_traceback_and_the_flow_reads_how(
    status_file: Path, error: BaseException, end: tuple[Outcome, int]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(type(error)):
        stages.run_stage(main)
    assert read_status(status_file) == Status(*end)


def test_the_status_says_that_a_stage_runs_and_then_that_it_finished(status_file: Path) -> None:
    assert read_status(status_file) is None
    during = []
    stages.run_stage(lambda: during.append(read_status(status_file)))
    assert during == [Status(Outcome.RUNNING)]
    assert read_status(status_file) == Status(Outcome.OK)


def test_only_rank_zero_writes_the_status_and_the_others_wait_for_it(
    status_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        raise ValueError("a mistake")

    waited: list[float] = []
    monkeypatch.setattr(stages.time, "sleep", waited.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit):
        stages.run_stage(main)
    assert not status_file.exists()
    assert waited == [stages.RANK0_GRACE_S]


def test_arguments_that_do_not_fit_are_a_usage_error(
    status_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/some.py", "kl", "more"])
    with pytest.raises(SystemExit) as ended:
        stages.run_stage(lambda cell: None)
    assert ended.value.code == "usage: python -m stages.some CELL"
    assert read_status(status_file) == Status(Outcome.ERROR, 1)

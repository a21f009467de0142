"""Runs are recorded, in the repository or where the environment says, and failures as such."""

import contextlib
import importlib.metadata
import math
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import torch
from filelock import FileLock
from pydantic import BaseModel
from ruamel.yaml import YAML

from techloop.artifacts import fingerprint, read_json, write_json
from techloop.tracking.run import deliver, git_state, repository_root, shown_address, track
from tests.helpers.params import ROOT, free_port, small_params


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".dvc").mkdir()
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(root: Path, query: str) -> list[tuple]:
    connection = sqlite3.connect(root / "mlflow.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def runs(root: Path, kind: str) -> list[tuple]:
    """Name and status of the runs whose name begins so, oldest first."""
    query = f"select name, status from runs where name like '{kind}%' order by start_time, name"
    return rows(root, query)


def parents_of(root: Path, run_id: str) -> list[str]:
    query = "select value from tags where key = 'mlflow.parentRunId' and run_uuid = "
    return [value for (value,) in rows(root, f"{query}'{run_id}'")]


def write_params(root: Path, seed: int) -> None:
    YAML().dump(small_params().model_dump() | {"seed": seed}, root / "params.yaml")


def record(root: Path, stage: str) -> dict:
    return read_json(root / "reports" / "runs" / f"{stage}.json")


class Size(BaseModel):
    channels: int


class Section(BaseModel):
    model: Size
    name: str


def test_a_run_keeps_parameters_metrics_artifacts_and_cost(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "x.txt").write_text("a")
    model = root / "model"
    model.mkdir()
    (model / "weights").write_text("w")

    with track("train@kl", Section(model=Size(channels=3), name="x"), ["data"]) as run:
        run.log({"loss": 2.0, "nan": math.nan, "up": math.inf, "R² (probe)": 0.5}, step=10)
        run.log({"loss": 1.0}, step=20)
        run.artifacts(model)
        run.artifacts("data/x.txt")

    assert set(rows(root, "select key, value from params")) == {
        ("model.channels", "3"),
        ("name", "x"),
    }
    loss = rows(root, "select step, value from metrics where key = 'loss' order by step")
    assert loss == [(10, 2.0), (20, 1.0)]
    assert rows(root, "select is_nan from metrics where key = 'nan'") == [(1,)]
    assert rows(root, "select value > 1e300 from metrics where key = 'up'") == [(1,)]
    assert rows(root, "select value from metrics where key = 'R_ _probe_'") == [(0.5,)]
    assert rows(root, "select run_uuid, name, status from runs where name like 'train%'") == [
        (run.id, "train@kl", "FINISHED")
    ]
    artifacts = root / "mlruns" / run.id / "artifacts"
    assert (artifacts / "model" / "weights").read_text() == "w"
    assert (artifacts / "x.txt").read_text() == "a"

    made = record(root, "train@kl")
    assert made["run_id"] == run.id
    assert made["tracking_uri"] == "sqlite:///mlflow.db"
    assert made["params"] == {"model": {"channels": 3}, "name": "x"}
    assert made["inputs"] == {"data": fingerprint("data")}
    # What a number may depend on besides code and data.
    tags = dict(rows(root, f"select key, value from tags where run_uuid = '{run.id}'"))
    assert made["threads"] == tags["threads"] == str(torch.get_num_threads())
    assert tags["platform"] == platform.platform()
    assert tags["version.torch"] == importlib.metadata.version("torch")
    if Path("/proc/cpuinfo").exists():
        known = Path("/proc/cpuinfo").read_text()
        assert tags["cpu"] in known
        assert tags["cpu.flags"] in known
    assert made["wall_s"] > 0
    assert 20 < made["peak_memory_mb"] < 20_000
    assert str(root) not in (root / "reports" / "runs" / "train@kl.json").read_text()
    assert {"wall_s", "peak_memory_mb"} < {k for (k,) in rows(root, "select key from metrics")}


def test_an_error_fails_the_run_keeps_its_metrics_and_leaves_no_record(root: Path) -> None:
    def fail() -> None:
        with track("stage", {}) as run:
            run.log({"loss": 1.0}, step=1)
            raise RuntimeError("burst")

    with pytest.raises(RuntimeError, match="burst"):
        fail()
    assert runs(root, "stage") == [("stage", "FAILED")]
    assert rows(root, "select value from metrics where key = 'loss'") == [(1.0,)]
    assert rows(root, "select value from tags where key = 'error'") == [("RuntimeError: burst",)]
    assert not (root / "reports").exists()

    with pytest.raises(KeyboardInterrupt), track("stage", {}) as run:
        raise KeyboardInterrupt
    assert rows(root, f"select status from runs where run_uuid = '{run.id}'") == [("KILLED",)]


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_of_several_processes_the_first_alone_is_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with track("stage", {}) as run:
        run.log({"loss": 1.0}, step=1)
        run.artifacts(root)
    assert {p.name for p in root.iterdir()} == {".dvc"}
    monkeypatch.setenv(name, "0")
    with track("stage", {}):
        pass
    assert runs(root, "stage") == [("stage", "FINISHED")]


def test_a_stage_that_is_told_to_end_tells_its_run(root: Path) -> None:
    script = (
        "import time\nfrom stages import run_stage\nfrom techloop.tracking.run import track\n"
        "def main():\n with track('stage', {}):\n  print('begun', flush=True)\n  time.sleep(60)\n"
        "run_stage(main)"
    )
    (root / "stage.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "stage.py"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert runs(root, "stage") == [("stage", "KILLED")]


def test_memory_of_processes_it_starts_counts(root: Path) -> None:
    hungry = "import time; x = b'1' * 700_000_000; time.sleep(1.6)"
    with track("alone", {}):
        pass
    with track("together", {}):
        subprocess.run([sys.executable, "-c", hungry], check=True)
    peaks = [
        read_json(root / "reports" / "runs" / f"{name}.json")["peak_memory_mb"]
        for name in ("alone", "together")
    ]
    assert peaks[1] > 700
    assert peaks[1] > peaks[0] + 100


def test_the_environment_chooses_the_address(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    monkeypatch.setenv("DVC_ROOT", str(root / "top"))
    (root / "top").mkdir()
    with track("stage", {}):
        pass
    assert elsewhere.exists()
    assert not (root / "mlflow.db").exists()
    assert not (root / "top" / "mlflow.db").exists()
    made = record(root / "top", "stage")
    assert made["tracking_uri"] == "sqlite"


def test_many_processes_share_a_fresh_database(root: Path) -> None:
    script = (
        "import sys\nfrom techloop.tracking.run import track\n"
        "with track(f'stage-{sys.argv[1]}', {'n': sys.argv[1]}) as run:\n"
        "    for step in range(20): run.log({'loss': 1.0}, step)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(n)], cwd=root, stderr=subprocess.PIPE)
        for n in range(3)
    ]
    said = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert said == ["", "", ""], "a run is quiet"
    assert rows(root, "select count(*) from runs where status = 'FINISHED'") == [(4,)]
    assert rows(root, "select count(*) from metrics where key = 'loss'") == [(60,)]
    assert rows(root, "select count(*) from experiments where name = 'techloop'") == [(1,)]
    of_all = "select count(*), count(distinct value) from tags where key = 'mlflow.parentRunId'"
    assert rows(root, of_all) == [(3, 1)]
    assert runs(root, "pipeline") == [("pipeline unknown-44136f", "FINISHED")]


def test_a_card_speaks_for_its_folder(root: Path) -> None:
    write_json(root / "loops" / "card.json", {"fingerprint": "0123456789abcdef"})
    with track("stage", {}, [root / "loops"]):
        pass
    made = record(root, "stage")
    assert made["inputs"] == {"loops": "0123456789abcdef"}


def test_bad_input_is_refused_before_a_run_begins(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="dvc repro"), track("stage", {}, ["absent"]):
        pass
    assert not (root / "mlflow.db").exists()
    (root / ".dvc").rmdir()
    with pytest.raises(ValueError, match="in no DVC repository"):
        repository_root()
    monkeypatch.setenv("DVC_ROOT", str(root))
    assert repository_root() == root


def test_an_artifact_that_is_not_there_fails_the_run(root: Path) -> None:
    with pytest.raises(ValueError, match="is not there"), track("stage", {}) as run:
        run.artifacts("absent")


def test_git_state(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_state(root) == ("unknown", False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (root / "a.py").write_text("1")
    (root / "dvc.lock").write_text("1")

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    assert git_state(root) == ("unknown", False)
    git("add", ".")
    git("commit", "-qm", "one")
    assert git_state(root) == (git("rev-parse", "HEAD").strip(), False)
    (root / "dvc.lock").write_text("2")
    (root / "study").mkdir()
    (root / "study" / "dvc.lock").write_text("1")
    assert not git_state(root)[1]
    (root / "a.py").write_text("2")
    assert git_state(root)[1]
    monkeypatch.setenv("PATH", str(root))
    assert git_state(root) == ("unknown", False)


def test_metrics_are_sent_together_and_all_arrive(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training step must hardly wait: it does for one call in 25, with four metrics each."""
    from mlflow import MlflowClient

    monkeypatch.setattr("techloop.tracking.run.SEND_EVERY_S", math.inf)
    send, sent = MlflowClient.log_batch, []
    monkeypatch.setattr(
        MlflowClient, "log_batch", lambda *a, **k: (sent.append(1), send(*a, **k))[1]
    )
    with track("stage", {}) as run:
        sent.clear()
        for step in range(110):
            run.log(dict.fromkeys("abcd", 1.0), step)
        assert len(sent) == 4
    assert rows(root, "select count(*) from metrics where key in ('a', 'd')") == [(220,)]


def test_stages_of_one_state_share_a_parent_and_of_another_have_their_own(root: Path) -> None:
    write_params(root, 0)
    with track("prepare", {}) as run:
        run.log({"loss": 3.0}, step=5)
        run.log({"loops": 7.0, "weak_loops": 3.0, "kl_dim_00": 1.0, "split/test": math.nan})
    with track("train@kl", {}):
        pass
    first = record(root, "prepare")["parent_run_id"]
    assert parents_of(root, run.id) == [first]
    assert record(root, "train@kl")["parent_run_id"] == first
    told = dict(rows(root, f"select key, value from params where run_uuid = '{first}'"))
    assert told["seed"] == "0"
    assert told["train_audio_vae.cells.kl.regulariser"] == "kl"
    kept = dict(rows(root, f"select key, value from metrics where run_uuid = '{first}'"))
    assert {k for k in kept if not k.endswith(("/wall_s", "/peak_memory_mb"))} == {"prepare/loops"}
    assert kept["prepare/loops"] == 7
    assert {"prepare/wall_s", "train/kl/wall_s"} < set(kept)

    (root / "params.yaml").write_text("# A remark.\n" + (root / "params.yaml").read_text())
    with track("prepare", {}):
        pass
    assert record(root, "prepare")["parent_run_id"] == first, "a remark is no setting"
    write_params(root, 1)
    with track("train@kl", {}):
        pass
    assert record(root, "train@kl")["parent_run_id"] != first
    with track("study@kl-1", {}) as run:
        run.log({"coverage": 1.0})
    study = record(root, "study@kl-1")["parent_run_id"]
    assert rows(root, f"select name from runs where run_uuid = '{study}'")[0][0].startswith("study")
    assert rows(root, f"select count(*) from metrics where run_uuid = '{study}'") == [(0,)]
    assert len({name for name, _ in runs(root, "pipeline")}) == 2


def test_what_the_cache_gave_is_noted_with_the_parent(root: Path) -> None:
    write_params(root, 0)
    for stage in ("prepare", "train@kl"):
        with track(stage, {}) as run:
            run.log({"loops": 7.0, "nan": math.nan})
    cached = record(root, "prepare")["run_id"]
    write_params(root, 1)
    write_json(root / "reports" / "runs" / "from-before.json", {"run_id": "0" * 32})
    (root / "reports" / "runs" / "damaged.json").write_text("{")
    with track("train@kl", {}) as run:
        run.log({"loops": 8.0})
    before = ["prepare", "train@kl", "absent", "damaged", "from-before"]
    with track("report", {}, collects=before) as run:
        run.artifacts("params.yaml")
    parent = record(root, "report")["parent_run_id"]
    for keeper in (run.id, parent):
        assert (root / "mlruns" / keeper / "artifacts" / "params.yaml").is_file()
    tags = f"select key, value from tags where key like 'cached%' and run_uuid = '{parent}'"
    assert set(rows(root, tags)) == {("cached.prepare", cached), ("cached.from-before", "0" * 32)}
    metrics = f"select key, value from metrics where key like '%/loops' and run_uuid = '{parent}'"
    assert set(rows(root, metrics)) == {("prepare/loops", 7.0), ("train/kl/loops", 8.0)}

    with track("prepare", {}):
        pass
    assert rows(root, tags) == [("cached.from-before", "0" * 32)], "it has run now"


def test_the_parent_is_as_its_stages_are(root: Path) -> None:
    def status() -> str:
        [(_, found)] = runs(root, "pipeline")
        return found

    with track("long", {}):
        assert status() == "RUNNING"
        with track("short", {}):
            pass
        assert status() == "RUNNING", "another stage is still at work"
    assert status() == "FINISHED"
    with pytest.raises(RuntimeError), track("short", {}):
        raise RuntimeError
    assert status() == "FAILED"
    with pytest.raises(KeyboardInterrupt), track("short", {}):
        raise KeyboardInterrupt
    assert status() == "KILLED"

    cut_off = (
        "import os\nfrom techloop.tracking.run import track\nwith track('long', {}): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", cut_off], cwd=root, check=False)
    with track("short", {}):
        pass
    assert status() == "RUNNING", "for all that anyone knows"
    with track("long", {}):
        pass
    assert status() == "FINISHED"
    assert runs(root, "long") == [("long", "FINISHED"), ("long", "FINISHED")], "it was gone on with"


def test_a_deleted_parent_is_made_anew(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    with track("prepare", {}):
        pass
    first = record(root, "prepare")["parent_run_id"]
    client.delete_run(first)
    with track("train", {}) as run:
        [second] = parents_of(root, run.id)
        client.delete_run(second)
    third = record(root, "train")["parent_run_id"]
    assert len({first, second, third}) == 3
    assert parents_of(root, run.id) == [third]
    assert rows(root, f"select status from runs where run_uuid = '{third}'") == [("FINISHED",)]


class Server:
    """An MLflow server on loopback, that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        store = ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        files = ["--artifacts-destination", str(self.folder / "artifacts")]
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "server", *store, *files, *place]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.address}/health", timeout=1).ok:
                    return
            time.sleep(0.2)
        raise TimeoutError((self.folder / "server.log").read_text())

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.mark.ci
def test_a_server_that_is_away_stops_no_stage_and_gets_everything_later(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setattr("techloop.tracking.run.TRY_AGAIN_S", 0.0)
    (root / "picture").write_text("p")

    def early() -> None:
        with track("early", {"size": 3}) as run:
            run.log({"loss": 2.0}, step=1)
            run.artifacts("picture")

    with pytest.warns(UserWarning, match="cannot be reached"):
        early()
    assert record(root, "early")["run_id"] == ""
    waiting = root / "mlruns" / "waiting"
    assert len(list(waiting.iterdir())) == 1

    monkeypatch.setattr("techloop.tracking.run.SEND_EVERY_S", 0.0)
    server.start()
    with track("long", {}) as run:
        assert not list(waiting.iterdir()), "the first is told as soon as the server is there"
        for step in range(10):
            run.log({"loss": 1.0}, step)
        server.stop()
        with pytest.warns(UserWarning, match="cannot be reached"):
            run.log({"loss": 1.0}, 10)
        assert list(waiting.iterdir()), "and kept on disk, should this process die too"
        server.start()
        for step in range(11, 20):
            run.log({"loss": 1.0}, step)
    assert not list(waiting.iterdir())

    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("techloop")
    found = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert {r.info.status for r in found.values()} == {"FINISHED"}
    early, long = found["early"].info.run_id, found["long"].info.run_id
    assert long == run.id == record(root, "long")["run_id"]
    assert found["early"].data.params == {"size": "3"}
    assert [file.path for file in client.list_artifacts(early)] == ["picture"]
    assert [m.step for m in client.get_metric_history(early, "loss")] == [1]
    steps = [m.step for m in client.get_metric_history(long, "loss")]
    assert sorted(steps) == list(range(20)), "no step is lost, and none is there twice"


def test_what_was_cut_off_while_the_server_was_away_is_told(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    script = (
        "import os\nfrom techloop import tracking\ntracking.SEND_EVERY_S = 0\n"
        "with tracking.track('cut', {}) as run:\n    run.log({'loss': 1.0}, 7)\n    os._exit(9)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=root, check=False)
    server.start()
    with track("next", {}):
        pass
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("techloop")
    found = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert found["cut"].info.status == "KILLED"
    assert [m.step for m in client.get_metric_history(found["cut"].info.run_id, "loss")] == [7]


def fail(told: dict) -> None:
    with track("train", told) as run:
        run.log({"loss": 2.0}, step=1)
        raise RuntimeError("burst")


def test_a_run_that_did_not_end_well_is_gone_on_with(root: Path) -> None:
    write_params(root, 0)
    with pytest.raises(RuntimeError):
        fail({"size": 3})
    write_params(root, 1)  # what another stage is told
    with track("train", {"size": 3}) as run:
        run.log({"loss": 1.0}, step=2)
    assert runs(root, "train") == [("train", "FINISHED")]
    assert rows(root, "select step from metrics where key = 'loss' order by step") == [(1,), (2,)]
    assert rows(root, "select count(*) from tags where key = 'error'") == [(0,)]
    assert [status for _, status in runs(root, "pipeline")] == ["KILLED", "FINISHED"]
    assert parents_of(root, run.id) == [record(root, "train")["parent_run_id"]]


@pytest.mark.parametrize("what", ["told", "checkout"])
def test_other_work_is_another_run(root: Path, what: str) -> None:
    with pytest.raises(RuntimeError):
        fail({"size": 3})
    if what == "checkout":  # one at the same path of another machine
        (root / "mlruns" / "checkout").unlink()
    with track("train", {"size": 4 if what == "told" else 3}):
        assert [status for _, status in runs(root, "train")] == ["FAILED", "RUNNING"]
    assert len(runs(root, "pipeline")) == (2 if what == "checkout" else 1)


def test_what_failed_without_the_server_is_told_before_it_is_gone_on_with(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.warns(UserWarning, match="cannot be reached"), pytest.raises(RuntimeError):
        fail({})
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with track("train", {}) as run:
        run.log({"loss": 1.0}, step=2)
        assert runs(root, "train") == [("train", "RUNNING")]
    assert rows(root, "select step from metrics where key = 'loss' order by step") == [(1,), (2,)]
    assert rows(root, "select count(*) from tags where key = 'error'") == [(0,)]


def test_what_was_made_without_the_server_is_found_when_the_cache_gives_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(root, 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.warns(UserWarning, match="cannot be reached"), track("train", {}) as run:
        run.log({"loss": 1.0})
    assert record(root, "train")["run_id"] == ""
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    write_params(root, 1)
    with track("report", {}, collects=["train"]):
        pass
    [(made,)] = rows(root, "select run_uuid from runs where name = 'train'")
    parent = record(root, "report")["parent_run_id"]
    cached = f"select value from tags where key = 'cached.train' and run_uuid = '{parent}'"
    assert rows(root, cached) == [(made,)]


def test_a_run_that_is_deleted_meanwhile_stops_no_stage(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")

    def train() -> None:
        with track("train", {}) as run:
            client.delete_run(run.id)
            run.log({"loss": 1.0}, step=1)
            run.tell()
            run.log({"loss": 1.0}, step=2)

    with pytest.warns(UserWarning, match="takes nothing more of this run"):
        train()
    assert record(root, "train")["metrics"]["wall_s"] >= 0
    with (
        pytest.warns(UserWarning, match="takes nothing more of this run"),
        track("next", {}) as run,
    ):
        run.log({"loss": 1.0})
    assert runs(root, "next") == [("next", "FINISHED")]


def test_an_experiment_that_was_deleted_comes_back(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    with track("train", {}) as run:
        run.log({"loss": 1.0}, step=2)
    assert record(root, "train")["metrics"]["wall_s"] >= 0
    client.delete_experiment(run.experiment_id)
    with track("next", {}) as run:
        run.log({"loss": 1.0})
    assert runs(root, "next") == [("next", "FINISHED")]
    found = client.get_experiment_by_name("techloop")
    assert found
    assert found.lifecycle_stage == "active"


@pytest.mark.ci
def test_a_team_on_a_fresh_server_loses_no_step_and_shares_a_parent(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes at once, then a stage that collects what they made: it names their runs."""
    from mlflow import MlflowClient

    server.start()
    address = server.address.replace("//", "//team:hunter2@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    write_params(root, 0)
    (root / "picture").write_text("p")
    script = (
        "import sys\nfrom techloop.tracking.run import track\n"
        "with track(f'stage@{sys.argv[1]}', {}) as run:\n"
        "    run.artifacts('picture')\n"
        "    for step in range(500): run.log({'loss': step / 2}, step)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(n)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(4)
    ]
    said = [process.communicate()[0] for process in processes]
    assert said == ["", "", "", ""], "a run is quiet, and above all of the password"

    client = MlflowClient(server.address)
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    found = client.search_runs([experiment.experiment_id])
    stages = {r.info.run_name: r for r in found if r.info.run_name.startswith("stage")}
    assert len(stages) == len(found) - 1 == 4
    assert len({r.data.tags["mlflow.parentRunId"] for r in stages.values()}) == 1
    assert {r.info.status for r in found} == {"FINISHED"}
    for run in stages.values():
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((m.step, m.value) for m in history) == [(n, n / 2) for n in range(500)]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["picture"]
    assert list((server.folder / "artifacts").rglob("picture")), "the server kept it, not we"

    write_params(root, 1)
    with track("report", {}, collects=list(stages)):
        pass
    parent = client.get_run(record(root, "report")["parent_run_id"])
    cached = {key: v for key, v in parent.data.tags.items() if key.startswith("cached.")}
    assert cached == {
        f"cached.{name.replace('@', '/')}": run.info.run_id for name, run in stages.items()
    }
    written = [file for file in root.rglob("*") if file.is_file()]
    assert [file for file in written if b"hunter2" in file.read_bytes()] == []


def test_no_password_is_told_when_a_stage_fails_without_its_server(root: Path) -> None:
    address = f"http://team:hunter2@127.0.0.1:{free_port()}"
    script = (
        "from techloop.tracking.run import track\n"
        "with track('stage', {}) as run:\n    run.log({'loss': 1.0}, 1)\n    raise OSError('burst')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=root,
        env=os.environ | {"MLFLOW_TRACKING_URI": address},
        capture_output=True,
        text=True,
    )
    assert "burst" in done.stderr
    assert "cannot be reached" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    [waiting] = (root / "mlruns" / "waiting").iterdir()
    assert "burst" in waiting.read_text()
    assert "hunter2" not in waiting.read_text()


@pytest.mark.parametrize(
    "address", ["htp://team:hunter2@host", "http://team:hun/ter2@host", "https://[::1", "host:5000"]
)
def test_what_is_no_address_is_refused_and_not_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ValueError, match="is no address") as refused, track("stage", {}):
        pass
    assert "hun" not in str(refused.value)


def test_an_address_is_shown_without_its_password() -> None:
    assert shown_address("https://team:hunter2@runs.example.org:8443/mlflow") == (
        "https://runs.example.org:8443/mlflow"
    )
    assert shown_address("postgresql://team:hunter2@db.example.org/runs") == "postgresql"


def test_a_database_that_is_away_stops_no_stage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # MLflow's own take 100 s
    (root / "folder").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'folder'}")
    with pytest.warns(UserWarning, match=r"cannot be reached.* \(OperationalError\)"):  # noqa: SIM117
        with track("stage", {}):
            pass
    assert len(list((root / "mlruns" / "waiting").iterdir())) == 1


def test_another_machine_may_be_quicker_to_make_the_experiment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    with track("first", {}):
        pass
    ask, asked = MlflowClient.get_experiment_by_name, []

    def late(client: MlflowClient, name: str) -> object:
        asked.append(name)
        return ask(client, name) if len(asked) > 1 else None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    with track("second", {}):
        pass
    assert len(asked) == 2
    assert record(root, "second")["experiment_id"] == record(root, "first")["experiment_id"]


def test_what_waits_is_delivered_once_and_keeps_no_other_run_from_its_work(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.warns(UserWarning, match="cannot be reached"), track("early", {}):
        pass
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    waiting = root / "mlruns" / "waiting"
    [journal] = waiting.iterdir()
    (waiting / "damaged.json").write_text("{")
    refused = read_json(journal) | {"run_id": "0" * 32}  # a run that somebody deleted
    write_json(waiting / "deleted.json", refused)

    with FileLock(root / "mlruns" / "waiting.lock"):
        deliver(root)  # another process is at it
    assert journal.exists()
    with pytest.warns(UserWarning, match="and stays") as warned, track("next", {}):
        pass
    said = "".join(str(warning.message) for warning in warned)
    assert said.count("damaged.json cannot be delivered") == 1
    assert said.count("takes nothing more of this run, which may be deleted (Run with id=0") == 1
    assert runs(root, "early") == [("early", "FINISHED")]
    assert runs(root, "next") == [("next", "FINISHED")]
    assert {file.name for file in waiting.iterdir()} == {"damaged.json", "deleted.json"}

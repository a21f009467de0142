"""Runs are recorded, in the repository or where the environment says, and failures as such."""

import importlib.metadata
import math
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel

from techloop.artifacts import fingerprint, read_json, write_json
from techloop.metric import Metric
from techloop.tracking import outbox
from techloop.tracking.address import repository_root, shown_address
from techloop.tracking.provenance import git_state
from techloop.tracking.run import track
from techloop.tracking.store import Row, Store
from tests.helpers.params import ROOT
from tests.helpers.tracking import (
    history,
    parent_of,
    record,
    statuses,
    stored,
    stored_runs,
    write_params,
)


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

    data = stored(root, run.id).data
    assert data.params == {"model.channels": "3", "name": "x"}
    assert history(root, run.id, "loss") == [(10, 2.0), (20, 1.0)]
    assert math.isnan(data.metrics["nan"])
    assert 1e300 < data.metrics["up"] < math.inf
    assert data.metrics["R_ _probe_"] == 0.5
    assert statuses(root, "train") == [("train@kl", "FINISHED")]
    artifacts = root / "mlruns" / run.id / "artifacts"
    assert (artifacts / "model" / "weights").read_text() == "w"
    assert (artifacts / "x.txt").read_text() == "a"

    entry = record(root, "train@kl")
    assert entry["run_id"] == run.id
    assert entry["tracking_uri"] == "sqlite:///mlflow.db"
    assert entry["params"] == {"model": {"channels": 3}, "name": "x"}
    assert entry["inputs"] == {"data": fingerprint("data")}
    # What a number may depend on besides code and data.
    tags = data.tags
    assert entry["threads"] == tags["threads"] == str(torch.get_num_threads())
    assert tags["platform"] == platform.platform()
    assert tags["version.torch"] == importlib.metadata.version("torch")
    if Path("/proc/cpuinfo").exists():
        cpuinfo = Path("/proc/cpuinfo").read_text()
        assert tags["cpu"] in cpuinfo
        assert tags["cpu.flags"] in cpuinfo
    assert entry["wall_s"] > 0
    assert 20 < entry["peak_memory_mb"] < 20_000
    assert str(root) not in (root / "reports" / "runs" / "train@kl.json").read_text()
    assert data.metrics["wall_s"] == pytest.approx(entry["wall_s"], abs=0.01)
    assert data.metrics["peak_memory_mb"] == pytest.approx(entry["peak_memory_mb"], abs=1)


def test_an_error_fails_the_run_keeps_its_metrics_and_leaves_no_record(root: Path) -> None:
    def fail() -> None:
        with track("stage", {}) as run:
            run.log({"loss": 1.0}, step=1)
            raise RuntimeError("burst")

    with pytest.raises(RuntimeError, match="burst"):
        fail()
    assert statuses(root, "stage") == [("stage", "FAILED")]
    [failed] = [run for run in stored_runs(root) if run.info.run_name == "stage"]
    assert history(root, failed.info.run_id, "loss") == [(1, 1.0)]
    assert failed.data.tags["error"] == "RuntimeError: burst"
    assert not (root / "reports").exists()

    with pytest.raises(KeyboardInterrupt), track("stage", {}) as run:
        raise KeyboardInterrupt
    assert stored(root, run.id).info.status == "KILLED"


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_only_rank_zero_is_a_run(root: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with track("stage", {}) as run:
        run.log({"loss": 1.0}, step=1)
        run.artifacts(root)
    assert {p.name for p in root.iterdir()} == {".dvc"}
    monkeypatch.setenv(name, "0")
    with track("stage", {}):
        pass
    assert statuses(root, "stage") == [("stage", "FINISHED")]


def test_a_stage_that_gets_sigterm_ends_its_run(root: Path) -> None:
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
    assert statuses(root, "stage") == [("stage", "KILLED")]


def test_peak_memory_includes_child_processes(root: Path) -> None:
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
    entry = record(root / "top", "stage")
    assert entry["tracking_uri"] == "sqlite"


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
    output = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], output
    assert output == ["", "", ""], "a run prints nothing"
    everything = stored_runs(root)
    assert [run.info.status for run in everything] == ["FINISHED"] * 4
    children = [run for run in everything if run.info.run_name.startswith("stage")]
    for run in children:
        assert history(root, run.info.run_id, "loss") == [(step, 1.0) for step in range(20)]
    assert len(children) == 3
    assert len({run.data.tags["mlflow.parentRunId"] for run in children}) == 1
    assert statuses(root, "pipeline") == [("pipeline unknown-44136f", "FINISHED")]


def test_a_folder_with_a_card_has_the_fingerprint_of_the_card(root: Path) -> None:
    write_json(root / "loops" / "card.json", {"fingerprint": "0123456789abcdef"})
    with track("stage", {}, [root / "loops"]):
        pass
    entry = record(root, "stage")
    assert entry["inputs"] == {"loops": "0123456789abcdef"}


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
    with pytest.raises(ValueError, match="does not exist"), track("stage", {}) as run:
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
    """A training step hardly waits: one call in 25 sends, with four metrics per call."""
    monkeypatch.setattr(outbox, "SEND_EVERY_S", math.inf)
    send, sizes = Store.log_metrics, []

    def counted(store: Store, run_id: str, rows: list[Row]) -> None:
        sizes.append(len(rows))
        send(store, run_id, rows)

    monkeypatch.setattr(Store, "log_metrics", counted)
    with track("stage", {}) as run:
        sizes.clear()
        for step in range(110):
            run.log({name: float(step + i) for i, name in enumerate("abcd")}, step)
        assert sizes == [100] * 4
    for i, name in enumerate("abcd"):
        assert history(root, run.id, name) == [(step, step + i) for step in range(110)]


DISTANCE = Metric("distance", "distance", better="lower", baselines=("silence", "noise"))


def test_a_measurement_is_logged_with_interval_and_baselines_and_its_value_is_the_headline(
    root: Path,
) -> None:
    with track("evaluate", {}) as run:
        run.log({"distance": DISTANCE.measured(2.0, (1.5, 2.5), silence=9.0, noise=math.nan)})
        run.log({"count": 3.0})
        run.log({"distance": DISTANCE.measured(8.0, silence=9.0, noise=9.0), "loss": 1.0}, step=4)
    metrics = stored(root, run.id).data.metrics
    assert history(root, run.id, "distance") == [(0, 2.0), (4, 8.0)]
    assert (metrics["distance_low"], metrics["distance_high"]) == (1.5, 2.5)
    assert metrics["silence_distance"] == 9.0
    assert history(root, run.id, "silence_distance") == [(0, 9.0), (4, 9.0)]
    entry = record(root, "evaluate")
    headline = {k: v for k, v in entry["metrics"].items() if k not in ("wall_s", "peak_memory_mb")}
    assert headline == {"distance": 2.0, "count": 3.0}
    parent = stored(root, entry["parent_run_id"]).data.metrics
    assert {k for k in parent if "wall_s" not in k and "memory" not in k} == {
        "evaluate/distance",
        "evaluate/count",
    }
    assert parent["evaluate/distance"] == 2.0


def test_stages_of_one_state_share_a_parent_and_of_another_have_their_own(root: Path) -> None:
    write_params(root, 0)
    with track("prepare", {}) as run:
        run.log({"loss": 3.0}, step=5)
        run.log({"loops": 7.0, "split/test": math.nan})
    with track("train@kl", {}):
        pass
    first = record(root, "prepare")["parent_run_id"]
    assert parent_of(root, run.id) == first
    assert record(root, "train@kl")["parent_run_id"] == first
    parent = stored(root, first).data
    assert parent.params["seed"] == "0"
    assert parent.params["train_audio_vae.cells.kl.regulariser"] == "kl"
    shown = {k for k in parent.metrics if not k.endswith(("/wall_s", "/peak_memory_mb"))}
    assert shown == {"prepare/loops"}
    assert parent.metrics["prepare/loops"] == 7
    assert {"prepare/wall_s", "train/kl/wall_s"} < set(parent.metrics)

    (root / "params.yaml").write_text("# A comment.\n" + (root / "params.yaml").read_text())
    with track("prepare", {}):
        pass
    assert record(root, "prepare")["parent_run_id"] == first, "a comment does not count"
    write_params(root, 1)
    with track("train@kl", {}):
        pass
    assert record(root, "train@kl")["parent_run_id"] != first
    with track("study@kl-1", {}) as run:
        run.log({"coverage": 1.0})
    study = record(root, "study@kl-1")["parent_run_id"]
    assert stored(root, study).info.run_name.startswith("study")
    assert stored(root, study).data.metrics == {}
    assert len({name for name, _ in statuses(root, "pipeline")}) == 2


def test_the_parent_notes_runs_whose_outputs_the_cache_gave(root: Path) -> None:
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

    def cached_runs() -> dict[str, str]:
        tags = stored(root, parent).data.tags
        return {name: value for name, value in tags.items() if name.startswith("cached")}

    assert cached_runs() == {"cached.prepare": cached, "cached.from-before": "0" * 32}
    metrics = stored(root, parent).data.metrics
    loops = {name: value for name, value in metrics.items() if name.endswith("/loops")}
    assert loops == {"prepare/loops": 7.0, "train/kl/loops": 8.0}

    with track("prepare", {}):
        pass
    assert cached_runs() == {"cached.from-before": "0" * 32}, "it has run now"


def test_the_parents_status_follows_its_stages(root: Path) -> None:
    def status() -> str:
        [(_, value)] = statuses(root, "pipeline")
        return value

    with track("long", {}):
        assert status() == "RUNNING"
        with track("short", {}):
            pass
        assert status() == "RUNNING", "another stage is still running"
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
    assert status() == "RUNNING", "nobody ended it"
    with track("long", {}):
        pass
    assert status() == "FINISHED"
    assert statuses(root, "long") == [("long", "FINISHED"), ("long", "FINISHED")], (
        "the second reopened it"
    )


def test_a_deleted_parent_is_created_again(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    with track("prepare", {}):
        pass
    first = record(root, "prepare")["parent_run_id"]
    client.delete_run(first)
    with track("train", {}) as run:
        second = parent_of(root, run.id)
        client.delete_run(second)
    third = record(root, "train")["parent_run_id"]
    assert len({first, second, third}) == 3
    assert parent_of(root, run.id) == third
    assert stored(root, third).info.status == "FINISHED"


def fail(params: dict) -> None:
    with track("train", params) as run:
        run.log({"loss": 2.0}, step=1)
        raise RuntimeError("burst")


def test_an_unfinished_run_is_reopened(root: Path) -> None:
    write_params(root, 0)
    with pytest.raises(RuntimeError):
        fail({"size": 3})
    write_params(root, 1)  # of another stage
    with track("train", {"size": 3}) as run:
        run.log({"loss": 1.0}, step=2)
    assert statuses(root, "train") == [("train", "FINISHED")]
    assert history(root, run.id, "loss") == [(1, 2.0), (2, 1.0)]
    assert "error" not in stored(root, run.id).data.tags
    assert [status for _, status in statuses(root, "pipeline")] == ["KILLED", "FINISHED"]
    assert parent_of(root, run.id) == record(root, "train")["parent_run_id"]


@pytest.mark.parametrize("what", ["params", "checkout"])
def test_other_parameters_or_another_checkout_are_another_run(root: Path, what: str) -> None:
    with pytest.raises(RuntimeError):
        fail({"size": 3})
    if what == "checkout":  # one at the same path of another machine
        (root / "mlruns" / "checkout").unlink()
    with track("train", {"size": 4 if what == "params" else 3}):
        assert [status for _, status in statuses(root, "train")] == ["FAILED", "RUNNING"]
    assert len(statuses(root, "pipeline")) == (2 if what == "checkout" else 1)


def test_a_deleted_experiment_is_restored(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    with track("train", {}) as run:
        run.log({"loss": 1.0}, step=2)
    assert record(root, "train")["metrics"]["wall_s"] >= 0
    client.delete_experiment(run.experiment_id)
    with track("next", {}) as run:
        run.log({"loss": 1.0})
    assert statuses(root, "next") == [("next", "FINISHED")]
    experiment = client.get_experiment_by_name("techloop")
    assert experiment
    assert experiment.lifecycle_stage == "active"


@pytest.mark.parametrize(
    "address", ["htp://team:hunter2@host", "http://team:hun/ter2@host", "https://[::1", "host:5000"]
)
def test_an_invalid_address_is_refused_and_not_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(ValueError, match="is not the address") as refused, track("stage", {}):
        pass
    assert "hun" not in str(refused.value)


def test_an_address_is_shown_without_its_password() -> None:
    assert shown_address("https://team:hunter2@runs.example.org:8443/mlflow") == (
        "https://runs.example.org:8443/mlflow"
    )
    assert shown_address("postgresql://team:hunter2@db.example.org/runs") == "postgresql"


def test_another_machine_may_create_the_experiment_first(
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

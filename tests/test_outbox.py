"""No trouble with the tracking server stops a stage, and nothing that was logged is lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from techloop.artifacts import read_json, write_json
from techloop.tracking.outbox import flush_outbox
from techloop.tracking.run import track
from tests.helpers.params import free_port
from tests.helpers.tracking import (
    Server,
    history,
    record,
    statuses,
    stored,
    stored_runs,
    write_params,
)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.mark.ci
def test_an_unreachable_server_stops_no_stage_and_gets_everything_later(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setattr("techloop.tracking.outbox.RETRY_S", 0.0)
    (root / "picture").write_text("p")

    def early() -> None:
        with track("early", {"size": 3}) as run:
            run.log({"loss": 2.0}, step=1)
            run.artifacts("picture")

    with pytest.warns(UserWarning, match="cannot be reached"):
        early()
    assert record(root, "early")["run_id"] == ""
    queue = root / "mlruns" / "outbox"
    assert len(list(queue.iterdir())) == 1

    monkeypatch.setattr("techloop.tracking.outbox.SEND_EVERY_S", 0.0)
    server.start()
    with track("long", {}) as run:
        assert not list(queue.iterdir()), "the first is sent as soon as the server answers"
        for step in range(10):
            run.log({"loss": 1.0}, step)
        server.stop()
        with pytest.warns(UserWarning, match="cannot be reached"):
            run.log({"loss": 1.0}, 10)
        assert list(queue.iterdir()), "and saved on disk, in case this process dies too"
        server.start()
        for step in range(11, 20):
            run.log({"loss": 1.0}, step)
    assert not list(queue.iterdir())

    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("techloop")
    by_name = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert {r.info.status for r in by_name.values()} == {"FINISHED"}
    early, long = by_name["early"].info.run_id, by_name["long"].info.run_id
    assert long == run.id == record(root, "long")["run_id"]
    assert by_name["early"].data.params == {"size": "3"}
    assert [file.path for file in client.list_artifacts(early)] == ["picture"]
    assert [m.step for m in client.get_metric_history(early, "loss")] == [1]
    steps = [m.step for m in client.get_metric_history(long, "loss")]
    assert sorted(steps) == list(range(20)), "no step is lost, and none is there twice"


def test_a_run_that_was_killed_without_the_server_is_sent_later(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    script = (
        "import os\nfrom techloop.tracking import outbox, run\noutbox.SEND_EVERY_S = 0\n"
        "with run.track('cut', {}) as current:\n    current.log({'loss': 1.0}, 7)\n    os._exit(9)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=root, check=False)
    server.start()
    with track("next", {}):
        pass
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("techloop")
    by_name = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert by_name["cut"].info.status == "KILLED"
    assert [m.step for m in client.get_metric_history(by_name["cut"].info.run_id, "loss")] == [7]


def fail(params: dict) -> None:
    with track("train", params) as run:
        run.log({"loss": 2.0}, step=1)
        raise RuntimeError("burst")


def test_a_run_that_failed_without_the_server_is_sent_before_it_is_reopened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.warns(UserWarning, match="cannot be reached"), pytest.raises(RuntimeError):
        fail({})
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with track("train", {}) as run:
        run.log({"loss": 1.0}, step=2)
        assert statuses(root, "train") == [("train", "RUNNING")]
    assert history(root, run.id, "loss") == [(1, 2.0), (2, 1.0)]
    assert "error" not in stored(root, run.id).data.tags


def test_a_run_without_its_server_has_its_id_looked_up_once_the_cache_gives_its_outputs(
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
    [train] = [run for run in stored_runs(root) if run.info.run_name == "train"]
    parent = stored(root, record(root, "report")["parent_run_id"])
    assert parent.data.tags["cached.train"] == train.info.run_id


def test_a_run_that_somebody_deletes_stops_no_stage(root: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")

    def train() -> None:
        with track("train", {}) as run:
            client.delete_run(run.id)
            run.log({"loss": 1.0}, step=1)
            run.flush()
            run.log({"loss": 1.0}, step=2)

    with pytest.warns(UserWarning, match="refuses this run"):
        train()
    assert record(root, "train")["metrics"]["wall_s"] >= 0
    with (
        pytest.warns(UserWarning, match="refuses this run"),
        track("next", {}) as run,
    ):
        run.log({"loss": 1.0})
    assert statuses(root, "next") == [("next", "FINISHED")]


@pytest.mark.ci
def test_a_team_on_a_fresh_server_loses_no_step_and_shares_a_parent(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes at once, then a stage that collects their outputs: it names their runs."""
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
    output = [process.communicate()[0] for process in processes]
    assert output == ["", "", "", ""], "a run prints nothing, least of all the password"

    client = MlflowClient(server.address)
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    by_name = client.search_runs([experiment.experiment_id])
    stages = {r.info.run_name: r for r in by_name if r.info.run_name.startswith("stage")}
    assert len(stages) == len(by_name) - 1 == 4
    assert len({r.data.tags["mlflow.parentRunId"] for r in stages.values()}) == 1
    assert {r.info.status for r in by_name} == {"FINISHED"}
    for run in stages.values():
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((m.step, m.value) for m in history) == [(n, n / 2) for n in range(500)]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["picture"]
    assert list((server.folder / "artifacts").rglob("picture")), (
        "the server has it, not the checkout"
    )

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


def test_no_password_is_printed_when_a_stage_fails_without_its_server(root: Path) -> None:
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
    [log] = (root / "mlruns" / "outbox").iterdir()
    assert "burst" in log.read_text()
    assert "hunter2" not in log.read_text()


def test_a_database_that_cannot_be_opened_stops_no_stage(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # MLflow's own take 100 s
    (root / "folder").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'folder'}")
    with pytest.warns(UserWarning, match=r"cannot be reached.* \(OperationalError\)"):  # noqa: SIM117
        with track("stage", {}):
            pass
    assert len(list((root / "mlruns" / "outbox").iterdir())) == 1


def test_mlflows_message_about_an_outdated_database_is_shown(root: Path) -> None:
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config

    with track("first", {}):
        pass
    settings = _get_alembic_config(f"sqlite:///{root / 'mlflow.db'}")
    command.stamp(settings, "0584bdc529eb")  # of MLflow 1.29
    script = "from techloop.tracking.run import track\nwith track('stage', {}): pass"
    stage = subprocess.run(  # as MLflow checks a database once per process
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert "out-of-date database schema" in stage.stderr
    assert "mlflow db upgrade" in stage.stderr
    assert len(list((root / "mlruns" / "outbox").iterdir())) == 1
    command.stamp(settings, "head")
    with track("next", {}):
        pass
    assert statuses(root, "stage") == [("stage", "FINISHED")]


def test_the_outbox_is_sent_once_and_its_troubles_stop_no_other_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.warns(UserWarning, match="cannot be reached"), track("early", {}):
        pass
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    queue = root / "mlruns" / "outbox"
    [log] = queue.iterdir()
    (queue / "damaged.json").write_text("{")
    refused = read_json(log) | {"run_id": "0" * 32}  # a run that somebody deleted
    write_json(queue / "deleted.json", refused)

    with FileLock(root / "mlruns" / "outbox.lock"):
        flush_outbox(root)  # another process is sending it
    assert log.exists()
    with pytest.warns(UserWarning, match="and stays") as warned, track("next", {}):
        pass
    output = "".join(str(warning.message) for warning in warned)
    assert output.count("damaged.json cannot be sent") == 1
    assert output.count("refuses this run, which may have been deleted (Run with id=") == 1
    assert statuses(root, "early") == [("early", "FINISHED")]
    assert statuses(root, "next") == [("next", "FINISHED")]
    assert {file.name for file in queue.iterdir()} == {"damaged.json", "deleted.json"}

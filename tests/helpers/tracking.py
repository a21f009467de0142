"""Runs as MLflow's client shows them, and a server that can be stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from ruamel.yaml import YAML

from techloop.artifacts import read_json
from tests.helpers.params import free_port, small_params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def client_of(root: Path) -> "MlflowClient":
    """MLflow's client for the database at the top of a repository."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")


def stored_runs(root: Path, client: "MlflowClient | None" = None) -> "list[Run]":
    """All runs of the experiment, oldest first."""
    client = client or client_of(root)
    [experiment] = [e for e in client.search_experiments() if e.name != "Default"]
    assert experiment.name == "techloop"
    runs = client.search_runs([experiment.experiment_id])
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_name))


def statuses(root: Path, beginning: str) -> list[tuple[str, str]]:
    """Name and status of the runs whose name begins so, oldest first."""
    named = [(run.info.run_name, run.info.status) for run in stored_runs(root)]
    return [(name, status) for name, status in named if name.startswith(beginning)]


def stored(root: Path, run_id: str) -> "Run":
    """One run."""
    return client_of(root).get_run(run_id)


def history(root: Path, run_id: str, metric: str) -> list[tuple[int, float]]:
    """Steps and values of a metric, by step."""
    rows = client_of(root).get_metric_history(run_id, metric)
    return sorted((row.step, row.value) for row in rows)


def parent_of(root: Path, run_id: str) -> str:
    """The id of a run's parent."""
    return str(stored(root, run_id).data.tags["mlflow.parentRunId"])


def record(root: Path, stage: str) -> dict:
    """`reports/runs/<stage>.json`."""
    return read_json(root / "reports" / "runs" / f"{stage}.json")


def write_params(root: Path, seed: int) -> None:
    """A params.yaml with this seed."""
    YAML().dump(small_params().model_dump() | {"seed": seed}, root / "params.yaml")


class Server:
    """An MLflow server on loopback that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
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
        """Kill it."""
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

"""MLflow's tracking store. The only import of mlflow, which takes seconds: only once it is used."""

import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from techloop.tracking.address import shown_address, tracking_address

EXPERIMENT = "techloop"
LOCK = "mlflow.db.lock"  # at the repository's top; guards check-then-create on the database
BATCH = 100  # parameters that MLflow takes in one call; it would take 1,000 metrics
MAX_VALUE_CHARS = 6000  # of a parameter or a tag

Row = tuple[str, float, int, int]  # a metric: name, value, time in ms, step


class StoredRun(NamedTuple):
    """A run as the store has it."""

    id: str
    tags: dict[str, str]
    has_params: bool


class Store:
    """A connection to the experiment of all runs, which is created if it is missing.

    Connect under the lock: processes would race in the migrations of a new database, and for the
    experiment's name.

    Attributes:
        client: MLflow's own.
        experiment_id: MLflow's id of the experiment.
        address: where the runs are, as it may be shown to others.
    """

    def __init__(self, root: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        # The printed URL would include the password.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the outbox retries
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        address = tracking_address(root)
        local = not os.environ.get("MLFLOW_TRACKING_URI")
        self.client = MlflowClient(tracking_uri=address)
        self.address = "sqlite:///mlflow.db" if local else shown_address(address)
        self.experiment_id = self._experiment((root / "mlruns").as_uri() if local else None)

    def _experiment(self, artifact_location: str | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if not experiment:
            try:
                self.client.create_experiment(
                    EXPERIMENT,
                    artifact_location=artifact_location,
                    # Selects the layout of MLflow's UI.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException as error:
                # Another machine, which our lock does not hold back, was faster.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = self.client.get_experiment_by_name(EXPERIMENT)
            assert experiment
        if experiment.lifecycle_stage == "deleted":  # its name is taken until `mlflow gc`
            self.client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def search(self, query: str) -> list[StoredRun]:
        """Runs of the experiment that match a query in MLflow's language, the newest first."""
        runs = self.client.search_runs([self.experiment_id], query)
        return [
            StoredRun(run.info.run_id, dict(run.data.tags), bool(run.data.params)) for run in runs
        ]

    def create_run(self, name: str, tags: Mapping[str, str]) -> StoredRun:
        """A new run, which is RUNNING."""
        run = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))
        return StoredRun(run.info.run_id, dict(run.data.tags), False)

    def log_metrics(self, run_id: str, rows: Sequence[Row]) -> None:
        """Log metrics in batches that MLflow takes."""
        from mlflow.entities import Metric

        for i in range(0, len(rows), BATCH):
            batch = [Metric(*row) for row in rows[i : i + BATCH]]
            self.client.log_batch(run_id, metrics=batch)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters in batches that MLflow takes."""
        from mlflow.entities import Param

        rows = list(params.items())
        for i in range(0, len(rows), BATCH):
            self.client.log_batch(run_id, params=[Param(*row) for row in rows[i : i + BATCH]])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set several tags at once."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(*tag) for tag in tags.items()])

    def log_artifact(self, run_id: str, path: Path) -> None:
        """Copy a file, or a folder under its own name, to the run."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), artifact_path=path.name)
        else:
            self.client.log_artifact(run_id, str(path))


def experiment_id(root: Path) -> str:
    """MLflow's id of the experiment of all runs, which is created if it is missing."""
    with FileLock(root / LOCK):
        return Store(root).experiment_id


def is_outage(error: Exception) -> bool:
    """Whether the server was unreachable or in trouble, and did not just refuse a request."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import OperationalError  # the database is missing or locked

    if isinstance(error, MlflowException):
        status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]  # MLflow's
        return status >= 500 or "API request to" in str(error)
    return isinstance(error, RequestException | OperationalError | ConnectionError | TimeoutError)


def mlflow_message(error: Exception) -> str:
    """What MLflow says about an error; empty if the error is not MLflow's.

    Failed requests have no message here: theirs holds the address, perhaps with a password.
    """
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException) or "API request to" in str(error):
        return ""
    return " ".join(str(error.message).split())


def metric_rows(metrics: Mapping[str, float], step: int) -> list[Row]:
    """Metrics of this moment as MLflow takes them.

    NaN stays NaN; an infinity becomes the largest number of its sign, as JSON has none.
    """
    now_ms, largest = int(time.time() * 1000), sys.float_info.max
    # Comparisons with NaN are false, so NaN passes both.
    return [
        (valid_key(name), min(max(float(value), -largest), largest), now_ms, step)
        for name, value in metrics.items()
    ]


def flat_params(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Parameters as MLflow takes them: nested keys joined by dots, values as text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_params(value, f"{prefix}{key}.")
        else:
            flat[valid_key(f"{prefix}{key}")] = str(value)[:MAX_VALUE_CHARS]
    return flat


def valid_key(name: str) -> str:
    """A name in the characters that MLflow allows."""
    return re.sub(r"[^\w. :/-]", "_", str(name), flags=re.ASCII)

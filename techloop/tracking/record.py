"""`reports/runs/<stage>.json`: the run that made a stage's outputs, and what the run cost.

It is an output of the stage, so that a stage taken from DVC's cache still names its run.
"""

from pathlib import Path
from typing import TypedDict, cast

from techloop.artifacts import read_json, write_json


class RunRecord(TypedDict):
    """A stage's run.

    Attributes:
        run_id: MLflow's id; empty if the server was away.
        resume_key: finds the run once the server has it.
        tracking_uri: where the run is, without password or path.
        params: what the stage's run was given.
        inputs: fingerprints by path.
        metrics: what stands for the stage in the parent run; None for NaN.
    """

    stage: str
    run_id: str
    resume_key: str
    parent_run_id: str
    experiment_id: str
    tracking_uri: str
    wall_s: float
    peak_memory_mb: int
    commit: str
    dirty: bool
    device: str
    threads: str
    params: dict[str, object]
    inputs: dict[str, str]
    metrics: dict[str, float | None]


def write_record(root: Path, record: RunRecord) -> None:
    """Write the record of a stage's run."""
    write_json(_file(root, record["stage"]), record)


def read_record(root: Path, stage: str) -> RunRecord | None:
    """The record of a stage's run; None if it is missing or damaged.

    Keys that an older version did not write are empty.
    """
    try:
        record = read_json(_file(root, stage))
    except ValueError:
        return None
    if not isinstance(record, dict) or "run_id" not in record:
        return None
    empty = {"resume_key": "", "parent_run_id": "", "metrics": {}}
    return cast(RunRecord, {**empty, **record})


def _file(root: Path, stage: str) -> Path:
    return root / "reports" / "runs" / f"{stage}.json"

"""The parent run: it groups the runs of all stages that ran on one state of the repository.

A state is the commit, whether files differ from it, and params.yaml. Two settings so are two parent
runs to compare. The study has parents of its own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from techloop.params import load_params
from techloop.tracking.provenance import digest
from techloop.tracking.record import RunRecord, read_record
from techloop.tracking.store import (
    Store,
    StoredRun,
    flat_params,
    is_outage,
    metric_rows,
    mlflow_message,
    valid_key,
)


@dataclass(frozen=True)
class ParentState:
    """What identifies a parent run, and what it shows.

    Attributes:
        kind: "pipeline" or "study".
        name: of the run in MLflow.
        tags: of the run; `state` identifies it.
        params: all of params.yaml, as MLflow takes it.
    """

    kind: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]


def parent_state(root: Path, checkout: str, stage: str, commit: str, dirty: bool) -> ParentState:
    """The state that a stage runs on.

    Args:
        root: top of the repository.
        checkout: its id, see `checkout_id`.
        stage: name of the stage.
        commit, dirty: see `git_state`.
    """
    file = root / "params.yaml"
    params = load_params(file).model_dump(mode="json") if file.is_file() else {}
    kind = "study" if stage.startswith("study") else "pipeline"
    settings = digest(params)
    return ParentState(
        kind=kind,
        name=f"{kind} {commit[:8]}-{settings[:6]}{'-dirty' if dirty else ''}",
        tags={
            "state": digest([kind, checkout, commit, dirty, settings])[:16],
            "mlflow.source.name": "dvc repro",
            "mlflow.source.git.commit": commit,
            "dirty": str(dirty).lower(),
        },
        params=flat_params(params),
    )


class ParentRun:
    """The parent run of a stage. Use it under the store's lock.

    `dvc repro` does not announce its start, each stage is a process of its own, and several may run
    at once: the first of them creates the parent, and the others find it.

    Args:
        store: where the runs are.
        root: top of the repository.
        stage: name of the stage.
        state: what the stage runs on.
    """

    def __init__(self, store: Store, root: Path, stage: str, state: ParentState) -> None:
        self._store, self._root, self._stage, self._state = store, root, stage, state

    def id(self) -> str:
        """MLflow's id of the parent."""
        return self._find_or_create().id

    def begin(self, tags: Mapping[str, str]) -> tuple[str, str]:
        """Open the stage's run under the parent; the ids of both.

        Reopens the last unfinished run with the same resume key, whatever else was changed or
        committed meanwhile.

        Args:
            tags: of the stage's run, `resume_key` among them.
        """
        client, parent = self._store.client, self._find_or_create()
        tags = {**tags, "mlflow.parentRunId": parent.id}
        client.update_run(parent.id, status="RUNNING")
        if (cached := _cached_tag(self._stage)) in parent.tags:
            client.delete_tag(parent.id, cached)
        unfinished = self._children(
            "resume_key", tags["resume_key"], "attributes.status != 'FINISHED'"
        )
        if not unfinished:
            return self._store.create_run(self._stage, tags).id, parent.id
        run = unfinished[0]  # it has ended: DVC runs a stage of a checkout once at a time
        client.update_run(run.id, status="RUNNING")
        if "error" in run.tags:
            client.delete_tag(run.id, "error")
        self._store.set_tags(run.id, tags)
        if (former := run.tags["mlflow.parentRunId"]) != parent.id:
            try:  # MLflow refuses to end a run that somebody deleted
                self._end_if_idle(former, "KILLED")
            except Exception as error:
                if is_outage(error) or not mlflow_message(error):
                    raise
        return run.id, parent.id

    def end(
        self,
        run_id: str,
        status: str,
        headline: Mapping[str, float] | None = None,
        collects: Sequence[str] = (),
    ) -> str:
        """End the stage's run, and the parent if no other stage of it runs; the parent's id.

        A pipeline's parent takes the stages' headline metrics, so that two settings can be
        compared. A study's does not: there, the stages are compared.

        Args:
            run_id: of the stage.
            status: FINISHED, FAILED or KILLED.
            headline: the stage's metrics that stand for it.
            collects: see `track`.
        """
        client = self._store.client
        client.set_terminated(run_id, status)
        parent_id = self.id()
        # Somebody may have deleted the parent meanwhile; this one is new then.
        client.set_tag(run_id, "mlflow.parentRunId", parent_id)
        headlines: dict[str, Mapping[str, float | None]] = {self._stage: headline or {}}
        for stage in collects:
            record = self._record(stage)
            if record and record["parent_run_id"] != parent_id:
                client.set_tag(parent_id, _cached_tag(stage), record["run_id"])
                headlines[stage] = record["metrics"]
        if self._state.kind == "pipeline":
            for stage, metrics in headlines.items():
                # MLflow shows two NaNs as different.
                finite = {
                    f"{_grouped(stage)}/{name}": value
                    for name, value in metrics.items()
                    if value is not None and math.isfinite(value)
                }
                self._store.log_metrics(parent_id, metric_rows(finite, 0))
        self._end_if_idle(parent_id, status)
        return parent_id

    def _end_if_idle(self, parent_id: str, status: str) -> None:
        if not self._children("mlflow.parentRunId", parent_id, "attributes.status = 'RUNNING'"):
            self._store.client.set_terminated(parent_id, status)

    def _find_or_create(self) -> StoredRun:
        tags = self._state.tags
        parents = self._store.search(f"tags.state = '{tags['state']}'")
        parent = parents[0] if parents else self._store.create_run(self._state.name, tags)
        if not parent.has_params:
            self._store.log_params(parent.id, self._state.params)
        return parent

    def _children(self, tag: str, value: str, status: str) -> list[StoredRun]:
        return self._store.search(f"tags.`{tag}` = '{value}' and {status}")

    def _record(self, stage: str) -> RunRecord | None:
        """The record of a stage's run; None if the stage has not run, or the file is damaged."""
        record = read_record(self._root, stage)
        if record and not record["run_id"]:  # the server was away when the record was written
            finished = "attributes.status = 'FINISHED'"
            runs = self._children("resume_key", record["resume_key"], finished)
            if not runs:
                return None
            parent_id = runs[0].tags["mlflow.parentRunId"]
            return {**record, "run_id": runs[0].id, "parent_run_id": parent_id}
        return record


def _grouped(stage: str) -> str:
    """A stage with its cell as MLflow's UI groups names, by slashes: `train_audio_vae/kl`."""
    return valid_key(stage.replace("@", "/"))


def _cached_tag(stage: str) -> str:
    """The parent's tag for a stage whose outputs DVC's cache gave."""
    return f"cached.{_grouped(stage)}"

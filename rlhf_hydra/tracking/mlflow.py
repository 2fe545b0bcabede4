"""MLflow."""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.told import identity, parameters, reachable
from rlhf_hydra.tracking.tracker import Note, Row, Status, Tracker

LONGEST = 6000
"""Characters of a parameter that MLflow stores."""
AT_ONCE = 100
"""Parameters that it takes in one call."""

PARENT = "mlflow.parentRunId"


class MLflow(Tracker):
    """A run in experiment `tracking.project`. Needs the extra `mlflow`.

    Written to `MLFLOW_TRACKING_URI`, or else, also where that cannot be reached, to the file `<outputs>/mlflow.db`,
    which whoever comes first makes while the others wait. With `tracking.group` it is the child of a run of that name.
    A resumed run goes on in the same MLflow run, found by its folder.
    """

    def __init__(self, run: RunConfig, folder: Path, note: Note) -> None:
        # Unless told otherwise it asks a server that does not answer eight times for two minutes each.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._param = Metric, Param
        self._folder, self._sends_model = folder, run.tracking.model
        store = Path(run.outputs).resolve()
        uri, where = choose_uri(store)
        note(where)
        with alone(store):
            self._client = MlflowClient(uri)
            # Where the user's own store puts its artifacts is its own affair.
            artifacts = None if uri == os.environ.get("MLFLOW_TRACKING_URI") else (store / "mlflow-artifacts").as_uri()
            self._experiment_id = self._experiment(run.tracking.project, artifacts)
            self._parent_id = self._parent(run.tracking.group)
            self._id = self._find({"folder": str(folder.resolve())}) or self._create(folder, run)

    def _experiment(self, name: str, artifacts: str | None) -> str:
        known = self._client.get_experiment_by_name(name)
        if known:
            return str(known.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def _parent(self, group: str | None) -> str | None:
        if group is None:
            return None
        known = self._find({"group": group})
        return known or self._client.create_run(self._experiment_id, tags={"group": group}, run_name=group).info.run_id

    def _find(self, tags: dict[str, str]) -> str | None:
        wanted = " and ".join(f"tags.{key} = {quoted(value)}" for key, value in tags.items())
        runs = self._client.search_runs([self._experiment_id], wanted, max_results=1)
        if runs:
            self._client.update_run(runs[0].info.run_id, status="RUNNING")
        return runs[0].info.run_id if runs else None

    def _create(self, folder: Path, run: RunConfig) -> str:
        tags = {"folder": str(folder.resolve()), **dict.fromkeys(run.tracking.tags, "true")}
        tags |= {PARENT: self._parent_id} if self._parent_id else {}
        created = self._client.create_run(self._experiment_id, tags=tags, run_name=identity(folder)).info.run_id
        params = [self._param(key, str(value)[:LONGEST]) for key, value in parameters(run).items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(created, params=params[start : start + AT_ONCE])
        return str(created)

    def log(self, metrics: dict[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        # MLflow refuses the @ of `pass@1`.
        batch = [self._metric(name.replace("@", "_at_"), value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=batch)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        self._client.log_dict(self._id, {"step": step, "rows": [dict(row) for row in rows]}, f"samples/{step:06d}.json")

    def finish(self, status: Status, detail: str = "") -> None:
        for name in ("run.yaml", "curves.png"):
            if (self._folder / name).exists():
                self._client.log_artifact(self._id, str(self._folder / name))
        if self._sends_model and (self._folder / "model").is_dir():
            self._client.log_artifacts(self._id, str(self._folder / "model"), "model")
        ended = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[status]
        self._client.set_terminated(self._id, ended)
        self._end_parent()

    def _end_parent(self) -> None:
        """A group ends with the last of its runs."""
        running = f"tags.`{PARENT}` = '{self._parent_id}' and attributes.status = 'RUNNING'"
        if self._parent_id and not self._client.search_runs([self._experiment_id], running, max_results=1):
            self._client.set_terminated(self._parent_id)


def quoted(value: str) -> str:
    """As MLflow's filters read it."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def choose_uri(store: Path) -> tuple[str, str]:
    """Where the runs go, and what to tell people about it."""
    store.mkdir(parents=True, exist_ok=True)
    local = f"sqlite:///{store / 'mlflow.db'}"
    asked = os.environ.get("MLFLOW_TRACKING_URI")
    if asked and asked.startswith("http") and not reachable(asked):
        return local, f"mlflow: {asked} cannot be reached; the run is kept in {store / 'mlflow.db'}"
    return asked or local, f"mlflow keeps the run in {asked or store / 'mlflow.db'}"


@contextmanager
def alone(folder: Path) -> Iterator[Any]:
    """One process at a time: several that make the same database at once leave it unusable."""
    with (folder / ".mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""MLflow."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.tracker import Status, Tracker


class MLflow(Tracker):
    """A run in experiment `tracking.project`. Needs the extra `mlflow`.

    Written to `MLFLOW_TRACKING_URI`, or else to the file `<outputs>/mlflow.db`. A resumed run goes on in the same
    MLflow run, found by its folder.
    """

    def __init__(self, run: RunConfig, folder: Path) -> None:
        import mlflow

        database = Path(run.outputs).resolve() / "mlflow.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database}")
        name = run.tracking.project
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._id = self._find(experiment, folder) or self._create(experiment, folder, run)

    def _find(self, experiment: str, folder: Path) -> str | None:
        runs = self._client.search_runs([experiment], f"tags.folder = '{folder.resolve()}'", max_results=1)
        if runs:
            self._client.update_run(runs[0].info.run_id, status="RUNNING")
        return runs[0].info.run_id if runs else None

    def _create(self, experiment: str, folder: Path, run: RunConfig) -> str:
        created = self._client.create_run(
            experiment, tags={"folder": str(folder.resolve())}, run_name="/".join(folder.resolve().parts[-2:])
        )
        for key, value in flat(asdict(run)):
            self._client.log_param(created.info.run_id, key, value)
        return created.info.run_id

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name.replace("@", "_at_"), value, step=step)  # it refuses `pass@1`

    def finish(self, status: Status, detail: str = "") -> None:
        ended = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[status]
        self._client.set_terminated(self._id, ended)


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as `("a.b", 1)`."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

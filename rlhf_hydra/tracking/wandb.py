"""Weights & Biases."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.told import identity, parameters, reachable, run_id
from rlhf_hydra.tracking.tracker import Note, Row, Status, Tracker, first_line

LONGEST_START_S = 20.0


class WandB(Tracker):
    """A run in project `tracking.project`. Needs the extra `wandb`.

    The key comes from the environment (`WANDB_API_KEY`) or `wandb login`. Without one, without its server in reach, or
    with `WANDB_MODE=offline`, the run is kept in `<run>/wandb`, to be sent later with `wandb sync`. What a resumed run
    logs again, W&B ignores.
    """

    def __init__(self, run: RunConfig, folder: Path, note: Note) -> None:
        import wandb

        self._wandb, self._folder, self._sends_model = wandb, folder, run.tracking.model
        self._step = 0
        folder.mkdir(parents=True, exist_ok=True)
        mode, why = choose_mode(wandb, folder)
        note(why)
        self._run = wandb.init(
            project=run.tracking.project,
            id=run_id(folder),
            name=identity(folder),
            group=run.tracking.group,
            tags=list(run.tracking.tags),
            job_type=run.algo.name,
            resume="allow",
            dir=folder,
            config=parameters(run),
            mode=mode,
            settings=wandb.Settings(
                silent=mode == "offline", x_disable_stats=not run.tracking.system, init_timeout=LONGEST_START_S
            ),
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._step = step
        self._run.log(metrics, step=step)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        columns = list(rows[0]) if rows else []
        data = [[str(row.get(column)) for column in columns] for row in rows]
        self._run.log({"samples": self._wandb.Table(columns=columns, data=data)}, step=step)

    def finish(self, status: Status, detail: str = "") -> None:
        if (curves := self._folder / "curves.png").exists():
            self._run.log({"curves": self._wandb.Image(str(curves))}, step=self._step)
        if self._sends_model and (model := self._folder / "model").is_dir():
            artifact = self._wandb.Artifact(f"{self._run.id}-model", type="model")
            artifact.add_dir(str(model))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if status == "done" else 1)


def choose_mode(wandb: Any, folder: Path) -> tuple[Any, str]:
    """Online or not, and what to tell people about it."""
    later = f"send the run later with: wandb sync {folder}/wandb/offline-run-*"
    asked = os.environ.get("WANDB_MODE")
    if asked and asked != "online":
        return asked, f"wandb is {asked}; {later}" if asked == "offline" else f"wandb is {asked}"
    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    if not reachable(server):  # asked first: with a key, `login` waits for the server
        return "offline", f"wandb is offline, {server} cannot be reached; {later}"
    try:
        if not wandb.login(prompt=False):
            return "offline", f"wandb is offline, without WANDB_API_KEY; {later}"
    except (wandb.Error, ValueError) as error:
        return "offline", f"wandb is offline, {server} does not take the key ({first_line(error)}); {later}"
    return "online", f"wandb sends the run to {server}"

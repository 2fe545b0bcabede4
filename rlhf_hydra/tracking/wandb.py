"""Weights & Biases."""

import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.tracker import Row, Status, Tracker


class WandB(Tracker):
    """A run in project `tracking.project`. Needs the extra `wandb`.

    The key comes from the environment (`WANDB_API_KEY`) or `wandb login`. Without one, or with `WANDB_MODE=offline`,
    the run is kept in `<run>/wandb`, to be sent later with `wandb sync`. What a resumed run logs again, W&B ignores.
    """

    def __init__(self, run: RunConfig, folder: Path) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
        self.is_offline = mode == "offline"
        identity = re.sub(r"[^\w-]", "-", "-".join(folder.resolve().parts[-2:]))
        self._table = wandb.Table
        self._run = wandb.init(
            project=run.tracking.project,
            id=identity,
            resume="allow",
            dir=folder,
            config=asdict(run),
            mode=mode,
            settings=wandb.Settings(silent=self.is_offline),
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        columns = list(rows[0]) if rows else []
        table = self._table(columns=columns, data=[[str(row.get(column)) for column in columns] for row in rows])
        self._run.log({"samples": table}, step=step)

    def finish(self, status: Status, detail: str = "") -> None:
        self._run.finish(exit_code=0 if status == "done" else 1)

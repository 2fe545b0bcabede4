"""SwanLab."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.told import identity, parameters, reachable, run_id
from rlhf_hydra.tracking.tracker import Note, Row, Status, Tracker

SERVER = "https://api.swanlab.cn"


class SwanLab(Tracker):
    """A run in project `tracking.project`. Needs the extra `swanlab`.

    The key comes from the environment (`SWANLAB_API_KEY`). Without one, without its server in reach, or with
    `SWANLAB_MODE=offline`, the run is kept in `<run>/swanlab`, to be sent later with `swanlab sync`.
    """

    def __init__(self, run: RunConfig, folder: Path, note: Note) -> None:
        import swanlab

        self._swanlab: Any = swanlab
        mode, why = choose_mode(folder)
        note(why)
        self._run: Any = swanlab.init(
            project=run.tracking.project,
            name=identity(folder),
            id=run_id(folder),
            group=run.tracking.group,
            tags=list(run.tracking.tags),
            job_type=run.algo.name,
            config=parameters(run),
            log_dir=str(folder / "swanlab"),
            mode=mode,
            resume="allow" if mode == "online" else None,
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        texts = [self._swanlab.Text("\n".join(f"{key}: {value}" for key, value in row.items())) for row in rows]
        self._run.log({"samples": texts}, step=step)

    def finish(self, status: Status, detail: str = "") -> None:
        self._run.finish(state="success" if status == "done" else "crashed", error=detail or None)


def choose_mode(folder: Path) -> tuple[Any, str]:
    """Online or not, and what to tell people about it."""
    later = f"send the run later with: swanlab sync {folder}/swanlab/*"
    asked = os.environ.get("SWANLAB_MODE")
    if asked and asked not in ("online", "cloud"):
        return asked, f"swanlab is {asked}; {later}"
    if "SWANLAB_API_KEY" not in os.environ:
        return "offline", f"swanlab is offline, without SWANLAB_API_KEY; {later}"
    server = os.environ.get("SWANLAB_API_HOST", SERVER)
    if not reachable(server):
        return "offline", f"swanlab is offline, {server} cannot be reached; {later}"
    return "online", f"swanlab sends the run to {server}"

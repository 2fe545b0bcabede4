"""Trackio, a dashboard on this machine or on a Hugging Face Space."""

import os
import shlex
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.told import identity, parameters, reachable
from rlhf_hydra.tracking.tracker import Note, Row, Status, Tracker

HUB = "https://huggingface.co"


class Trackio(Tracker):
    """A run in project `tracking.project`. Needs the extra `trackio`.

    Kept where `TRACKIO_DIR` says, by default in Hugging Face's cache, and shown by `trackio show`; with
    `TRACKIO_SPACE_ID` or `TRACKIO_SERVER_URL`, there, if it can be reached. A resumed run goes on in the same run.
    """

    def __init__(self, run: RunConfig, folder: Path, note: Note) -> None:
        import trackio

        self._trackio: Any = trackio
        note(choose_place(run.tracking.project))
        with redirect_stdout(StringIO()):  # its instructions, which the note replaces by a line
            self._run = trackio.init(
                project=run.tracking.project,
                name=identity(folder),
                group=run.tracking.group,
                config=parameters(run),
                resume="allow",
                embed=False,
                auto_log_gpu=None if run.tracking.system else False,
                auto_log_cpu=None if run.tracking.system else False,
            )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        texts = [{key: str(value) for key, value in row.items()} for row in rows]
        import pandas

        self._run.log({"samples": self._trackio.Table(dataframe=pandas.DataFrame(texts))}, step=step)

    def finish(self, status: Status, detail: str = "") -> None:
        with redirect_stdout(StringIO()):
            self._run.finish()


def choose_place(project: str) -> str:
    """What to tell people about where the run goes; a server that cannot be reached is taken out of the environment."""
    space, url = (os.environ.get(f"TRACKIO_{name}") for name in ("SPACE_ID", "SERVER_URL"))
    server = url or (os.environ.get("HF_ENDPOINT", HUB) if space else None)
    if server and reachable(server):
        return f"trackio sends the run to {url or space}"
    for name in ("SPACE_ID", "SERVER_URL"):
        os.environ.pop(f"TRACKIO_{name}", None)
    why = f"{server} cannot be reached; " if server else ""
    return f"trackio: {why}look at the run with: trackio show --project {shlex.quote(project)}"

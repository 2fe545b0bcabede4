"""What a run tells: JSON lines and curves in its folder, a terminal for people, and any number of trackers."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.console import Terminal
from rlhf_hydra.tracking.jsonl import METRICS, JsonLines, read
from rlhf_hydra.tracking.mlflow import MLflow
from rlhf_hydra.tracking.plot import Curves
from rlhf_hydra.tracking.swanlab import SwanLab
from rlhf_hydra.tracking.tensorboard import TensorBoard
from rlhf_hydra.tracking.tracker import (
    Guarded,
    Note,
    Once,
    Row,
    Status,
    Told,
    Tracker,
    Trackers,
    WithSystem,
    first_line,
)
from rlhf_hydra.tracking.trackio import Trackio
from rlhf_hydra.tracking.wandb import WandB

__all__ = ["Row", "Status", "Tracker", "Trackers", "build"]

SERVICES: dict[str, Callable[[RunConfig, Path, Note], Tracker]] = {
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
    "swanlab": SwanLab,
}
WATCH_THE_MACHINE = ("wandb", "trackio", "swanlab")
"""Those that do so themselves."""


class NoTracker(Failure):
    """A tracker's package is not installed, or it cannot be started."""


def build(run: RunConfig, folder: Path, resume_step: int | None = None, command: str | None = None) -> Tracker:
    """The trackers of `run`, which show its config and are ready for the first step.

    `resume_step`: the first step that a resumed run does. `command`: what repeats the run; default: how this process
    was started. Raises NoTracker, with the way out, if one of `tracking.use` is not there or cannot be started.
    """
    command = command or f"python -m rlhf_hydra {shlex.join(sys.argv[1:])}".rstrip()
    terminal = Terminal(run, folder, command)
    told = [(row["step"], frozenset(row) - {"step"}) for row in read(folder / METRICS)]
    chosen: list[Tracker] = []
    for name in run.tracking.use:
        try:
            chosen.append(_start(name, run, folder, resume_step, set(told), terminal.note))
        except NoTracker:
            Trackers(*chosen).finish("failed")
            raise
    files = [JsonLines(folder, resume_step), Curves(folder, f"{run.algo.name} · {run.model.name} · {run.data.name}")]
    return Trackers(*chosen, *files, terminal)


def _start(name: str, run: RunConfig, folder: Path, resume_step: int | None, told: Told, note: Note) -> Tracker:
    try:
        is_board = name == "tensorboard"
        tracker = TensorBoard(run, folder, resume_step) if is_board else SERVICES[name](run, folder, note)
    except ImportError as error:
        raise NoTracker(
            f"tracking={name} needs a package that is not installed: pip install 'rlhf_hydra[{name}]' ({error})"
        ) from error
    except Exception as error:  # whatever a service raises
        raise NoTracker(f"tracking={name} cannot be started: {first_line(error)}; put it right, or drop it") from error
    tracker = Guarded(name, tracker, note)
    tracker = tracker if name in WATCH_THE_MACHINE or not run.tracking.system else WithSystem(tracker)
    return tracker if is_board else Once(told if resume_step is not None else set(), tracker)

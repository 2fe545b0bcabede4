"""What a run tells: JSON lines and curves in its folder, a terminal for people, and one tracker of choice."""

import shlex
import sys
from pathlib import Path

from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.tracking.console import Terminal
from rlhf_hydra.tracking.jsonl import JsonLines
from rlhf_hydra.tracking.mlflow import MLflow
from rlhf_hydra.tracking.plot import Curves
from rlhf_hydra.tracking.tensorboard import TensorBoard
from rlhf_hydra.tracking.tracker import Row, Status, Tracker, Trackers
from rlhf_hydra.tracking.wandb import WandB

__all__ = ["Row", "Status", "Tracker", "Trackers", "build"]


def build(run: RunConfig, folder: Path, resume_step: int | None = None, command: str | None = None) -> Tracker:
    """The trackers of `run`, which show its config and are ready for the first step.

    `resume_step`: the first step that a resumed run does. `command`: what repeats the run; default: how this process
    was started. Raises ImportError naming the extra to install if the chosen tracker is not there.
    """
    command = command or f"python -m rlhf_hydra {shlex.join(sys.argv[1:])}".rstrip()
    terminal = Terminal(run, folder, command)
    files = [JsonLines(folder, resume_step), Curves(folder, f"{run.algo.name} · {run.model.name} · {run.data.name}")]
    return Trackers(*_chosen(run, folder, resume_step, terminal), *files, terminal)


def _chosen(run: RunConfig, folder: Path, resume_step: int | None, terminal: Terminal) -> list[Tracker]:
    name = run.tracking.name
    try:
        match name:
            case "tensorboard":
                return [TensorBoard(folder, resume_step)]
            case "mlflow":
                return [MLflow(run, folder)]
            case "wandb":
                wandb = WandB(run, folder)
                if wandb.is_offline:
                    terminal.note(f"wandb is offline; send the run later with: wandb sync {folder}/wandb/offline-run-*")
                return [wandb]
    except ImportError as error:
        raise ImportError(
            f"tracking={name} needs a package that is not installed: pip install 'rlhf_hydra[{name}]' ({error})"
        ) from error
    return []

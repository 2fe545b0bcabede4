"""Where the trials of a sweep run: here, each in a process of its own; `slurm.py` has another place."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlhf_hydra.sweep.child import Child, kill_orphan
from rlhf_hydra.sweep.status import Status
from rlhf_hydra.sweep.trial import Trial

POLL_S = 0.1

Command = Callable[[Trial], Sequence[str]]


def command_of(trial: Trial) -> list[str]:
    """Runs what `run.yaml` in its folder says, from its newest checkpoint if it has one."""
    return [sys.executable, "-m", "rlhf_hydra", "task=trial", f"run={trial.folder}"]


class Process(Protocol):
    """A trial under way."""

    @property
    def handle(self) -> dict[str, Any]:
        """By what it is found again, as keys of `Status`."""

    def has_begun(self) -> bool:
        """Whether it has got what it needs; a queue may let it wait."""

    def poll(self) -> int | None:
        """The exit code once it has ended, negative for a signal."""

    def stop(self) -> None:
        """Ask it to save and end."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> int:
        """The exit code, after `kill`."""


class Place(Protocol):
    """Where trials run."""

    poll_s: float
    """Between two looks at them."""
    takes_back: bool
    """Whether it stops trials of its own accord, which are then begun again."""

    def find(self, trial: Trial, before: Status) -> Process | None:
        """The trial itself, if it goes on without the sweep that began it."""

    def begin(self, trial: Trial, attempt: int, env: Mapping[str, str]) -> Process:
        """`env`: variables of this trial alone."""

    def send(self) -> None:
        """Hand over what has begun since the last call, where that is done for many at once."""


@dataclass
class Here:
    """On this machine, each trial in a process that ends with the sweep."""

    env: Mapping[str, str]
    command: Command = command_of
    poll_s: float = POLL_S
    takes_back: bool = False

    def find(self, trial: Trial, before: Status) -> None:
        if before.pid:
            kill_orphan(before.pid, trial.folder)

    def begin(self, trial: Trial, attempt: int, env: Mapping[str, str]) -> Child:
        return Child(self.command(trial), trial.folder, {**self.env, **env}, attempt)

    def send(self) -> None:
        pass


def environment(address: str | None, at_once: int) -> dict[str, str]:
    """Of a trial: the Ray cluster of all, and its share of the cores."""
    cluster = {"RAY_ADDRESS": address} if address else {}
    threads = str(max(1, len(os.sched_getaffinity(0)) // max(1, at_once)))
    return {"OMP_NUM_THREADS": threads, **os.environ, **cluster, "PYTHONUNBUFFERED": "1"}

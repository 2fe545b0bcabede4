"""The trials of a sweep and the folder that holds them.

    sweep.json                  what was asked: command, values, objective, and the trials that came of it
    trials/<number>-<hash>/     a run folder, with status.json and output.log beside what every run leaves

The hash is over the resolved config, so a trial is known again whatever its number, and whatever else the grid holds.
"""

import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.saved import load_run_yaml, look_at_run_yaml, plain, save_run_yaml
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.sweep.runs import RUN, SWEEP
from rlhf_hydra.sweep.space import IRRELEVANT, Point, name_of
from rlhf_hydra.sweep.status import Status, read, write, write_json


class Occupied(Failure):
    """Another sweep runs in the folder."""


@dataclass(frozen=True)
class Trial:
    key: str
    number: int
    overrides: list[str]
    """Those that tell it from the other trials."""
    run: RunConfig
    folder: Path

    @property
    def status(self) -> Status:
        return read(self.folder) or Status(overrides=self.overrides)


def digest(run: RunConfig) -> str:
    """Eight hex digits of everything that decides what the run finds; where it is written and runs does not."""
    content = {name: value for name, value in plain(run).items() if name not in IRRELEVANT}
    content["cluster"] = {name: value for name, value in content["cluster"].items() if name != "address"}
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@dataclass
class Book:
    """`sweep.json`, and the trials that it lists, by key."""

    folder: Path
    head: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    """Hash -> key, of every trial that the folder has ever had."""

    @classmethod
    def open(cls, folder: Path) -> "Book":
        """The book of a folder for a new list of trials; of an earlier list, those that are done stay in it."""
        book = cls(folder)
        if (folder / SWEEP).exists():
            book.trials = {key: trial for key, trial in cls.load(folder).trials.items() if trial.status.is_final}
        for path in folder.glob("trials/[0-9]*-*/"):
            book.known[path.name.rpartition("-")[2]] = path.name
        return book

    @classmethod
    def load(cls, folder: Path, overrides: Sequence[str] = ()) -> "Book":
        """The trials as they were planned, with changes to `sweep.*`. ConfigError if the folder has no sweep."""
        book = cls(folder)
        try:
            book.head = json.loads((folder / SWEEP).read_text())
        except FileNotFoundError:
            fix = "Give the folder that holds sweep.json: run=outputs/sweep/TIME."
            raise ConfigError([Problem("resume", "run", "no sweep in it", fix, folder, COMMAND_LINE)]) from None
        for key, entry in book.head.pop("trials").items():
            file = book.path(key) / RUN
            run = load_run_yaml(file, overrides) if overrides else look_at_run_yaml(file)
            run.freeze()
            book.trials[key] = Trial(key, entry["number"], entry["overrides"], run, book.path(key))
        return book

    def path(self, key: str) -> Path:
        return self.folder / "trials" / key

    def add(self, point: Point, run: RunConfig, prefix: Sequence[str]) -> Trial:
        """The trial of `point`: the one that the folder knows by its hash, or a new one with its folder."""
        hashed = digest(run)
        if run.tracking.group is None:
            run = replace(run, tracking=replace(run.tracking, group=self.folder.name))
            run.freeze()
        number = 1 + max((int(key.partition("-")[0]) for key in self.known.values()), default=-1)
        key = self.known.setdefault(hashed, f"{number}-{hashed}")
        earlier = self.trials[key].overrides if key in self.trials else []
        own = list({name_of(line): line for line in (*earlier, *point.own)}.values())
        trial = Trial(key, int(key.partition("-")[0]), own, run, self.path(key))
        trial.folder.mkdir(parents=True, exist_ok=True)
        if not trial.status.is_final:
            save_run_yaml(run, trial.folder / RUN, alone(point, prefix))
        write(trial.folder, replace(trial.status, overrides=own))
        self.trials[key] = trial
        return trial

    def write(self) -> None:
        ordered = sorted(self.trials.values(), key=lambda trial: trial.number)
        trials = {trial.key: {"number": trial.number, "overrides": trial.overrides} for trial in ordered}
        write_json(self.folder / SWEEP, {**self.head, "trials": trials})


def alone(point: Point, prefix: Sequence[str]) -> str:
    """The command that runs a trial by itself."""
    lines = [line for line in point.overrides if not is_about_sweeps(line)]
    return shlex.join([*prefix, *lines])


def is_about_sweeps(line: str) -> bool:
    name = name_of(line)
    return name in ("task", "sweep", "hydra.sweep.dir") or name.startswith("sweep.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone in the folder; Occupied if another sweep is at work there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = (folder / ".lock").read_text().strip()
        raise Occupied(f"a sweep runs in {folder} already (process {holder})") from None
    except OSError as error:
        fix = "choose another folder with hydra.sweep.dir, on a file system that has locks (flock)"
        raise Failure(f"{folder} cannot be taken for a sweep ({error}): {fix}") from None
    with file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield

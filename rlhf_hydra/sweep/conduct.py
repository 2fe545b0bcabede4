"""A sweep from its plan to its last trial."""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem
from rlhf_hydra.config.schema import OptunaSweep, RunConfig
from rlhf_hydra.interrupts import Interrupts, Stopped
from rlhf_hydra.sweep.launch import Launcher, Listed, Source, environment
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.room import Amounts, Room, here
from rlhf_hydra.sweep.search import Study
from rlhf_hydra.sweep.space import Point, Space, name_of
from rlhf_hydra.sweep.table import Screen
from rlhf_hydra.sweep.trial import Book, Trial, locked

SOME_FAILED = 1

Runs = Sequence[tuple[Point, RunConfig]]


def start(composer: Composer, overrides: Sequence[str], runs: Runs, folder: Path) -> int:
    """Run what a command line asks for, less what `folder` holds already; the exit code.

    `runs`: the checked runs of its space.
    """
    with locked(folder):
        book, first = Book.open(folder), runs[0][1]
        config_dir = ["--config-dir", composer.config_dir] if composer.config_dir else []
        prefix = ["python", "-m", "rlhf_hydra", *config_dir]
        space, objective = Space.of(composer, overrides), Objective.of(first)
        book.head = {
            "command": shlex.join([*prefix, "-m", *overrides]),
            "sweep": first.sweep.name,
            "config_dir": composer.config_dir,
            "overrides": list(overrides),
            **space.describe(),
            **objective.describe(),
        }

        def accept(point: Point, run: RunConfig | None = None) -> Trial:
            return book.add(point, run or checked_run(point.overrides, composer), prefix)

        if isinstance(first.sweep, OptunaSweep):
            source: Source = Study(space, first.sweep, objective, folder, accept)
        else:
            source = Listed([trial for trial in [accept(*pair) for pair in runs] if not trial.status.is_final])
        book.keep_finished()
        book.write()
        return conduct(book, source, {" ".join(point.own): run for point, run in runs})


def resume(folder: Path, changes: Sequence[str] = ()) -> int:
    """Run what is missing of the sweep in `folder`, as it was planned, with `changes` to `sweep.*`; the exit code."""
    for line in changes:
        if name_of(line).partition(".")[0] != "sweep":
            fix = "Change sweep.* only, or run the command with -m and hydra.sweep.dir=FOLDER."
            raise ConfigError([Problem("resume", name_of(line), "the trials are planned", fix, where=COMMAND_LINE)])
    folder = folder.resolve()
    head = Book.load(folder).head
    if head["sweep"] == "optuna":
        composer, overrides = Composer(head["config_dir"]), [*head["overrides"], *changes]
        points = Space.of(composer, overrides).points()
        return start(composer, overrides, [(point, checked_run(point.overrides, composer)) for point in points], folder)
    with locked(folder):
        book = Book.load(folder, changes)
        missing = [trial for trial in book.trials.values() if not trial.status.is_final]
        return conduct(book, Listed(missing), {trial.key: trial.run for trial in missing})


def conduct(book: Book, source: Source, runs: Mapping[str, RunConfig]) -> int:
    """Run all that `source` has; the exit code: 0 all good, 1 some failed, 130 and 143 stopped by Ctrl-C or SIGTERM."""
    first = next(iter(runs.values()))
    code = None
    with Interrupts() as interrupts, Screen(book.trials, Objective.of(first)) as screen:
        try:
            with cluster(runs.values()) as (address, total):
                room = Room(total, first.sweep.max_parallel)
                room.require(runs.items())
                env = environment(address, room.at_once(first))
                Launcher(source, room, screen, env, first.sweep.hang_timeout_s).run(interrupts)
        except Stopped as stop:
            code = stop.code
    screen.sum_up(book.folder)
    return code or (0 if all(trial.status.is_final for trial in book.trials.values()) else SOME_FAILED)


@contextmanager
def cluster(runs: Iterable[RunConfig]) -> Iterator[tuple[str | None, Amounts]]:
    """The Ray cluster of all trials, started here unless one is named, if any of them needs one; and what there is."""
    addresses = {run.cluster.address for run in runs if run.cluster.backend == "ray"}
    if not addresses:
        yield None, here()
        return
    if len(addresses) > 1:
        fix = "Give all trials the same."
        raise ConfigError([Problem("sweep", "cluster.address", "a sweep runs on one Ray cluster", fix)])
    from rlhf_hydra.cluster.ray_group import attached, cluster_resources

    with attached(addresses.pop() or os.environ.get("RAY_ADDRESS")) as address:
        yield address, {**here(), **cluster_resources()}

"""A sweep from its plan to its last trial."""

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem
from rlhf_hydra.config.schema import OptunaSweep, RunConfig, Sweep
from rlhf_hydra.interrupts import Interrupts, Stopped
from rlhf_hydra.sweep.berths import Berths, Reserve
from rlhf_hydra.sweep.launch import Launcher, Listed, Source
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.overview import study
from rlhf_hydra.sweep.place import Here, environment
from rlhf_hydra.sweep.report import write
from rlhf_hydra.sweep.room import Amounts, Room, here
from rlhf_hydra.sweep.runs import read_sweep
from rlhf_hydra.sweep.search import Study
from rlhf_hydra.sweep.slurm import Queue, on_slurm
from rlhf_hydra.sweep.space import Point, Space, name_of
from rlhf_hydra.sweep.table import Screen
from rlhf_hydra.sweep.terminal import again, print_report
from rlhf_hydra.sweep.trial import Book, Trial, locked

SOME_FAILED = 1
PLAN = ("sweep.name", "sweep.zip", "sweep.seeds")
"""What would make other trials."""

Runs = Sequence[tuple[Point, RunConfig]]


def start(composer: Composer, overrides: Sequence[str], runs: Runs, folder: Path) -> int:
    """Run what a command line asks for, less what `folder` holds already; the exit code.

    `runs`: the checked runs of its space.
    """
    with locked(folder):
        book, first = Book.open(folder), runs[0][1]
        space, objective = Space.of(composer, overrides), Objective.of(first)
        prefix = ["python", "-m", "rlhf_hydra", *(["--config-dir", composer.config_dir] if composer.config_dir else [])]
        book.head = {
            "command": shlex.join([*prefix, "-m", *overrides]),
            "sweep": first.sweep.name,
            "config_dir": composer.config_dir and str(Path(composer.config_dir).resolve()),
            "overrides": list(overrides),
            **space.describe(),
            **objective.describe(),
        }
        if isinstance(first.sweep, OptunaSweep):

            def accept(point: Point) -> Trial:
                trial = book.add(point, checked_run(point.overrides, composer), prefix)
                book.write()
                return trial

            search = Study(space, first.sweep, objective, folder, accept)
            book.head["refused"] = search.refused  # to which the search adds
            source: Source = search
            to_come = {" ".join(point.own): run for point, run in runs}
        else:
            for point, run in runs:
                book.add(point, run, prefix)
            source, to_come = missing(book)
        book.write()
        return conduct(book, source, to_come, first)


def resume(folder: Path, changes: Sequence[str] = ()) -> int:
    """Run what is missing of the sweep in `folder`, as it was planned, with `changes` to `sweep.*`; the exit code."""
    folder = folder.resolve()
    head = Book.load(folder).head
    is_search = head["sweep"] == "optuna"
    for name in map(name_of, changes):
        if not name.startswith("sweep.") or name in PLAN or (name == "sweep.trials" and not is_search):
            fix = "Change how they are run or judged, or run the command with -m and hydra.sweep.dir=FOLDER."
            raise ConfigError([Problem("resume", name, "the trials are planned", fix, where=COMMAND_LINE)])
    if is_search:
        composer, overrides = Composer(head["config_dir"]), [*head["overrides"], *changes]
        points = Space.of(composer, overrides).points()
        return start(composer, overrides, [(point, checked_run(point.overrides, composer)) for point in points], folder)
    with locked(folder):
        book = Book.load(folder, changes)
        first = next(iter(book.trials.values())).run
        book.head |= Objective.of(first).describe()
        book.write()
        return conduct(book, *missing(book), first=first)


def missing(book: Book) -> tuple[Source, dict[str, RunConfig]]:
    """The trials of a list that are left to do."""
    found = [trial for trial in book.trials.values() if not trial.status.is_final]
    return Listed(found), {trial.key: trial.run for trial in found}


def conduct(book: Book, source: Source, to_come: Mapping[str, RunConfig], first: RunConfig) -> int:
    """Run all that `source` has; the exit code: 0 all good, 1 some failed, 130 and 143 stopped by Ctrl-C or SIGTERM.

    `to_come`: what the source will have, or what is as large. `first`: any run of the sweep.
    """
    code = 0
    expected = first.sweep.trials * first.sweep.seeds if isinstance(first.sweep, OptunaSweep) else 0
    with Interrupts() as interrupts, Screen(book.trials, Objective.of(first), expected=expected) as screen:
        try:
            if to_come:
                launch(source, to_come, first.sweep, screen, interrupts, book.folder)
        except Stopped as stop:
            code = stop.code
        except KeyboardInterrupt:  # no time for a report
            screen.say(f"ended at once; run what is missing: {again(book.folder)}")
            raise
    tell(book, screen.console)
    return code or (0 if book.trials and all(trial.status.is_final for trial in book.trials.values()) else SOME_FAILED)


def tell(book: Book, console: Console) -> None:
    """The report of what there is, over which a sweep does not fail: `task=report` makes it again."""
    try:
        book.write()  # with what a search has passed over
        report = study(read_sweep([book.folder]), book.folder)
        try:
            report = write(report, book.head.get("config_dir"))
        finally:
            print_report(report, console)
    except Exception as error:
        says = f"no report ({type(error).__name__}: {error}); make one with: task=report run={book.folder}"
        console.print(says, highlight=False, markup=False, soft_wrap=True)


def launch(
    source: Source, runs: Mapping[str, RunConfig], cfg: Sweep, screen: Screen, interrupts: Interrupts, folder: Path
) -> None:
    if cfg.backend == "slurm":
        most = cfg.max_parallel if isinstance(cfg, OptunaSweep) else 0  # of an array, Slurm sees to it
        place = on_slurm(folder / "slurm")
        Launcher(source, Berths(Queue({}, most)), screen, place, cfg.hang_timeout_s).run(interrupts)
        return
    with cluster(runs, screen.say) as (address, total):
        room = Room(total, cfg.max_parallel)
        room.require(runs)
        at_once, limit = min(room.at_once(run) for run in runs.values())
        screen.say(f"at most {at_once} at a time: {limit}")
        with closing(Berths(room, reserver() if address and cfg.warm_start else None)) as berths:
            machine = Here(environment(address, at_once))
            Launcher(source, berths, screen, machine, cfg.hang_timeout_s).run(interrupts)


def reserver() -> Reserve:
    from rlhf_hydra.cluster.ray_group import reserve, unreserve

    return lambda run, name: partial(unreserve, reserve(run, name))


@contextmanager
def cluster(runs: Mapping[str, RunConfig], say: Callable[[str], None]) -> Iterator[tuple[str | None, Amounts]]:
    """The Ray cluster of all trials, started here unless one is named, if any of them needs one; and what there is."""
    over_ray = [run for run in runs.values() if run.cluster.backend == "ray"]
    if not over_ray:
        yield None, here()
        return
    from rlhf_hydra.cluster.ray_group import attached, cluster_resources

    named, begin = one_address(over_ray) or os.environ.get("RAY_ADDRESS"), time.monotonic()
    if not named:
        Room(here()).require(runs)
    with attached(named) as address:
        took = "" if named else f", started in {time.monotonic() - begin:.0f} s"
        say(f"one Ray cluster for all trials: {address}{took}")
        yield address, {**here(), **cluster_resources()}


def one_address(runs: Sequence[RunConfig]) -> str | None:
    """The Ray cluster that all of them name, if they name one. ConfigError if they differ."""
    addresses = {run.cluster.address for run in runs if run.cluster.backend == "ray"}
    if len(addresses) > 1:
        fix = "Give all trials the same."
        raise ConfigError([Problem("sweep", "cluster.address", "a sweep runs on one Ray cluster", fix)])
    return addresses.pop() if addresses else None

"""What `task=...` names: each takes the command line, and does it.

Nothing that is slow to import is imported before a run has passed its check.
"""

import gc
import logging.config
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from glob import glob, has_magic
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rlhf_hydra import provenance
from rlhf_hydra.checkpoint import latest, step_of, whole
from rlhf_hydra.cluster import jobs
from rlhf_hydra.cluster.hardware import preflight
from rlhf_hydra.config.check import checked_resume, checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem
from rlhf_hydra.config.explain import explain as explain_key
from rlhf_hydra.config.export import export as export_run
from rlhf_hydra.config.layers import leaves
from rlhf_hydra.config.lint import lint as find_repetitions
from rlhf_hydra.config.rules.task import run_folders
from rlhf_hydra.config.saved import save_run_yaml, saved_command, words_of
from rlhf_hydra.config.schema import ReportTask, RunConfig, Supervised, is_dashboard
from rlhf_hydra.config.store import find_conf_dir, new_folder
from rlhf_hydra.config.summary import summary
from rlhf_hydra.sweep import conduct
from rlhf_hydra.sweep.child import end_with_parent
from rlhf_hydra.sweep.compare import print_comparison, verdict
from rlhf_hydra.sweep.report import make_report
from rlhf_hydra.sweep.slurm import require_slurm
from rlhf_hydra.sweep.space import Point, Space
from rlhf_hydra.tracking import jsonl

SHOWN = 20
"""Runs of a sound grid, or errors of one that is not, that are listed."""


def begin(run: RunConfig, folder: Path, words: str, resume: bool = False) -> None:
    """Write down what is run, and run it. A run that fails before it goes on stays written down as it was."""
    file = folder / "run.yaml"
    before, done = (file.read_text(), max(map(step_of, whole(folder)), default=0)) if resume else ("", 0)
    save_run_yaml(run, file, words)
    provenance.write(folder, run, words, {} if resume else asked(run, words))
    gc.disable()  # what is imported stays: searching it for garbage takes seconds
    if isinstance(run.algo, Supervised):
        from rlhf_hydra.supervised import train
    else:
        from rlhf_hydra.driver import train

    gc.freeze()
    gc.enable()
    try:
        train(run, folder, words, resume=resume)
    except (SystemExit, Exception) as error:
        has_failed = not isinstance(error, SystemExit) or error.code == 1
        if before and has_failed and last_step(folder) <= done:  # also with what it cannot go on with
            file.write_text(before)
        raise
    finally:
        gc.unfreeze()  # or libraries complain at the end about what was never cleaned up


def last_step(folder: Path) -> int:
    """The last step that the run in `folder` has done."""
    return max((row["step"] for row in jsonl.read(folder / jsonl.METRICS)), default=0)


def asked(run: RunConfig, words: str) -> dict[str, Any]:
    """What a command line left to be resolved: key -> what it asked for."""
    folder, overrides = words_of(words)
    try:
        before = Composer(folder).compose(overrides).run
    except ConfigError:
        return {}
    was, now = (dict(leaves(asdict(each))) for each in (before, run))
    return {key: value for key, value in was.items() if key in now and now[key] != value}


# ----------------------------------------------------------------------------------------------------- check


def checked_runs(args: Namespace, composer: Composer) -> Iterator[tuple[Point, RunConfig]]:
    """Every run that the command line asks for, checked; one, or with `-m` each of the grid.

    Raises:
        ConfigError: after the last of them, with each thing that is wrong and the runs that it is wrong in.
    """
    points = Space.of(composer, args.overrides).points() if args.multirun else [Point(list(args.overrides), [])]
    wrong: dict[Problem, list[list[str]]] = {}
    total = 0
    for point in points:
        total += 1
        try:
            yield point, checked_run(point.overrides, composer)
        except ConfigError as error:
            for problem in error.problems:
                wrong.setdefault(problem, []).append(point.overrides)
    if wrong:
        raise GridError(wrong, total) if args.multirun else ConfigError(list(wrong))


class GridError(ConfigError):
    """Runs of a grid that cannot be started."""

    def __init__(self, wrong: dict[Problem, list[list[str]]], total: int) -> None:
        super().__init__(list(wrong))
        found = [
            f"error: {problem}\n    in {len(runs)} of {total} runs, first: {' '.join(runs[0])}"
            for problem, runs in list(wrong.items())[:SHOWN]
        ]
        rest = [f"and {len(wrong) - SHOWN} other errors"] if len(wrong) > SHOWN else []
        self.args = ("\n".join([*found, *rest]),)


def report(args: Namespace, composer: Composer) -> None:
    """`task=check`: a line for each sound run, or everything that is wrong. Writes no file.

    `explain=KEY` says where the value of a key comes from, `explain=all` of all.
    """
    if name := given(args).get("explain"):
        args.overrides = [line for line in args.overrides if not line.startswith("explain=")]
        print(explain_key(composer.compose(args.overrides), name))
        checked_run(args.overrides, composer)
        return
    runs = list(checked_runs(args, composer))
    for point, run in runs[:SHOWN]:
        line = " ".join(override for override in point.overrides if override != "task=check")
        print(f"ok  {line}" if args.multirun else summary(run))
    if args.multirun:
        are = "runs are" if len(runs) > 1 else "run is"
        print(f"{len(runs)} {are} sound" + (f", of which {SHOWN} are listed" if len(runs) > SHOWN else ""))


# ----------------------------------------------------------------------------------------------------- where


def settle(args: Namespace, run: RunConfig) -> None:
    """Make sure that a checked run can begin here. Where `cluster.address` is the dashboard of a Ray cluster, the
    command begins there instead, and this process ends with it."""
    address = run.cluster.address or (os.environ.get("RAY_ADDRESS") if run.cluster.backend == "ray" else None)
    if is_dashboard(address):
        send(args, address)
    preflight(run)


def send(args: Namespace, address: str | None) -> NoReturn:
    """Run the command as a job on the cluster behind `address`."""
    assert address is not None
    command = jobs.entrypoint(args.overrides, args.config_dir, args.multirun)
    sys.exit(jobs.run(address, command, args.config_dir))


# ----------------------------------------------------------------------------------------------------- resume


def resume(args: Namespace, composer: Composer) -> None:
    """Go on with the run in `run=FOLDER`."""
    folder, run = saved_run(args)
    done = step_of(latest(folder))
    if 0 < run.steps < done:
        says, fix = f"the run has done {done} steps", f"Set it to more than {done}, or drop it."
        raise ConfigError([Problem("resume", "steps", says, fix, run.steps, COMMAND_LINE)])
    log_to(folder)
    begin(run, folder.resolve(), saved_command(folder / "run.yaml"), resume=True)


def rerun(args: Namespace, composer: Composer) -> None:
    """Repeat the run in `run=FOLDER` beside it, and compare. Exit code 1 if the numbers differ."""
    folder, run = saved_run(args)
    again = Path(new_folder(f"{folder.resolve()}-again"))
    log_to(again)
    begin(run, again, saved_command(folder / "run.yaml"))
    is_same, text = verdict(folder, again)
    print(text)
    sys.exit(0 if is_same else 1)


def export(args: Namespace, composer: Composer) -> None:
    """Write the run in `run=FOLDER` as an experiment file, and say how it is used."""
    folder = run_folder(args)
    only(args, "task", "run", "name")
    name = given(args).get("name") or folder.resolve().parent.name
    file = export_run(folder, name, args.config_dir)
    print(f"{file}:\n\n{file.read_text()}")
    print(f"use  python -m rlhf_hydra --config-dir {file.parents[1]} experiment={name}")


def lint(args: Namespace, composer: Composer) -> None:
    """Name what experiment files repeat. Exit code 1 if there is anything."""
    only(args, "task")
    found = find_repetitions(composer)
    print("\n".join(found) or "experiments say nothing twice")
    sys.exit(1 if found else 0)


def given(args: Namespace) -> dict[str, str]:
    """The overrides as they were typed, by key."""
    return dict(line.partition("=")[::2] for line in args.overrides)


def only(args: Namespace, *words: str) -> None:
    """ConfigError where something is typed that this task does not read."""
    says, fix = f"task={given(args)['task']} does not read it", f"There are: {', '.join(words)}."
    found = [Problem("task", key, says, fix, value, COMMAND_LINE) for key, value in given(args).items()]
    if wrong := [problem for problem in found if problem.key not in words]:
        raise ConfigError(wrong)


def run_folder(args: Namespace) -> Path:
    """`run=FOLDER`, with which a task goes on."""
    task = given(args)["task"]
    if args.multirun:
        raise ConfigError([Problem(task, "-m", f"task={task} takes one run at a time", "Drop it.")])
    if not given(args).get("run"):
        what, example = (
            ("a sweep", "outputs/sweep/TIME") if task == "sweep_resume" else ("a run", "outputs/ALGO-MODEL/TIME")
        )
        says = f"task={task} needs the folder of {what}"
        raise ConfigError([Problem(task, "run", says, f"Add run={example}.", where=COMMAND_LINE)])
    return Path(given(args)["run"])


def changes(args: Namespace) -> list[str]:
    """What is to be different from the run or sweep in `run=FOLDER`."""
    return [line for line in args.overrides if line.partition("=")[0] not in ("task", "run")]


def saved_run(args: Namespace) -> tuple[Path, RunConfig]:
    """The run in `run=FOLDER`, with changes, checked."""
    folder, address = run_folder(args), given(args).get("cluster.address")
    if is_dashboard(address) and not folder.exists():  # it lies on the cluster, which looks for itself
        send(args, address)
    try:
        run = checked_resume(folder, changes(args))
    except ConfigError as error:
        raise ConfigError([*error.problems, *elsewhere(folder, error)]) from None
    settle(args, run)
    return folder, run


def elsewhere(folder: Path, error: ConfigError) -> Iterator[Problem]:
    """A run that began in another directory, where its relative paths lead to files."""
    began = provenance.read(folder).get("directory", "")
    if began not in ("", str(Path.cwd())) and any("does not exist" in problem.says for problem in error.problems):
        fix = f"cd {shlex.quote(began)}, or give whole paths, as in data.path=/FOLDER/FILE."
        yield Problem("resume", "run", "began in another directory", fix, folder, COMMAND_LINE)


def log_to(folder: Path) -> None:
    """Log as Hydra does for a new run, onto the end of the same file."""
    settings = yaml.safe_load((find_conf_dir() / "hydra/job_logging/rich.yaml").read_text())
    settings["handlers"]["file"]["filename"] = str(folder / "run.log")
    logging.config.dictConfig(settings)


# ----------------------------------------------------------------------------------------------------- sweeps


def sweep(args: Namespace, composer: Composer) -> None:
    """`-m`: many runs, side by side."""
    runs = list(checked_runs(args, composer))
    conduct.one_address([run for _, run in runs])
    for _, run in runs:
        settle(args, run) if run.sweep.backend == "local" else require_slurm()
    folder = composer.sweep_folder(args.overrides, runs[0][1].outputs)
    sys.exit(conduct.start(composer, args.overrides, runs, folder))


def sweep_resume(args: Namespace, composer: Composer) -> None:
    """Run what is missing of the sweep in `run=FOLDER`."""
    folder, address = run_folder(args), given(args).get("cluster.address")
    if is_dashboard(address):
        send(args, address)
    sys.exit(conduct.resume(folder, changes(args)))


def trial(args: Namespace, composer: Composer) -> None:
    """What a sweep starts: the run that `run.yaml` in `run=FOLDER` describes, from its newest checkpoint if any."""
    end_with_parent()
    folder = run_folder(args)
    run = checked_resume(folder)
    log_to(folder)
    try:
        begin(run, folder, saved_command(folder / "run.yaml"), resume=bool(whole(folder)))
    except SystemExit as end:
        if end.__cause__:
            print(f"error: {end.__cause__}", file=sys.stderr)  # below the summary: a sweep reads the reason last
        raise


# ------------------------------------------------------------------------------------------------- report, compare


def look_back(args: Namespace, composer: Composer) -> None:
    """`task=report` and `task=compare`: read the folders in `run`, and start nothing."""
    if args.multirun:
        raise ConfigError([Problem("run", "-m", "all runs are read at once", "Drop it; write run=[FOLDER,FOLDER].")])
    run = checked_run(args.overrides, composer)
    folders = find_folders(run)
    if isinstance(run.task, ReportTask):
        make_report(folders, run.task, Path(run.outputs), args.config_dir)
    else:
        print_comparison(folders[0], folders[1])


def find_folders(run: RunConfig) -> list[Path]:
    """The folders in `run`, patterns replaced by what they match."""
    found: list[Path] = []
    for name in run_folders(run) or []:
        found += [Path(match) for match in sorted(glob(name))] if has_magic(name) else [Path(name)]
    fix = "Give the folder of a run or of a sweep: run=outputs/ALGO-MODEL/TIME."
    if not found:
        raise ConfigError([Problem("run", "run", "matches no folder", fix, run.run, COMMAND_LINE)])
    if lost := [folder for folder in found if not folder.is_dir()]:
        says = "there is no such folder"
        raise ConfigError([Problem("run", "run", says, fix, folder, COMMAND_LINE) for folder in lost])
    return found


TASKS: dict[str, Callable[[Namespace, Composer], None]] = {
    "task=check": report,
    "task=resume": resume,
    "task=sweep_resume": sweep_resume,
    "task=trial": trial,
    "task=rerun": rerun,
    "task=export": export,
    "task=lint": lint,
    "task=report": look_back,
    "task=compare": look_back,
}
"""What is typed for a task -> who does it. Every other task starts runs."""

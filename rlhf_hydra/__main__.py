"""The command line: compose, check, then the task. `DictConfig` ends here.

Nothing that is slow to import is imported before a run has passed its check.
"""

import gc
import logging.config
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from glob import glob, has_magic
from io import StringIO
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf_hydra import provenance
from rlhf_hydra.checkpoint import whole
from rlhf_hydra.cluster.hardware import preflight
from rlhf_hydra.config.check import checked_resume, checked_run
from rlhf_hydra.config.compose import Composer, is_free, to_run
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem, foreign
from rlhf_hydra.config.explain import explain as explain_key
from rlhf_hydra.config.export import export as export_run
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.help import help_text
from rlhf_hydra.config.layers import leaves
from rlhf_hydra.config.lint import lint as find_repetitions
from rlhf_hydra.config.openrlhf import import_text
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.rules import run_folders
from rlhf_hydra.config.saved import save_run_yaml, saved_command, words_of
from rlhf_hydra.config.schema import ReportTask, RunConfig, Supervised
from rlhf_hydra.config.store import HIDDEN, find_conf_dir, new_folder
from rlhf_hydra.config.summary import summary
from rlhf_hydra.rerun import compare
from rlhf_hydra.sweep import conduct
from rlhf_hydra.sweep.child import end_with_parent
from rlhf_hydra.sweep.space import Point, Space

EXPLAIN = "Write task=check explain=KEY, without -m."
IMPORT = "task=import_openrlhf"

SHOWN = 20
"""Runs of a sound grid that `task=check` lists."""


def main() -> None:
    """Exit code 2, with one message that says everything, where the command line or the config is wrong."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads would spin while they wait,
    os.environ.setdefault("GOMP_SPINCOUNT", "0")  # and starve whatever else runs on the machine
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on, to be translated below
    try:
        if IMPORT in sys.argv[1:]:
            sys.exit(import_command(sys.argv[sys.argv.index(IMPORT) + 1 :]))
        args = get_args_parser().parse_intermixed_args()
        start(args)
    except ConfigError as error:
        sys.exit(complain(error))
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(complain(explain(error, args)))
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except ModuleNotFoundError as error:
        fix = "pip install 'rlhf_hydra[train,ray,deepspeed,vllm]', or `make setup` in a checkout"
        sys.exit(f"error: {error.name} is needed for this run and is not installed: {fix}")
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def import_command(words: list[str]) -> int:
    """Print what another project's command is here; without one, that of the standard input."""
    words = words[words[:1] == ["--"] :] or [sys.stdin.read()]
    try:
        print(import_text(words))
    except ConfigError as error:
        return complain(error)
    return 0


def complain(error: ConfigError) -> int:
    print(error, file=sys.stderr)
    return 2


def explain(error: Exception, args: Namespace) -> ConfigError:
    """What Hydra refused, in the words of this project where it has some."""
    try:
        problems = Composer(args.config_dir).compose(args.overrides).problems
    except ConfigError as found:
        problems = found.problems
    return ConfigError(problems or [foreign(error)])


def start(args: Namespace) -> None:
    refuse_flags(args)
    composer = Composer(args.config_dir)
    if args.help:
        print(help_text(composer.files))
    elif args.shell_completion:
        complete(args)
    elif args.hydra_help or args.cfg or args.info:
        hand_to_hydra(args)
    elif task := next((task for line, task in TASKS.items() if line in args.overrides), None):
        task(args, composer)
    elif args.multirun:
        sweep(args, composer)
    else:
        for _, run in list(checked_runs(args, composer)):
            preflight(run)
        hand_to_hydra(args)


def complete(args: Namespace) -> None:
    """What Hydra answers to a shell, less the groups that are no choice."""
    with redirect_stdout(StringIO()) as answer:
        hand_to_hydra(args)
    print("\n".join(line for line in answer.getvalue().splitlines() if line not in HIDDEN))


def refuse_flags(args: Namespace) -> None:
    """Flags that would go round the schemas, or that Hydra cannot serve."""
    found = []
    if args.config_name or args.config_path:
        fix = "Add a folder of your own with --config-dir FOLDER."
        found.append(Problem("flag", "--config-path, --config-name", "the config is always conf/config.yaml", fix))
    if args.multirun and (args.cfg or args.info):
        found.append(
            Problem("flag", "-m", "one config is shown at a time", "Drop -m, and choose one value of each key.")
        )
    if "explain" in given(args) and (args.multirun or "task=check" not in args.overrides):
        found.append(Problem("explain", "explain", "is asked of one run, and of no other task than check", EXPLAIN))
    own = ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper", "hydra.sweep.subdir")
    if args.multirun and any(line.lstrip("+").startswith(own) for line in args.overrides):
        fix = "Drop it; how trials are chosen and run is said with sweep.*."
        found.append(Problem("flag", "hydra", "sweeps have no launchers, sweepers and subfolders of Hydra's", fix))
    if found:
        raise ConfigError(found)


def hand_to_hydra(args: Namespace) -> None:
    """Give the command line to Hydra, which answers, or makes the run folder and calls `job`."""
    flags = [word for word in sys.argv[1:] if word not in args.overrides]
    # Hydra wants a plus for a new key even where any key is allowed.
    overrides = [f"++{line}" if is_free(line.partition("=")[0]) else line for line in args.overrides]
    sys.argv[1:] = [*flags, *overrides]
    hydra.main(version_base="1.3", config_path=str(find_conf_dir()), config_name="config")(job)()


def job(cfg: DictConfig) -> None:
    """One run, composed and logged by Hydra."""
    run = resolve(to_run(cfg))
    run.freeze()
    settings = HydraConfig.get()
    begin(run, Path(settings.runtime.output_dir), command(settings.overrides.task))


def begin(run: RunConfig, folder: Path, words: str, resume: bool = False) -> None:
    """Write down what is run, and run it."""
    save_run_yaml(run, folder / "run.yaml", words)
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
    finally:
        gc.unfreeze()  # or libraries complain at the end about what was never cleaned up


def asked(run: RunConfig, words: str) -> dict[str, Any]:
    """What a command line left to be resolved: key -> what it asked for."""
    folder, overrides = words_of(words)
    try:
        before = Composer(folder).compose(overrides).run
    except ConfigError:
        return {}
    was, now = (dict(leaves(asdict(each))) for each in (before, run))
    return {key: value for key, value in was.items() if key in now and now[key] != value}


def command(overrides: Sequence[str]) -> str:
    """What repeats this run."""
    folder = get_args_parser().parse_intermixed_args().config_dir
    overrides = [line.removeprefix("++") for line in overrides]
    return shlex.join(["python", "-m", "rlhf_hydra", *(["--config-dir", folder] if folder else []), *overrides])


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
        places = (f"    in {len(runs)} of {total} runs, first: {' '.join(runs[0])}" for runs in wrong.values())
        self.args = ("\n".join(f"error: {problem}\n{place}" for problem, place in zip(wrong, places, strict=True)),)


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
        print(f"{len(runs)} runs are sound" + (f", of which {SHOWN} are listed" if len(runs) > SHOWN else ""))


# ----------------------------------------------------------------------------------------------------- resume


def resume(args: Namespace, composer: Composer) -> None:
    """Go on with the run in `run=FOLDER`."""
    folder, run = saved_run(args)
    log_to(folder)
    begin(run, folder.resolve(), saved_command(folder / "run.yaml"), resume=True)


def rerun(args: Namespace, composer: Composer) -> None:
    """Repeat the run in `run=FOLDER` beside it, and compare. Exit code 1 if the numbers differ."""
    folder, run = saved_run(args)
    again = Path(new_folder(f"{folder.resolve()}-again"))
    log_to(again)
    begin(run, again, saved_command(folder / "run.yaml"))
    is_same, text = compare(folder, again)
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
    folder = run_folder(args)
    run = checked_resume(folder, changes(args))
    preflight(run)
    return folder, run


def log_to(folder: Path) -> None:
    """Log as Hydra does for a new run, onto the end of the same file."""
    settings = yaml.safe_load((find_conf_dir() / "hydra/job_logging/rich.yaml").read_text())
    settings["handlers"]["file"]["filename"] = str(folder / "run.log")
    logging.config.dictConfig(settings)


# ----------------------------------------------------------------------------------------------------- sweeps


def sweep(args: Namespace, composer: Composer) -> None:
    """`-m`: many runs, side by side."""
    runs = list(checked_runs(args, composer))
    for _, run in runs:
        preflight(run)
    folder = composer.sweep_folder(args.overrides, runs[0][1].outputs)
    sys.exit(conduct.start(composer, args.overrides, runs, folder))


def sweep_resume(args: Namespace, composer: Composer) -> None:
    """Run what is missing of the sweep in `run=FOLDER`."""
    sys.exit(conduct.resume(run_folder(args), changes(args)))


def trial(args: Namespace, composer: Composer) -> None:
    """What a sweep starts: the run that `run.yaml` in `run=FOLDER` describes, from its newest checkpoint if any."""
    end_with_parent()
    folder = run_folder(args)
    run = checked_resume(folder)
    log_to(folder)
    begin(run, folder, saved_command(folder / "run.yaml"), resume=bool(whole(folder)))


# ------------------------------------------------------------------------------------------------- report, compare


def look_back(args: Namespace, composer: Composer) -> None:
    """`task=report` and `task=compare`: read the folders in `run`, and start nothing."""
    if args.multirun:
        raise ConfigError([Problem("run", "-m", "all runs are read at once", "Drop it; write run=[FOLDER,FOLDER].")])
    run = checked_run(args.overrides, composer)
    folders = find_folders(run)
    if isinstance(run.task, ReportTask):
        from rlhf_hydra.sweep.report import make_report

        make_report(folders, run.task, Path(run.outputs), args.config_dir)
    else:
        from rlhf_hydra.sweep.compare import print_comparison

        print_comparison(folders[0], folders[1])


def find_folders(run: RunConfig) -> list[Path]:
    """The folders in `run`, patterns replaced by what they match."""
    found: list[Path] = []
    for name in run_folders(run) or []:
        found += [Path(match) for match in sorted(glob(name))] if has_magic(name) else [Path(name)]
    if not found:
        raise ConfigError([Problem("run", "run", "matches no folder", value=run.run, where=COMMAND_LINE)])
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


if __name__ == "__main__":
    main()

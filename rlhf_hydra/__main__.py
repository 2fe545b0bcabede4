"""The command line: compose, check, then the task. `DictConfig` ends here.

Nothing that is slow to import is imported before a run has passed its check.
"""

import gc
import logging.config
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf_hydra.cluster.hardware import preflight
from rlhf_hydra.config.check import checked_resume, checked_run
from rlhf_hydra.config.compose import Composer, is_free, to_run
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem, foreign
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.help import help_text
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.saved import save_run_yaml, saved_command
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.store import find_conf_dir
from rlhf_hydra.config.summary import summary

SHOWN = 20
"""Runs of a sound grid that `task=check` lists."""


def main() -> None:
    """Exit code 2, with one message that says everything, where the command line or the config is wrong."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads would spin while they wait,
    os.environ.setdefault("GOMP_SPINCOUNT", "0")  # and starve whatever else runs on the machine
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on, to be translated below
    args = get_args_parser().parse_intermixed_args()
    try:
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
    elif args.hydra_help or args.cfg or args.info or args.shell_completion:
        hand_to_hydra(args)
    elif "task=resume" in args.overrides:
        resume(args)
    elif "task=check" in args.overrides:
        report(args, composer)
    else:
        for _, run in list(checked_runs(args, composer)):
            preflight(run)
        hand_to_hydra(args)


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
    gc.disable()  # what is imported stays: searching it for garbage takes seconds
    from rlhf_hydra.driver import train

    gc.freeze()
    gc.enable()
    train(run, folder, words, resume=resume)


def command(overrides: Sequence[str]) -> str:
    """What repeats this run."""
    folder = get_args_parser().parse_intermixed_args().config_dir
    overrides = [line.removeprefix("++") for line in overrides]
    return shlex.join(["python", "-m", "rlhf_hydra", *(["--config-dir", folder] if folder else []), *overrides])


# ----------------------------------------------------------------------------------------------------- check


def checked_runs(args: Namespace, composer: Composer) -> Iterator[tuple[list[str], RunConfig]]:
    """Every run that the command line asks for, checked; one, or with `-m` each of the grid.

    Raises:
        ConfigError: after the last of them, with each thing that is wrong and the runs that it is wrong in.
    """
    grid = composer.expand(args.overrides) if args.multirun else iter([list(args.overrides)])
    wrong: dict[Problem, list[list[str]]] = {}
    total = 0
    for overrides in grid:
        total += 1
        try:
            yield overrides, checked_run(overrides, composer)
        except ConfigError as error:
            for problem in error.problems:
                wrong.setdefault(problem, []).append(overrides)
    if wrong:
        raise GridError(wrong, total) if args.multirun else ConfigError(list(wrong))


class GridError(ConfigError):
    """Runs of a grid that cannot be started."""

    def __init__(self, wrong: dict[Problem, list[list[str]]], total: int) -> None:
        super().__init__(list(wrong))
        places = (f"    in {len(runs)} of {total} runs, first: {' '.join(runs[0])}" for runs in wrong.values())
        self.args = ("\n".join(f"error: {problem}\n{place}" for problem, place in zip(wrong, places, strict=True)),)


def report(args: Namespace, composer: Composer) -> None:
    """`task=check`: a line for each sound run, or everything that is wrong. Writes no file."""
    runs = list(checked_runs(args, composer))
    for overrides, run in islice(runs, SHOWN):
        line = " ".join(override for override in overrides if override != "task=check")
        print(f"ok  {line}" if args.multirun else summary(run))
    if args.multirun:
        print(f"{len(runs)} runs are sound" + (f", of which {SHOWN} are listed" if len(runs) > SHOWN else ""))


# ----------------------------------------------------------------------------------------------------- resume


def resume(args: Namespace) -> None:
    """Go on with the run in `run=FOLDER`."""
    if args.multirun:
        raise ConfigError([Problem("resume", "-m", "one run is resumed at a time", "Drop it.")])
    given = dict(override.partition("=")[::2] for override in args.overrides)
    if not given.get("run"):
        fix = "Add run=outputs/ALGO-MODEL/TIME."
        raise ConfigError([Problem("resume", "run", "task=resume needs the folder of a run", fix, where=COMMAND_LINE)])
    folder = Path(given["run"])
    run = checked_resume(folder, [line for line in args.overrides if line.partition("=")[0] not in ("task", "run")])
    preflight(run)
    log_to(folder)
    begin(run, folder.resolve(), saved_command(folder / "run.yaml"), resume=True)


def log_to(folder: Path) -> None:
    """Log as Hydra does for a new run, onto the end of the same file."""
    settings = yaml.safe_load((find_conf_dir() / "hydra/job_logging/rich.yaml").read_text())
    settings["handlers"]["file"]["filename"] = str(folder / "run.log")
    logging.config.dictConfig(settings)


if __name__ == "__main__":
    main()

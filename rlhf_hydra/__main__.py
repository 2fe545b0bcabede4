"""The command line, what Hydra is asked, and mistakes in words. `DictConfig` ends here; tasks are in `tasks.py`.

Nothing that is slow to import is imported before a run has passed its check.
"""

import os
import shlex
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf_hydra.cluster.jobs import require_same_version
from rlhf_hydra.config.compose import Composer, is_free, to_run
from rlhf_hydra.config.errors import ConfigError, Problem, foreign
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.help import help_text
from rlhf_hydra.config.openrlhf.translate import import_text
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.store import HIDDEN, find_conf_dir
from rlhf_hydra.tasks import TASKS, begin, checked_runs, given, settle, sweep

EXPLAIN = "Write task=check explain=KEY, without -m."
IMPORT = "task=import_openrlhf"


def main() -> None:
    """Exit code 2, with one message that says everything, where the command line or the config is wrong."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads would spin while they wait,
    os.environ.setdefault("GOMP_SPINCOUNT", "0")  # and starve whatever else runs on the machine
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on, to be translated below
    try:
        if IMPORT in sys.argv[1:]:
            sys.exit(import_command(sys.argv[sys.argv.index(IMPORT) + 1 :]))
        require_same_version()
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
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
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
        composed = composer.compose(args.overrides)
        if wrong := [problem for problem in composed.problems if problem.rule != "reference"]:
            raise ConfigError(wrong)  # a reference to what is not there is shown as it is
        hand_to_hydra(args)
    elif task := next((task for line, task in TASKS.items() if line in args.overrides), None):
        task(args, composer)
    elif args.multirun:
        sweep(args, composer)
    else:
        for _, run in list(checked_runs(args, composer)):
            settle(args, run)
        hand_to_hydra(args)


def complete(args: Namespace) -> None:
    """What Hydra answers to a shell, less the groups that are no choice."""
    try:
        with redirect_stdout(StringIO()) as answer:
            hand_to_hydra(args)
    except ValueError:
        fix = "Write -sc install=bash, install=zsh or install=fish."
        raise ConfigError([Problem("flag", "-sc", "is for bash, zsh and fish", fix)]) from None
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
    if any(line.startswith("hydra.mode=") for line in args.overrides):
        found.append(Problem("flag", "hydra.mode", "a sweep is asked for with -m", "Write -m in its place."))
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


def command(overrides: Sequence[str]) -> str:
    """What repeats this run."""
    folder = get_args_parser().parse_intermixed_args().config_dir
    overrides = [line.removeprefix("++") for line in overrides]
    return shlex.join(["python", "-m", "rlhf_hydra", *(["--config-dir", folder] if folder else []), *overrides])


if __name__ == "__main__":
    main()

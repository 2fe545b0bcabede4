"""`best/experiment.yaml`: the best of a sweep as its difference from the defaults, and the command that runs it."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.export import composes_to, experiment_yaml
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.sweep.settings import Setting

FILES = ("best/experiment.yaml", "best/experiment/best.yaml")
"""To read, and the same where `--config-dir` finds it."""


def write_best(folder: Path, setting: Setting, title: str, config_dir: str | None) -> str:
    """Write the files below `folder`, checked to compose to the very run; the command that uses them. What was run with
    several seeds is written without one, and the command has them all. `title`: what it is, and of what.

    Raises:
        Failure: the run cannot be read or written so, or what was written is not all of it; the files are there then.
    """
    trial = next((trial for trial in setting.trials if trial.run), None)
    if trial is None or trial.run is None:
        raise Failure(f"best/experiment.yaml was not written: the run.yaml of {setting.name} cannot be read")
    team = config_dir or folder_of(trial.words)
    search = [f"hydra.searchpath=[file://{Path(team).resolve()}]"] if team else []
    command = command_for(folder, setting, search)
    try:
        text = experiment_yaml(without_seed(trial.run) if len(setting.trials) > 1 else trial.run, Composer(team))
        for name in FILES:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"# @package _global_\n# {title}. Run it again:\n#   {command}\n{text}")
        own = [f"seed={trial.run.seed}"] if len(setting.trials) > 1 else []
        wrong = composes_to(trial.run, folder / "best", ["experiment=best", *search, *own])
    except (ConfigError, Failure) as error:
        raise Failure(f"best/experiment.yaml was not written: {error}") from error
    if wrong:
        raise Failure(f"best/experiment.yaml is not all of {setting.name}: it lacks {', '.join(wrong)}")
    return command


def command_for(folder: Path, setting: Setting, search: Sequence[str]) -> str:
    seeds = [f"seed={','.join(map(str, setting.seeds))}"] if len(setting.trials) > 1 else []
    words = ["--config-dir", str(folder / "best"), *["-m"] * len(seeds), "experiment=best", *search, *seeds]
    return shlex.join(["python", "-m", "rlhf_hydra", *words])


def without_seed(run: RunConfig) -> RunConfig:
    return replace(run, seed=RunConfig.seed)


def folder_of(words: Sequence[str]) -> str | None:
    """The folder of team configs in a command line."""
    found = [after for word, after in zip(words, words[1:], strict=False) if word in ("--config-dir", "-cd")]
    return found[0] if found else None

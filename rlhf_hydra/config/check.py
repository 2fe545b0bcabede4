"""Everything that is wrong with a run, found before anything is started.

Allowed values and ranges of single keys stand in `schema/`, the rules that span several in `rules/`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem, one_of
from rlhf_hydra.config.layers import leaves
from rlhf_hydra.config.layout import unread_parts
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.rules import RL_RULES, RULES, SUPERVISED_RULES, Rule
from rlhf_hydra.config.saved import load_run_yaml
from rlhf_hydra.config.schema import RL, RunConfig, Section, Supervised
from rlhf_hydra.config.secrets import SHAPES, is_exposed, redacted

COMPARE = {"ge": (ge, "at least"), "gt": (gt, "more than"), "le": (le, "at most"), "lt": (lt, "less than")}

MAY_LACK = ("task", "data", "reward", "tracking")
"""Sections whose missing values no rule counts with; where another lacks one, the rules wait until it is given."""


def checked_run(overrides: Sequence[str] = (), composer: Composer | None = None) -> RunConfig:
    """The run of a command line: composed, its open values set, checked, frozen.

    Raises:
        ConfigError: with everything that is wrong.
    """
    composed = (composer or Composer()).compose(overrides)
    return accept(composed.run, composed.origins, composed.problems)


def checked_resume(folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run that `folder/run.yaml` describes, with `key=value` changes; otherwise as `checked_run`."""
    run = load_run_yaml(folder / "run.yaml", overrides)
    return accept(run, {line.partition("=")[0]: COMMAND_LINE for line in overrides})


def accept(run: RunConfig, origins: Mapping[str, str], problems: Sequence[Problem] = ()) -> RunConfig:
    """Resolve, check and freeze; `problems` are those of the composition."""
    resolve(run)
    known = {problem.key for problem in problems}
    found = [*problems, *(problem for problem in check(run, origins) if problem.key not in known)]
    if found:
        raise ConfigError(found)
    run.freeze()
    return run


def check(run: RunConfig, origins: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything that is wrong with `run`; `origins` says in which file or override a key was set."""
    origins = origins or {}
    found = list(check_values(run))
    if not any(problem.rule == "missing" and problem.key.split(".")[0] not in MAY_LACK for problem in found):
        rules = [*RULES, *(RL_RULES if isinstance(run.algo, RL) else SUPERVISED_RULES)]
        found += [problem for rule in rules for problem in named(rule, run, is_sound=not found)]
    found += [*unread(run, origins), *exposed(run)]
    return [locate(problem, run, origins) for problem in found]


def named(rule: Rule, run: RunConfig, is_sound: bool) -> Iterator[Problem]:
    """What a rule has to say. It may fail over a value that is not sound, such as 0 nodes, which has been said."""
    try:
        yield from (replace(problem, rule=rule.__name__) for problem in rule(run))
    except ArithmeticError:
        if is_sound:
            raise


def locate(problem: Problem, run: RunConfig, origins: Mapping[str, str]) -> Problem:
    """The problem with the value of its key and the place where it was set."""
    value: Any = run
    for key in problem.key.split("."):
        value = value.get(key) if isinstance(value, dict) else vars(value).get(key)
    shown = None if isinstance(value, Section | dict) or value == MISSING else value
    shown = str(shown) if isinstance(shown, list) else shown  # problems are collected, and so must be hashable
    shown = redacted(shown) if isinstance(shown, str) else shown
    return replace(problem, value=shown, where=origins.get(problem.key, ""))


def check_values(section: Section, prefix: str = "") -> Iterator[Problem]:
    """Missing values, and those outside the choices and ranges that their fields declare."""
    for f in fields(section):  # type: ignore[arg-type]
        name, value = f"{prefix}{f.name}", getattr(section, f.name)
        if isinstance(value, Section):
            yield from check_values(value, f"{name}.")
        elif isinstance(value, dict):
            for key, child in value.items():
                if isinstance(child, Section):
                    yield from check_values(child, f"{name}.{key}.")
        elif isinstance(value, str) and value == MISSING:
            yield missing(name)
        elif value is not None:
            yield from check_value(name, value, f.metadata)


def missing(name: str) -> Problem:
    if name == "reward":
        return Problem(
            "missing", name, "no source of rewards", "Choose one: reward=rule, function, model or composite."
        )
    if name == "algo.teacher.path":
        fix = "Set it to a folder or hub id of a language model with the policy's vocabulary."
        return Problem("missing", name, "no teacher to learn from", fix)
    return Problem("missing", name, "must be given", f"Add {name}=VALUE.")


def check_value(name: str, value: Any, metadata: Mapping[str, Any]) -> Iterator[Problem]:
    choices, bounds = metadata.get("choices"), metadata.get("bounds", {})
    for item in value if isinstance(value, list) else [value]:
        if choices and item not in choices:
            says = f"{item} is not among its choices" if isinstance(value, list) else "is not among its choices"
            yield Problem("choice", name, says, one_of(str(item), choices))
    if choices and isinstance(value, list) and len(set(value)) < len(value):
        yield Problem("choice", name, "names one of them twice", "Name each once.")
    if any(not COMPARE[sign][0](value, bound) for sign, bound in bounds.items()):
        wanted = " and ".join(f"{COMPARE[sign][1]} {bound}" for sign, bound in bounds.items())
        yield Problem("range", name, f"must be {wanted}")


def exposed(run: RunConfig) -> Iterator[Problem]:
    """A secret that is written down in a config ends up in files, logs and process lists."""
    if not SHAPES.search(repr(run)):
        return
    for key, value in leaves(asdict(run)):
        if any(is_exposed(str(text)) for text in (value if isinstance(value, list) else [value])):
            fix = f"Put it into an environment variable such as API_KEY, and write {key}='${{oc.env:API_KEY}}'."
            yield Problem("secret", key, "looks like a token, which must not stand in a config", fix)


def unread(run: RunConfig, origins: Mapping[str, str]) -> list[Problem]:
    """Somebody set keys that this algorithm does not read."""
    says, fix = "has no {}", "Drop it, or take an algorithm with a critic, such as algo=ppo."
    if isinstance(run.algo, Supervised):
        says, fix = "does not sample, and reads no {}", "Drop it, or take an algorithm that samples."
    found = []
    for key in (key for key, where in origins.items() if is_deliberate(where)):
        for part in unread_parts(run):
            if key == part or key.startswith(f"{part}."):
                found.append(Problem("unread", key, f"algo={run.algo.name} {says.format(part)}", fix))
    return found


def is_deliberate(where: str) -> bool:
    return where == COMMAND_LINE or Path(where).parent.name == "experiment"

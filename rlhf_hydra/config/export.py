"""A run as an experiment file: the choices and the values in which it differs from what `conf/` would make of it."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from rlhf_hydra.config.compose import Composer, leaves
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.keys import schema_name
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.saved import plain
from rlhf_hydra.config.schema import RunConfig, Section

PLACES = ("task", "outputs", "run", "sweep")
"""What is done with a run, and where it writes: no part of an experiment."""


def experiment_yaml(run: RunConfig, config_dir: str | None = None) -> str:
    """What the shortest file of `conf/experiment/` from which `run` can be composed says below its first line,
    `# @package _global_`; `config_dir` holds choices beside those of `conf/`.

    Raises:
        Failure: the run has a choice that is found nowhere.
    """
    composer = Composer(config_dir)
    usual = choices(composer.compose().run)
    chosen = {group: name for group, name in choices(run).items() if usual.get(group) != name}
    for group, name in chosen.items():
        if name not in composer.files.get_group_options(group.partition("@")[0]):
            raise Failure(f"there is no {group}={name} here; name the folder that has it with --config-dir")
    lines = [f"{'+' if is_entry(run, group) else ''}{group}={name}" for group, name in chosen.items()]
    base = resolve(composer.compose(lines).run)
    defaults = [{f"{'' if is_entry(run, group) else 'override '}/{group}": name} for group, name in chosen.items()]
    content = ({"defaults": [*defaults, "_self_"]} if defaults else {}) | difference(comparable(run), comparable(base))
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120) if content else ""


def choices(run: RunConfig) -> dict[str, str]:
    """Which option was chosen of each group: `{"algo": "ppo", "data@eval.data": "gsm8k"}`."""
    found = {}
    for path, section in sections(run):
        group = (schema_name(section) or "/").split("/")[0]
        if group and group not in PLACES:
            found[group if path == group else f"{group}@{path}"] = str(vars(section)["name"])
    return found


def sections(section: Section, prefix: str = "") -> Iterator[tuple[str, Section]]:
    """Every section inside, with its dotted path."""
    for f in fields(section):  # type: ignore[arg-type]
        value = getattr(section, f.name)
        children = value if isinstance(value, dict) else {"": value}
        for key, child in children.items():
            if isinstance(child, Section):
                path = f"{prefix}{f.name}.{key}".rstrip(".")
                yield path, child
                yield from sections(child, f"{path}.")


def is_entry(run: RunConfig, group: str) -> bool:
    """Whether a choice is an entry of a mapping, as in `reward.parts`, which `conf/config.yaml` has no line for."""
    value: Any = run
    for name in group.partition("@")[2].split(".")[:-1]:
        value = value[name] if isinstance(value, dict) else vars(value)[name]
    return isinstance(value, dict)


def comparable(run: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in plain(run).items() if key not in PLACES}


def difference(value: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """The part of a tree that differs from `base`."""
    found: dict[str, Any] = {}
    for key, child in value.items():
        if isinstance(child, dict) and isinstance(base.get(key), dict):
            found |= {key: inside} if (inside := difference(child, base[key])) else {}
        elif key not in base or child != base[key]:
            found[key] = child
    return found


def composes_to(run: RunConfig, config_dir: Path, overrides: Sequence[str]) -> list[str]:
    """The keys in which what these overrides compose to is not `run`; [] if it is."""
    composed = Composer(str(config_dir)).compose(overrides)
    ours, theirs = (dict(leaves(comparable(each))) for each in (run, resolve(composed.run)))
    wrong = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key) or (key in ours) != (key in theirs)]
    return [problem.key for problem in composed.problems] + wrong

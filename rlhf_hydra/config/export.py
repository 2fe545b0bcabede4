"""A run as an experiment file: the choices and the values in which it differs from what `conf/` would make of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_omega_conf_dumper

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.keys import schema_name
from rlhf_hydra.config.layers import leaves
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.saved import comment, load_run_yaml, plain, saved_command, words_of
from rlhf_hydra.config.schema import RunConfig, Section
from rlhf_hydra.config.secrets import redacted

PLACES = ("task", "outputs", "run", "sweep")
"""What is done with a run, and where it writes: no part of an experiment."""
DUMPER = get_omega_conf_dumper()
"""Puts a text such as `1e-5` in quotes, which YAML itself would not take for a number, and OmegaConf would."""


def experiment_yaml(run: RunConfig, composer: Composer) -> str:
    """What the shortest file of `conf/experiment/` from which `run` can be composed says below its first line,
    `# @package _global_`; `composer` knows where the choices of the run are.

    Raises:
        Failure: the run has a choice that is found nowhere.
    """
    chosen = unusual(run, composer.compose().run)
    for group, name in chosen.items():
        if name not in composer.files.get_group_options(group.partition("@")[0]):
            raise Failure(f"there is no {group}={name} here; name the folder that has it with --config-dir")
    chosen = {group: name for group, name in chosen.items() if not is_entry(run, group)}
    new: list[str] = []
    lines = typed(chosen, new)
    while entries := lacking(run, base := composer.compose(lines).run, chosen):
        new += [group for group in entries if group not in choices(base)]
        chosen |= entries
        lines = typed(chosen, new)
    values = needed(run, composer, lines, difference(comparable(run), comparable(resolve(base))))
    added = [{f"/{group}": chosen[group]} for group in new]
    changed = [{f"override /{group}": name} for group, name in chosen.items() if group not in new]
    content = ({"defaults": [*added, "_self_", *changed]} if chosen else {}) | values  # Hydra wants overrides last
    return yaml.dump(content, Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=120) if content else ""


def typed(chosen: Mapping[str, str], new: Sequence[str]) -> list[str]:
    return [f"{'+' if group in new else ''}{group}={name}" for group, name in chosen.items()]


def lacking(run: RunConfig, base: RunConfig, chosen: Mapping[str, str]) -> dict[str, str]:
    """Choices of entries that `base` does not have, of the outermost: an entry may bring others with it."""
    found = {group: name for group, name in unusual(run, base).items() if group not in chosen and is_entry(run, group)}
    outermost = min((group.count(".") for group in found), default=0)
    return {group: name for group, name in found.items() if group.count(".") == outermost}


def unusual(run: RunConfig, base: RunConfig) -> dict[str, str]:
    """The choices of `run` that `base` does not have."""
    have = choices(base)
    return {group: name for group, name in choices(run).items() if have.get(group) != name}


def needed(run: RunConfig, composer: Composer, lines: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """`values` without those that follow from the others, as `reward.rule` does from `data.rule`.

    Raises:
        Failure: choices and values do not make this run.
    """
    kept = dict(leaves(values))
    if wrong := unlike(run, composer, lines, kept):
        raise Failure(f"this run cannot be written as choices and values; what would differ: {', '.join(wrong)}")
    for name in list(kept):
        rest = {key: value for key, value in kept.items() if key != name}
        kept = kept if unlike(run, composer, lines, rest) else rest
    tree: dict[str, Any] = {}
    for name, value in kept.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def unlike(run: RunConfig, composer: Composer, lines: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """The keys in which what these overrides and values compose to is not `run`; [] if it is."""
    composed = composer.compose(lines, values)
    ours, theirs = (dict(leaves(comparable(each))) for each in (run, resolve(composed.run)))
    wrong = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key) or (key in ours) != (key in theirs)]
    return [problem.key for problem in composed.problems] + wrong


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
    """The run without where it was told and written."""
    whole = {key: value for key, value in plain(run).items() if key not in PLACES}
    return {**whole, "tracking": {**whole["tracking"], "group": None}}


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
    return unlike(run, Composer(str(config_dir)), overrides, {})


def export(folder: Path, name: str, config_dir: str | None = None) -> Path:
    """Write the run in `folder` as the experiment `name`, below `config_dir`, or else below the folder of the run.

    Raises:
        Failure: there is such a file, or the run has a choice that is found nowhere.
    """
    run, command = load_run_yaml(folder / "run.yaml"), saved_command(folder / "run.yaml")
    Path(config_dir or folder).mkdir(parents=True, exist_ok=True)
    text = experiment_yaml(run, Composer(config_dir or words_of(command)[0]))
    file = Path(config_dir or folder / "export") / f"experiment/{name}.yaml"
    if file.exists():
        raise Failure(f"{file} is there already; give another name=NAME")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(redacted(comment(f"@package _global_\nFrom a run of: {command}") + text))
    return file

"""What is wrong with a run, said so that the reader can put it right."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, get_origin

from omegaconf.errors import ConfigAttributeError, ConfigKeyError, ConfigTypeError

from rlhf_hydra.config.failure import ConfigError as ConfigError
from rlhf_hydra.config.failure import Problem as Problem
from rlhf_hydra.config.keys import Key, all_keys, type_name

COMMAND_LINE = "command line"


def nearest(word: str, options: Iterable[str], count: int = 3) -> list[str]:
    """The options that look most like `word`, best first."""
    lower = {option.lower(): option for option in options}
    return [lower[match] for match in get_close_matches(word.lower(), lower, n=count, cutoff=0.6)]


def one_of(word: str, options: Iterable[str]) -> str:
    """The way out where a value is none of `options`."""
    options = sorted(options)
    near = nearest(word, options)
    guess = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{guess}There are: {', '.join(options)}." if options else guess


def unknown_option(group: str, option: str, options: Iterable[str], where: str) -> Problem:
    return Problem(
        "option", group, f"there is no {group.partition('@')[0]} of that name", one_of(option, options), option, where
    )


def unknown_key(name: str, value: Any, where: str, schemas: Sequence[str], groups: Iterable[str] = ()) -> Problem:
    """`name` is no key of this run, whose choices have `schemas`; say whose key it is, or which come near."""
    if name.partition(".")[0] == "experiment" and where != COMMAND_LINE:
        fix = "Begin the file with the line `# @package _global_`, and choose an experiment on the command line."
        return Problem("key", name, "is no part of a run", fix, value, where)
    variants = all_keys().get(name) or inside_of(name)
    if variants:
        owners = ", ".join(path.replace("/", "=") for key in variants for path in key.schemas)
        mine = next((path for path in schemas if path.startswith(f"{name.split('.')[0]}/")), "").replace("/", "=")
        return Problem(
            "key", name, f"is a key of {owners}; this run has {mine}", f"Drop it, or take {owners}.", value, where
        )
    near = similar_keys(name, schemas, groups)
    fix = f"Did you mean {' or '.join(near)}?" if near else f"Keys there: {', '.join(siblings(name, schemas, groups))}."
    return Problem("key", name, "there is no such key", fix, value, where)


def inside_of(name: str) -> tuple[Key, ...]:
    """The mappings that take any key, `name` among them, as `reward.kwargs` of `reward=function` does."""
    above = (name[: dot.start()] for dot in re.finditer("[.]", name))
    return tuple(key for parent in above for key in all_keys().get(parent, ()) if get_origin(key.kind) is dict)


def similar_keys(name: str, schemas: Sequence[str], groups: Iterable[str]) -> list[str]:
    """Keys of this run that `name` may stand for: those that end in it, near ones in the same section, those whose last
    word is its last, or near ones anywhere."""
    section, _, last = name.rpartition(".")
    mine = run_keys(schemas)
    if ends := [key for key in mine if key.endswith(f".{name}")]:
        return ends[:3]
    prefix = f"{section}." if section else ""
    beside = {key[len(prefix) :] for key in siblings(name, schemas, groups)}
    close = [prefix + key for key in nearest(last, beside)]
    same = [key for key in mine if key.rpartition(".")[2] == last]
    same += [key for key in all_keys() if key.rpartition(".")[2] == last and key not in mine]
    return list(dict.fromkeys(close + same))[:3] or nearest(name, mine)


def run_keys(schemas: Sequence[str]) -> dict[str, Key]:
    """The keys of a run whose choices have `schemas`."""
    found = {}
    for name, variants in all_keys().items():
        for key in variants:
            if not key.schemas or set(key.schemas) & set(schemas):
                found[name] = key
    return found


def siblings(name: str, schemas: Sequence[str], groups: Iterable[str] = ()) -> list[str]:
    """The keys of the section in which `name` would be, or of the nearest one above that exists."""
    mine = run_keys(schemas)
    section = name.rpartition(".")[0]
    while section and not any(key.startswith(f"{section}.") for key in mine):
        section = section.rpartition(".")[0]
    if not section:
        return sorted({key for key in mine if "." not in key} | set(groups))
    return sorted(key for key in mine if key.rpartition(".")[0] == section)


def bad_value(error: Exception, name: str, value: Any, where: str, schemas: Sequence[str]) -> Problem:
    """Translate OmegaConf's refusal to set `name` to `value`."""
    key = run_keys(schemas).get(name)
    if key is None and isinstance(error, ConfigKeyError | ConfigAttributeError | ConfigTypeError):
        return unknown_key(name, value, where, schemas)
    wanted = type_name(key.kind) if key else "another type"
    fix = f"Set one of its keys: {', '.join(siblings(name + '.x', schemas))}." if wanted == "a section" else ""
    if wanted == "a section" and where != COMMAND_LINE and "." not in name and isinstance(value, str):
        fix = f"To choose it, write `- override /{name}: {value}` below `defaults:`."
    if wanted == "a list" and isinstance(value, str):
        fix = f"Write {name}=[{value}]."
    return Problem("type", name, f"must be {wanted}", fix, value, where)


def unresolved(error: Exception, name: str, value: Any, where: str) -> Problem:
    """A `${...}` that refers to nothing, or to what does not fit."""
    reason = str(error).splitlines()[0]
    if variable := re.search(r"Environment variable '(.+?)' not found", reason):
        fix = f"export {variable[1]}=..., or give a value for when it is not: ${{oc.env:{variable[1]},VALUE}}."
        return Problem("reference", name, f"there is no environment variable {variable[1]}", fix, value, where)
    if key := re.search(r"Interpolation key '(.+?)' not found", reason):
        near = nearest(key[1], all_keys())
        guess = " or ".join(f"${{{each}}}" for each in near)
        fix = f"Did you mean {guess}?" if near else "Name a key as it is set: ${seed}."
        return Problem("reference", name, f"there is no key {key[1]}", fix, value, where)
    if "Recursive" in reason:
        return Problem("reference", name, "refers to itself", "Set it to a value.", value, where)
    reason = reason.rpartition("resolving interpolation: ")[2]
    return Problem("reference", name, reason, "Refer to something else, or set it to a value.", value, where)


def foreign(error: Exception) -> Problem:
    """Any other refusal of Hydra or OmegaConf in its own words, less its advice to add a plus, which hides typos."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    lines = [
        line for line in text.splitlines() if line.strip() and not re.search(r"[Tt]o append|full_key|object_type", line)
    ]
    return Problem("hydra", "hydra", " ".join(line.strip() for line in lines))

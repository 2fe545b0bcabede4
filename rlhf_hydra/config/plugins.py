"""Choices and schemas of teams, from installed packages: the entry point group `rlhf_hydra.plugins` (docs/teams.md)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import get_type_hints

from rlhf_hydra.config.failure import ConfigError, Problem
from rlhf_hydra.config.schema import SCHEMAS, RunConfig, Section

GROUP = "rlhf_hydra.plugins"


@dataclass(frozen=True)
class Plugin:
    """What a package brings: `acme = "acme_rl:plugin"` among its entry points names one of these."""

    conf: str = ""
    """Package with files such as `algo/acme_ppo.yaml`, laid out as `conf/` is: `acme_rl.conf`."""
    schemas: Mapping[str, type[Section]] = field(default_factory=dict)
    """`{"algo/acme_ppo": AcmePPO}`: group and name, as in the files' `/schema/algo@_here_: acme_ppo`."""


@dataclass(frozen=True)
class Installed:
    """A plugin, and whose it is."""

    title: str
    """Entry point and distribution."""
    plugin: Plugin


def title(entry: EntryPoint) -> str:
    dist = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"{entry.name} = {entry.value}{dist}"


@cache
def installed() -> tuple[Installed, ...]:
    """The plugins of this environment, sound and without contradictions.

    Raises:
        ConfigError: with everything that is wrong with them.
    """
    found, problems = [], []
    for entry in sorted(entry_points(group=GROUP), key=title):
        try:
            found.append(Installed(title(entry), load(entry)))
        except ConfigError as error:
            problems += error.problems
    problems += [problem for one in found for problem in unsound(one)]
    problems += contradictions(found)
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def load(entry: EntryPoint) -> Plugin:
    fix = f"Correct it, or pip uninstall {entry.dist.name}." if entry.dist else "Correct it."
    try:
        plugin = entry.load()
    except Exception as error:  # whatever a package raises while it is imported
        says = f"cannot be imported: {type(error).__name__}: {error}"
        raise ConfigError([Problem("plugin", title(entry), says, fix)]) from None
    if not isinstance(plugin, Plugin):
        says = f"names a {type(plugin).__name__}, not a rlhf_hydra.config.plugins.Plugin"
        raise ConfigError([Problem("plugin", title(entry), says, fix)])
    return plugin


def unsound(one: Installed) -> Iterator[Problem]:
    """Its package of files exists, and each schema fits the group that it names."""
    if one.plugin.conf and not is_package(one.plugin.conf):
        fix = "A package of configs needs an __init__.py, and its .yaml files must be installed with it."
        yield Problem("plugin", one.title, f"there is no package {one.plugin.conf}", fix)
    kinds = get_type_hints(RunConfig)
    groups = {path.split("/")[0] for path in SCHEMAS}
    for path, schema in one.plugin.schemas.items():
        group = path.partition("/")[0]
        if path.count("/") != 1 or group not in groups:
            fix = f"Write GROUP/NAME with a group of {', '.join(sorted(groups))}."
            yield Problem("plugin", one.title, f"has a schema for `{path}`", fix)
        elif not (isinstance(schema, type) and issubclass(schema, kinds[group]) and is_dataclass(schema)):
            fix = f"Derive it, as a dataclass, from {kinds[group].__name__} or a class that does."
            yield Problem("plugin", one.title, f"its schema {path} does not fit {kinds[group].__name__}", fix)


def is_package(name: str) -> bool:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and spec.submodule_search_locations is not None


def contradictions(found: list[Installed]) -> Iterator[Problem]:
    """Schemas that two claim, the project included."""
    owners = dict.fromkeys(SCHEMAS, "rlhf_hydra itself")
    for one in found:
        for path in one.plugin.schemas:
            if path in owners:
                says = f"brings the schema {path}, which {owners[path]} brings too"
                yield Problem("plugin", one.title, says, "Rename one, or uninstall one of the packages.")
            owners.setdefault(path, one.title)


@cache
def schemas() -> dict[str, type]:
    """Schema of each choice, those of teams included."""
    return SCHEMAS | {path: schema for one in installed() for path, schema in one.plugin.schemas.items()}

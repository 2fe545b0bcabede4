"""From a command line to a `RunConfig`: Hydra's composition, which here collects every mistake instead of the first.

The layers are merged in Hydra's own order by Hydra's own rules. What cannot be merged is dropped, reported with the
file or override that set it, and the rest goes on, so that one start shows all there is to correct.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_origin

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_hydra.config.errors import (
    COMMAND_LINE,
    ConfigError,
    Problem,
    bad_value,
    nearest,
    unknown_key,
    unknown_option,
    unresolved,
)
from rlhf_hydra.config.files import Files, circle, refused, shown
from rlhf_hydra.config.keys import all_keys
from rlhf_hydra.config.layers import Layer, Library, first_word, leaves
from rlhf_hydra.config.meant import dotted, misnamed, unknown_to_hydra
from rlhf_hydra.config.overrides import Values, parse, quoted, values
from rlhf_hydra.config.schema import RunConfig, Section
from rlhf_hydra.config.store import find_conf_dir, register


@dataclass
class Composed:
    """A run as far as it could be composed, where each of its values was set, and what could not be composed."""

    run: RunConfig
    origins: dict[str, str]
    problems: list[Problem]
    layers: list[Layer]
    """Files and schemas, each counting more than those before it."""
    changes: list[tuple[str, Any]]
    """Keys of the command line, which count more than the layers."""
    schemas: list[str]
    """Those of its choices, such as `algo/ppo`."""


@dataclass
class Composer:
    """Composes any number of runs from `conf/` and, searched after it, the folder `config_dir`."""

    config_dir: str | None = None
    loader: ConfigLoaderImpl = field(init=False)
    files: Files = field(init=False)
    libraries: dict[str, Library] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        version.setbase("1.3")  # as `hydra.main` does
        register()
        search_path = create_config_search_path(str(find_conf_dir()))
        if self.config_dir is not None:
            folder = Path(self.config_dir).resolve()
            if not folder.is_dir():
                raise ConfigError([Problem("searchpath", "--config-dir", "there is no such folder", value=folder)])
            search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        self.loader = ConfigLoaderImpl(search_path)
        self.files = self.library([]).repo

    def library(self, overrides: Sequence[Override]) -> Library:
        """The files to compose from, which are read once for all runs of a grid."""
        given = [override for override in overrides if override.key_or_group == "hydra.searchpath"]
        key = " ".join(str(override.input_line) for override in given)
        if key not in self.libraries:
            files = Files(self.loader.repository)
            try:
                with warnings.catch_warnings(action="ignore"):
                    self.loader._process_config_searchpath("config", given, files)
            except (HydraException, ValueError):
                fix = "Write 'hydra.searchpath=[/shared/conf,pkg://acme_rl.conf]'."
                says, value = "is no list of folders and packages", key.partition("=")[2]
                raise ConfigError([Problem("searchpath", "hydra.searchpath", says, fix, value, COMMAND_LINE)]) from None
            self.libraries[key] = Library(files)
        return self.libraries[key]

    def compose(self, overrides: Sequence[str] = (), values: Mapping[str, Any] = MappingProxyType({})) -> Composed:
        """The run of these overrides, none of which may sweep, and of `values`, by key, which count more."""
        return _Layers(self, overrides).compose(values)

    def axes(self, overrides: Sequence[str]) -> dict[str, Values]:
        """What `-m` varies: for each key the overrides to choose from, one where it has one value, or an interval."""
        parser = OverridesParser.create(config_loader=self.loader)
        return {line.partition("=")[0]: values(parse(parser, line), line) for line in overrides}

    def sweep_folder(self, overrides: Sequence[str], outputs: str) -> Path:
        """Where `-m` leaves its trials: `hydra.sweep.dir`, made now if it is a new one."""
        setup_globals()
        own = [line for line in overrides if line.startswith("hydra.sweep.")]
        cfg = self.loader.load_configuration("config", [*own, f"outputs={quoted(outputs)}"], RunMode.MULTIRUN)
        return Path(cfg.hydra.sweep.dir).resolve()


class _Layers:
    """One composition under way."""

    def __init__(self, composer: Composer, overrides: Sequence[str]) -> None:
        self.problems: list[Problem] = []
        self.origins: dict[str, str] = {}
        self.schemas: list[str] = []
        self.cfg: DictConfig = OmegaConf.create()
        self.overrides: list[Override] = []
        parser = OverridesParser.create(config_loader=composer.loader)
        for line in overrides:
            try:
                self.overrides.append(parse(parser, line))
            except ConfigError as error:
                self.problems += error.problems
        self.library = composer.library(self.overrides)
        self.repo: Files = self.library.repo
        self.groups = self.library.groups

    def compose(self, values: Mapping[str, Any]) -> Composed:
        self.find_search_path()
        overrides = [sound for override in self.overrides for sound in self.repair(override)]
        try:
            chosen = create_defaults_list(self.repo, "config", overrides, prepend_hydra=True, skip_missing=False)
        except ConfigError as error:  # a file that cannot be read
            raise ConfigError([*self.problems, *error.problems]) from None
        except RecursionError:
            raise ConfigError([*self.problems, circle(self.repo)]) from None
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError([*self.problems, refused(error, self.repo, self.library.places)]) from None
        layers = [layer for default in chosen.defaults if (layer := self.library.layer(default))]
        changes = [(o.key_or_group, o.value()) for o in chosen.config_overrides if not o.is_hydra_override()]
        changes += values.items()
        self.note_origins(layers, changes)
        self.problems += [problem for layer in layers if (problem := self.contested(layer))]
        self.problems += misnamed(layers, changes, self.library)
        try:
            self.cfg = self.library.merge(layers, changes)
        except (OmegaConfBaseException, AttributeError):  # the latter where a mapping meets a section that is not there
            self.merge_with_care(layers, changes)
            run = self.build(self.cfg, "")
        else:
            run = RunConfig(**{name: self.section(name, layers, changes) for name in RunConfig.__dataclass_fields__})
        return Composed(run, self.origins, self.problems, layers, changes, self.schemas)

    def section(self, name: str, layers: Sequence[Layer], changes: Sequence[tuple[str, Any]]) -> Any:
        if any(first_word(key) == name for key, _ in changes):
            return self.child(self.cfg, name, name)
        return self.library.built(name, layers, lambda: self.child(self.cfg, name, name))

    def note_origins(self, layers: Sequence[Layer], changes: Sequence[tuple[str, Any]]) -> None:
        self.schemas = [layer.schema for layer in layers if layer.schema]
        for layer in layers:
            self.origins |= dict.fromkeys(layer.values, layer.where) if layer.file else {}
        for key, value in changes:
            self.origins[key] = COMMAND_LINE
            self.origins |= (
                {f"{key}.{name}": COMMAND_LINE for name, _ in leaves(value)} if isinstance(value, dict) else {}
            )

    def find_search_path(self) -> None:
        for source in self.repo.get_sources():
            if not source.available():
                fix = "Correct it, or install the package that it names; a package of configs needs an __init__.py."
                self.problems.append(Problem("searchpath", "hydra.searchpath", "does not exist", fix, source.path))

    def contested(self, layer: Layer) -> Problem | None:
        """Another file of the same name would be left unread."""
        group, _, option = layer.path.rpartition("/")
        files = self.library.rivals(layer.path) if group and layer.file else []
        if len(files) < 2:
            return None
        says = f"has several files: {', '.join(map(shown, files))}"
        return Problem("contested", group, says, "Rename all but one.", option)

    def repair(self, override: Override) -> list[Override]:
        """The override if it can be given to Hydra; if not, the reason is noted, and the nearest option stands in."""
        problem = self.bad_override(override)
        if problem is None:
            return [override]
        self.problems.append(problem)
        options = self.library.options(override.key_or_group) if problem.rule == "option" else []
        near = nearest(str(problem.value), options, count=1)
        return [parse(OverridesParser.create(), f"{problem.key}={option}") for option in near]

    def bad_override(self, override: Override) -> Problem | None:
        name, line = override.key_or_group, override.input_line
        if override.is_sweep_override():
            text = (line or "").partition("=")[2]
            fix = "Add -m to run each"
            if name not in self.groups:
                fix += f"; as one value: '{name}=\"{text}\"' for a text, {name}=[{text}] for a list"
            return Problem("sweep", name, f"several values in one run: {line}", f"{fix}.", where=COMMAND_LINE)
        if override.is_hydra_override():
            return None if override.is_add() else unknown_to_hydra(name)
        if override.is_delete():
            fix = "Set it to another value."
            return Problem("delete", name, "cannot be taken out of a run", fix, where=COMMAND_LINE)
        place = f"{name}@{override.package}" if override.package else name
        if name.partition("/")[0] == "schema":
            fix = "Choose a file that has it."
            return Problem("schema", place, "is no choice by itself", fix, override.value(), COMMAND_LINE)
        if not self.repo.group_exists(name) or (override.is_add() and place not in self.library.places):
            return None
        if override.is_add() or override.is_force_add():
            fix = f"Write {place}={override.value()}."
            return Problem("plus", place, "is part of every run and takes no plus", fix, override.value(), COMMAND_LINE)
        return self.bad_option(place, override.value())

    def bad_option(self, place: str, value: Any) -> Problem | None:
        options = self.library.options(place.partition("@")[0])
        if value in options:
            return None
        if value is None or not isinstance(value, str):
            fix = f"Leave {place} out, or choose one: {', '.join(options)}."
            return Problem("option", place, "is not a choice", fix, "null" if value is None else value, COMMAND_LINE)
        return unknown_option(place, value, options, COMMAND_LINE)

    def merge_with_care(self, layers: Sequence[Layer], changes: Sequence[tuple[str, Any]]) -> None:
        """Merge the layers; where one cannot be, its keys one after another, and note those that cannot."""
        self.cfg = OmegaConf.structured(RunConfig)
        for layer in layers:
            try:
                self.cfg.merge_with(layer.content)
            except OmegaConfBaseException:
                self.problems += dotted(layer)
                for key, value in layer.values.items():
                    self.set(key, value, layer.where)
        for key, value in changes:
            self.set(key, value, COMMAND_LINE)

    def set(self, key: str, value: Any, where: str) -> None:
        """Set one key, or note why not."""
        try:
            OmegaConf.update(self.cfg, key, value, merge=True)
        except (OmegaConfBaseException, AttributeError) as error:
            self.problems.append(self.explain(error, key, value, where))

    def explain(self, error: Exception, key: str, value: Any, where: str) -> Problem:
        inside = [f"{key}.{child}" for child, _ in leaves(value)] if isinstance(value, dict) else []
        unknown = next((name for name in (key, *inside) if is_unknown(self.cfg, name)), None)
        if unknown is not None:
            return unknown_key(unknown, value if unknown == key else None, where, self.schemas, self.groups)
        return bad_value(error, key, value, where, self.schemas)

    def build(self, node: Any, name: str) -> Any:
        """The object that a config node describes; a value that is missing stays `MISSING`."""
        if isinstance(node, ListConfig):
            return [self.child(node, index, f"{name}[{index}]") for index in range(len(node))]
        if not isinstance(node, DictConfig):
            return node
        values = {str(key): self.child(node, key, f"{name}.{key!s}" if name else str(key)) for key in node}
        section = section_of(node)
        return section(**values) if section else values

    def child(self, node: Any, key: Any, name: str) -> Any:
        if OmegaConf.is_missing(node, key):
            return MISSING
        try:
            return self.build(node[key], name)
        except OmegaConfBaseException as error:
            raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[call-overload,index]
            self.problems.append(unresolved(error, name, raw, self.origins.get(name, "")))
            return MISSING


def section_of(node: Any) -> type[Section] | None:
    """The schema of a config node, or None where it is a mapping, a value, or not there."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return None
    kind = OmegaConf.get_type(node)
    return kind if kind is not None and issubclass(kind, Section) else None


def is_unknown(cfg: DictConfig, name: str) -> bool:
    """Whether a section on the way to `name` lacks the next key."""
    node: Any = cfg
    for key in name.split("."):
        section = section_of(node)
        if section and key not in section.__dataclass_fields__:
            return True
        node = node._get_node(key) if isinstance(node, DictConfig) and not node._is_none() else None
    return False


def to_run(cfg: DictConfig) -> RunConfig:
    """The typed run of a config that Hydra composed."""
    return OmegaConf.to_object(cfg)  # type: ignore[return-value]


def is_free(name: str) -> bool:
    """Whether `name` lies below a mapping that takes any key, as `reward.kwargs` does."""
    parents = (name[: match.start()] for match in re.finditer(r"[.]", name))
    return any(get_origin(key.kind) is dict for parent in parents for key in all_keys().get(parent, ()))

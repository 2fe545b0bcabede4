"""From a command line to a `RunConfig`: Hydra's composition, which here collects every mistake instead of the first.

The layers are merged in Hydra's own order by Hydra's own rules. What cannot be merged is dropped, reported with the
file or override that set it, and the rest goes on, so that one start shows all there is to correct.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_origin

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.default_element import GroupDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_hydra.config.errors import (
    COMMAND_LINE,
    ConfigError,
    Problem,
    bad_value,
    foreign,
    nearest,
    unknown_key,
    unknown_option,
)
from rlhf_hydra.config.keys import all_keys
from rlhf_hydra.config.layers import Layer, Library, file_of, first_word, leaves, shown
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
    files: CachingConfigRepository = field(init=False)
    libraries: dict[str, Library] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
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
            repository = CachingConfigRepository(self.loader.repository)
            with warnings.catch_warnings(action="ignore"):
                self.loader._process_config_searchpath("config", given, repository)
            self.libraries[key] = Library(repository)
        return self.libraries[key]

    def compose(self, overrides: Sequence[str] = (), values: Mapping[str, Any] = MappingProxyType({})) -> Composed:
        """The run of these overrides, none of which may sweep, and of `values`, by key, which count more."""
        return _Layers(self, overrides).compose(values)

    def axes(self, overrides: Sequence[str]) -> dict[str, "Values"]:
        """What `-m` varies: for each key the overrides to choose from, one where it has one value, or an interval."""
        parser = OverridesParser.create(config_loader=self.loader)
        return {line.partition("=")[0]: values(parse(parser, line), line) for line in overrides}

    def sweep_folder(self, overrides: Sequence[str], outputs: str) -> Path:
        """Where `-m` leaves its trials: `hydra.sweep.dir`, made now if it is a new one."""
        setup_globals()
        own = [line for line in overrides if line.startswith("hydra.sweep.")]
        cfg = self.loader.load_configuration("config", [*own, f"outputs='{outputs}'"], RunMode.MULTIRUN)
        return Path(cfg.hydra.sweep.dir).resolve()


@dataclass(frozen=True)
class Interval:
    """Values of `name` between two bounds, both included."""

    name: str
    low: float
    high: float
    is_log: bool
    is_whole: bool

    def at(self, share: float) -> str:
        """The override that lies `share`, in [0, 1), of the way from `low` to `high`."""
        if self.is_whole:
            return self.line(int(self.low + share * (self.high - self.low + 1)))
        if self.is_log:
            return self.line(self.low * (self.high / self.low) ** share)
        return self.line(self.low + share * (self.high - self.low))

    def line(self, value: float) -> str:
        """The override that takes `value`, to four digits."""
        rounded = value if self.is_whole else float(f"{value:.4g}")
        return f"{self.name}={min(max(rounded, self.low), self.high)}"


Values = tuple[str, ...] | Interval


def values(override: Override, line: str) -> Values:
    """What one override of `-m` lets a key be."""
    name = line.partition("=")[0]
    if not override.is_sweep_override():
        return (line,)
    if override.is_discrete_sweep():
        return listed(override, line)
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None
    is_whole, is_log = isinstance(sweep.start, int), "log" in sweep.tags
    if sweep.start >= sweep.end or (is_log and (is_whole or sweep.start <= 0)):
        fix = "Write interval(1,8), int(interval(1,8)), or tag(log,interval(1e-7,1e-5)) with bounds above 0."
        raise ConfigError([Problem("sweep", name, "is not an interval", fix, line.partition("=")[2], COMMAND_LINE)])
    return Interval(name, sweep.start, sweep.end, is_log, is_whole)


def listed(override: Override, line: str) -> tuple[str, ...]:
    """Every value of a list, a range or a glob, as an override."""
    sweep, (name, _, text) = override.value(), line.partition("=")
    if isinstance(sweep, RangeSweep):
        # As they are written: counted in binary fractions, range(0,0.9,0.3) would have a fourth value.
        sweep.start, sweep.stop, sweep.step = (exact(bound) for bound in (sweep.start, sweep.stop, sweep.step))
    found = () if isinstance(sweep, RangeSweep) and not sweep.step else tuple(override.sweep_string_iterator())
    if not found:
        fix = "Write a list as in 1,2, range(1,4), or glob(*) for all options of a group."
        raise ConfigError([Problem("sweep", name, "has no value to choose from", fix, text, COMMAND_LINE)])
    return tuple(f"{name}={value}" for value in found)


def exact(bound: float | None) -> Any:
    """A whole number, or what a fraction reads."""
    return bound if bound is None or isinstance(bound, int) else Decimal(repr(bound))


def parse(parser: OverridesParser, line: str) -> Override:
    """One override.

    Raises:
        ConfigError: it is not of the form `key=value`, or the value has a syntax error.
    """
    try:
        return parser.parse_overrides([line])[0]
    except HydraException:
        fix = "Write key=value; put a value with spaces, commas or brackets in quotes: 'key=\"a, b\"'."
        raise ConfigError([Problem("syntax", line, "is not of the form key=value", fix, where=COMMAND_LINE)]) from None


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
        self.repo, self.groups = self.library.repo, self.library.groups

    def compose(self, values: Mapping[str, Any]) -> Composed:
        self.find_search_path()
        overrides = [sound for override in self.overrides for sound in self.repair(override)]
        try:
            chosen = create_defaults_list(self.repo, "config", overrides, prepend_hydra=True, skip_missing=False)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            raise ConfigError([*self.problems, broken_file(error, self.repo)]) from None
        layers = [layer for default in chosen.defaults if (layer := self.library.layer(default))]
        changes = [(o.key_or_group, o.value()) for o in chosen.config_overrides if not o.is_hydra_override()]
        changes += values.items()
        self.note_origins(layers, changes)
        self.problems += [problem for layer in layers if (problem := self.contested(layer))]
        try:
            self.cfg = self.library.merge(layers, changes)
        except OmegaConfBaseException:
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
        options = self.library.options(problem.key) if problem.rule == "option" else []
        near = nearest(str(problem.value), options, count=1)
        return [parse(OverridesParser.create(), f"{problem.key}={option}") for option in near]

    def bad_override(self, override: Override) -> Problem | None:
        name, line = override.key_or_group, override.input_line
        if override.is_sweep_override():
            text = (line or "").partition("=")[2]
            fix = f"Add -m to run each; as one value: '{name}=\"{text}\"' for a text, {name}=[{text}] for a list."
            return Problem("sweep", name, f"several values in one run: {line}", fix, where=COMMAND_LINE)
        if override.is_hydra_override():
            return None
        if override.is_delete():
            fix = "Set it to another value."
            return Problem("delete", name, "cannot be taken out of a run", fix, where=COMMAND_LINE)
        if not self.repo.group_exists(name):
            return None
        if override.is_add() and override.package is None:
            fix = f"Write {name}={override.value()}."
            return Problem("plus", name, "is part of every run and takes no plus", fix, override.value(), COMMAND_LINE)
        return self.bad_option(name, override.value())

    def bad_option(self, group: str, value: Any) -> Problem | None:
        options = self.library.options(group)
        if value in options:
            return None
        if value is None or not isinstance(value, str):
            fix = f"Leave {group} out, or choose one: {', '.join(options)}."
            return Problem("option", group, "is not a choice", fix, "null" if value is None else value, COMMAND_LINE)
        return unknown_option(group, value, options, COMMAND_LINE)

    def merge_with_care(self, layers: Sequence[Layer], changes: Sequence[tuple[str, Any]]) -> None:
        """Merge the layers; where one cannot be, its keys one after another, and note those that cannot."""
        self.cfg = OmegaConf.structured(RunConfig)
        for layer in layers:
            try:
                self.cfg.merge_with(layer.content)
            except OmegaConfBaseException:
                for key, value in layer.values.items():
                    self.set(key, value, layer.where)
        for key, value in changes:
            self.set(key, value, COMMAND_LINE)

    def set(self, key: str, value: Any, where: str) -> None:
        """Set one key, or note why not."""
        try:
            OmegaConf.update(self.cfg, key, value, merge=True)
        except OmegaConfBaseException as error:
            self.problems.append(self.explain(error, key, value, where))

    def explain(self, error: OmegaConfBaseException, key: str, value: Any, where: str) -> Problem:
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
            reason = str(error).splitlines()[0]
            fix = "Set it, or the variable or key that it refers to."
            raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[call-overload,index]
            self.problems.append(Problem("reference", name, reason, fix, raw, self.origins.get(name, "")))
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
        node = node._get_node(key) if isinstance(node, DictConfig) else None
    return False


def broken_file(error: Exception, repo: CachingConfigRepository) -> Problem:
    """A YAML file that cannot be read, or that names a choice which does not exist."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return Problem("yaml", f"{shown(Path(mark.name))}:{mark.line + 1}", f"is not YAML: {error.problem}")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return unknown_option(group, option, error.options or [], who_chose(repo, group, option))
    return foreign(error)


def who_chose(repo: CachingConfigRepository, group: str, option: str) -> str:
    """The file whose defaults list names this option; the latest, as that one counts."""
    found = ""
    for key, loaded in repo.cache.items():
        for default in (loaded.defaults_list or []) if loaded else []:
            if isinstance(default, GroupDefault) and (str(default.group).lstrip("/"), default.value) == (group, option):
                found = shown(file_of(loaded.path, key.removeprefix("config_path=")))  # type: ignore[union-attr]
    return found


def to_run(cfg: DictConfig) -> RunConfig:
    """The typed run of a config that Hydra composed."""
    return OmegaConf.to_object(cfg)  # type: ignore[return-value]


def is_free(name: str) -> bool:
    """Whether `name` lies below a mapping that takes any key, as `reward.kwargs` does."""
    parents = (name[: match.start()] for match in re.finditer(r"[.]", name))
    return any(get_origin(key.kind) is dict for parent in parents for key in all_keys().get(parent, ()))

"""The layers of a run, files, schemas and overrides; each is read, and each section composed, once for all runs."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal import defaults_list
from hydra.core.default_element import GroupDefault, InputDefault, ResultDefault
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError

from rlhf_hydra.config.failure import ConfigError, Problem
from rlhf_hydra.config.files import Files, file_of, shown
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.store import HIDDEN

SCHEMA = "schema/"
WHOLE = OmegaConf.structured(RunConfig)
"""A run before the first layer."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What one file, schema or override brings to a run."""

    path: str
    """`algo/ppo`, or `schema/algo/ppo` for a schema."""
    content: DictConfig
    """As it lies in the run: a file of `conf/algo` is below `algo`."""
    package: str = ""
    """Dotted key below which the file's own keys lie."""
    file: Path | None = None
    """None for a schema."""

    @property
    def schema(self) -> str:
        return self.path.removeprefix(SCHEMA) if self.path.startswith(SCHEMA) else ""

    @cached_property
    def values(self) -> dict[str, Any]:
        """Dotted key -> value as written."""
        return dict(leaves(self.content))

    @cached_property
    def sections(self) -> dict[str, DictConfig]:
        """First word of a key -> that part of the content."""
        return {str(key): OmegaConf.masked_copy(self.content, str(key)) for key in self.content}

    @property
    def where(self) -> str:
        """The file, relative to the working directory where it lies below; empty for a schema."""
        return "" if self.file is None else shown(self.file)


Part = tuple[str, tuple[Layer, ...]]
"""A section of a run, and the layers that decide it."""


@dataclass
class Library:
    """The files that runs are composed from."""

    repo: Files
    layers: dict[tuple[str, str], Layer] = field(default_factory=dict)
    parts: dict[Part, DictConfig] = field(default_factory=dict)
    objects: dict[Part, Any] = field(default_factory=dict)
    known: dict[str, list[str]] = field(default_factory=dict)
    found: dict[str, list[Path]] = field(default_factory=dict)

    @cached_property
    def places(self) -> list[str]:
        """What every run chooses: `algo`, `data@eval.data` ..."""
        return [place for place in self.choices("config") if not place.startswith("hydra/")]

    def choices(self, path: str) -> dict[str, Any]:
        """What the defaults list of a file chooses: `{"algo": "ppo", "data@eval.data": None}`."""
        loaded = self.repo.load_config(path)
        entries = [entry for entry in (loaded.defaults_list or []) if isinstance(entry, GroupDefault)] if loaded else []
        return {f"{entry.group}@{entry.package or ''}".lstrip("/").rstrip("@"): entry.value for entry in entries}

    @cached_property
    def groups(self) -> list[str]:
        """The groups that a run chooses from."""
        names = self.repo.get_group_options("", results_filter=None)
        return [name for name in names if name not in HIDDEN and self.repo.group_exists(name)]

    def options(self, group: str) -> list[str]:
        """The choices of a group."""
        if group not in self.known:
            self.known[group] = self.repo.get_group_options(group)
        return self.known[group]

    def layer(self, default: ResultDefault) -> Layer | None:
        """The layer of one entry of the defaults list; None for what belongs to Hydra, and for the root."""
        path, package = default.config_path or "", default.package or ""
        if path.startswith("hydra/") or path == "schema/config":
            return None
        if (path, package) not in self.layers:
            self.layers[path, package] = self._read(path, package)
        return self.layers[path, package]

    def _read(self, path: str, package: str) -> Layer:
        loaded = self.repo.load_config(path)
        assert loaded is not None
        if path.startswith(SCHEMA):
            return Layer(path, embed(loaded.config, package), package)
        content = embed(copy.deepcopy(loaded.config), package)
        layer = Layer(path, content, package, file_of(loaded.path, path))
        if "searchpath" in (content.pop("hydra", None) or {}):
            says, fix = "is not read in this file", "Say it on the command line, or use --config-dir FOLDER."
            raise ConfigError([Problem("searchpath", "hydra.searchpath", says, fix, where=layer.where)])
        return layer

    def rivals(self, path: str) -> list[Path]:
        """Every file that lies under this name in some folder that is searched. The first counts."""
        if path not in self.found:
            sources = [source for source in self.repo.get_sources() if source.is_config(path)]
            files = (file_of(f"{source.scheme()}://{source.path}", path) for source in sources)
            self.found[path] = list(dict.fromkeys(file.resolve() for file in files))
        return self.found[path]

    def part(self, name: str, layers: tuple[Layer, ...]) -> DictConfig:
        """A run that has the section `name` alone, as these layers make it, one merged onto the other."""
        if (name, layers) not in self.parts:
            if layers:
                node = copy.deepcopy(self.part(name, layers[:-1]))
                node.merge_with(layers[-1].sections[name])
            else:
                node = copy.deepcopy(WHOLE)
                for other in set(node) - {name}:
                    del node.__dict__["_content"][other]
            self.parts[name, layers] = node
        return self.parts[name, layers]

    def merge(self, layers: Sequence[Layer], changes: Sequence[tuple[str, Any]]) -> DictConfig:
        """A whole run. Raises OmegaConf's errors where something cannot be merged."""
        named = {name for layer in layers for name in layer.sections} | {first_word(key) for key, _ in changes}
        if unknown := named - set(RunConfig.__dataclass_fields__):
            raise ConfigKeyError(f"no section {unknown}")
        run = DictConfig({})
        run.__dict__["_metadata"] = WHOLE._metadata
        for name in RunConfig.__dataclass_fields__:
            part = self.part(name, touching(name, layers))
            if mine := [change for change in changes if first_word(change[0]) == name]:
                part = copy.deepcopy(part)
                for key, value in mine:
                    OmegaConf.update(part, key, value, merge=True)
            node: Any = part._get_node(name)  # shared with other runs; whoever reads it does so now
            node._set_parent(run)
            run.__dict__["_content"][name] = node
        return run

    def built(self, name: str, layers: Sequence[Layer], build: Callable[[], Any]) -> Any:
        """The object of a section that nothing but these layers decides, made by `build` when it is new."""
        key = (name, touching(name, layers))
        if key not in self.objects:
            if has_reference(self.part(*key)):
                return build()
            self.objects[key] = build()
        return copy.deepcopy(self.objects[key])


def touching(name: str, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    return tuple(layer for layer in layers if name in layer.sections)


def has_reference(node: DictConfig) -> bool:
    return any("${" in str(value) for _, value in leaves(node))


def first_word(key: str) -> str:
    return key.partition(".")[0].partition("[")[0]


def embed(config: Any, package: str) -> DictConfig:
    """`config` below the dotted key `package`."""
    if not package:
        return config
    layer = OmegaConf.create()
    OmegaConf.update(layer, package, config, merge=False)
    return layer


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a tree, with their values as written; an empty section is a leaf."""
    tree: Any = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# For every file Hydra makes a config of all choices so far, in case that a `${...}` in its defaults list reads it.
# That is nine tenths of the time of a composition, and hardly a defaults list has one.
NOTHING = DictConfig({})
_map_for_interpolations = defaults_list._create_interpolation_map


def _create_interpolation_map(
    overrides: defaults_list.Overrides, defaults_list: list[InputDefault], self_added: bool
) -> DictConfig:
    if any(default.is_interpolation() for default in defaults_list):
        return _map_for_interpolations(overrides, defaults_list, self_added)
    return NOTHING


defaults_list._create_interpolation_map = _create_interpolation_map

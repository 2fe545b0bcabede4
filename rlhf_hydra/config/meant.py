"""What would compose, and was meant otherwise."""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra.conf import HydraConf
from omegaconf import OmegaConf

from rlhf_hydra.config.errors import COMMAND_LINE, Problem, one_of
from rlhf_hydra.config.layers import Layer, Library


def misnamed(layers: Sequence[Layer], changes: Sequence[tuple[str, Any]], library: Library) -> Iterator[Problem]:
    """A choice is made by its group; `algo.name=grpo` would leave all else of it as it is. A file names its own."""
    groups = {f"{layer.package}.name": layer.schema.partition("/")[0] for layer in layers if layer.schema}
    for layer in layers:
        own, _, option = layer.path.rpartition("/")
        for key in groups.keys() & layer.values.keys() if layer.file else ():
            value = layer.values[key]
            if own != groups[key]:
                yield named_only(key, groups[key], value, layer.where)
            elif value not in library.options(own):
                fix = f"Give it the name of its file, {option}."
                yield Problem("name", key, f"there is no {own} of that name", fix, value, layer.where)
    yield from (named_only(key, groups[key], value, COMMAND_LINE) for key, value in changes if key in groups)


def named_only(key: str, group: str, value: Any, where: str) -> Problem:
    package = key.removesuffix(".name")
    place = group if package == group else f"{group}@{package}"
    line = f"{place}={value}" if where == COMMAND_LINE else f"`- override /{place}: {value}` below `defaults:`"
    says = "is what the choice is called, and chooses nothing"
    return Problem("name", key, says, f"Write {line}.", value, where)


def dotted(layer: Layer) -> Iterator[Problem]:
    """Keys such as `algo.kl.coef: 0.1` in a file, where YAML knows no path."""
    for key in keys(OmegaConf.to_container(layer.content, resolve=False)):
        if "." in key:
            fix = f"Write {': {'.join(key.split('.'))}: ...{'}' * key.count('.')}."
            yield Problem("key", key, "is no path in YAML", fix, where=layer.where)


def keys(node: Any) -> Iterator[str]:
    for key, child in node.items() if isinstance(node, dict) else ():
        yield str(key)
        yield from keys(child)


def unknown_to_hydra(name: str) -> Problem | None:
    """A key of Hydra itself that it does not have."""
    kind: Any = HydraConf
    for word in name.split(".")[1:]:
        if not is_dataclass(kind):
            return None
        if word not in kind.__dataclass_fields__:
            fix = one_of(word, kind.__dataclass_fields__)
            return Problem("key", name, "Hydra has no such key", fix, where=COMMAND_LINE)
        kind = kind.__dataclass_fields__[word].type
    return None

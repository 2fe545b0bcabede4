"""Where each value of a run comes from: the default, the files and overrides that set it, and what it may be."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from rlhf_hydra.config.compose import Composed
from rlhf_hydra.config.docs import allowed, default, meaning
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, run_keys, unknown_key
from rlhf_hydra.config.keys import Key
from rlhf_hydra.config.layers import Layer, leaves
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.secrets import redact

DEFAULT = "default"
Setting = tuple[str, Any]
"""Where a key is set, and to what."""


def explain(composed: Composed, name: str) -> str:
    """Of one key everything, of a section or `all` the value of each key and its origin.

    Raises:
        ConfigError: no run of these choices has such a key.
    """
    keys = run_keys(composed.schemas)
    chains = {key: list(chain(composed, key, keys.get(key))) for key in dict(leaves(asdict(composed.run)))}
    values = dict(leaves(asdict(resolve(composed.run))))
    if name in values:
        return one(name, values[name], chains[name], keys.get(name))
    found = {key: value for key, value in values.items() if name == "all" or key.startswith(f"{name}.")}
    if not found:
        raise ConfigError([unknown_key(name, None, COMMAND_LINE, composed.schemas)])
    width = max(len(f"{key} = {text(value)}") for key, value in found.items())
    lines = (f"{f'{key} = {text(value)}':<{min(width, 60)}}  {chains[key][-1][0]}" for key, value in found.items())
    return "\n".join(lines)


def one(name: str, value: Any, settings: list[Setting], key: Key | None) -> str:
    facts = [allowed(key).replace("`", ""), meaning(key)] if key else []
    if not is_same(value, settings[-1][1]):
        settings = [*settings, ("resolved", value)]
    width = max(len(where) for where, _ in settings)
    steps = [f"{where:<{width}}  {text(given)}" for where, given in settings]
    return "\n    ".join([f"{name} = {text(value)}", *filter(None, facts), *steps])


def text(value: Any) -> str:
    """As it is written on a command line."""
    named = {None: "null", True: "true", False: "false"}
    return named[value] if value is None or isinstance(value, bool) else str(redact(value))


def chain(composed: Composed, name: str, key: Key | None) -> Iterator[Setting]:
    """Each setting of a key, the one that counts last."""
    yield DEFAULT, default(key).strip("`*") if key else "none"
    for layer in composed.layers:
        if layer.file and name in layer.values:
            yield f"{layer.where}{line(layer, name)}", layer.values[name]
    for changed, value in composed.changes:
        inside = {f"{changed}.{child}": given for child, given in leaves(value)} if isinstance(value, dict) else {}
        if name in (changed, *inside):
            yield COMMAND_LINE, inside.get(name, value)


def line(layer: Layer, name: str) -> str:
    """`:12` for the line of the layer's file that sets a key; empty where it is in no line of its own."""
    assert layer.file is not None
    node = yaml.compose(Path(layer.file).read_text())
    found = ""
    for word in name.removeprefix(f"{layer.package}.").split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node, mark = next(((value, key.start_mark) for key, value in pairs if key.value == word), (None, None))
        if mark is None:
            return ""
        found = f":{mark.line + 1}"
    return found


def is_same(value: Any, other: Any) -> bool:
    """Whether two values as written mean the same: `1e-6` in YAML is a text."""
    try:
        return float(value) == float(other)
    except (TypeError, ValueError):
        return str(value).lower() == str(other).lower()

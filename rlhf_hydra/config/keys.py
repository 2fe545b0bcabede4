"""Every dotted key that some run can have, and which choice brings it; read off the schemas."""

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Union, get_args, get_origin, get_type_hints

from rlhf_hydra.config.plugins import schemas
from rlhf_hydra.config.schema import RunConfig


@dataclass(frozen=True)
class Key:
    """One dotted key: its field, the class that declares it, and the schemas (`algo/ppo`) that bring it."""

    name: str
    field: Field
    kind: Any
    owner: type
    schemas: tuple[str, ...] = ()


def described(section: type) -> Iterator[tuple[Field, Any]]:
    """Fields of a section, each with its resolved type."""
    hints = get_type_hints(section)
    return ((f, hints[f.name]) for f in fields(section))


def plain(kind: Any) -> Any:
    """`Optional[T]` -> `T`."""
    options = [option for option in get_args(kind) if option is not NoneType]
    return options[0] if get_origin(kind) is Union and len(options) == 1 else kind


def walk(section: type, prefix: str = "", schemas: tuple[str, ...] = ()) -> Iterator[Key]:
    """The keys below one section, sections themselves included."""
    for f, kind in described(section):
        name = f"{prefix}{f.name}"
        yield Key(name, f, kind, section, schemas)
        if isinstance(kind, type) and is_dataclass(kind):
            yield from walk(kind, f"{name}.", schemas)


@cache
def all_keys() -> dict[str, tuple[Key, ...]]:
    """Dotted key -> its variants: one for a key of every run, several where choices declare it differently."""
    groups = {path.split("/")[0] for path in schemas()}
    found = [key for key in walk(RunConfig) if key.name.split(".")[0] not in groups or key.name in groups]
    for path, schema in schemas().items():
        found += walk(schema, f"{path.split('/')[0]}.", (path,))
    table: dict[str, tuple[Key, ...]] = {}
    for key in found:
        table[key.name] = (*table.get(key.name, ()), key)
    return table


def schema_name(section: object) -> str | None:
    """`algo/ppo` for an object whose class is registered under that name."""
    return next((path for path, schema in schemas().items() if type(section) is schema), None)


def type_name(kind: Any) -> str:
    """What a reader calls this type."""
    kind = plain(kind)
    if is_dataclass(kind):
        return "a section"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind) or {list: "a list", dict: "a mapping"}.get(get_origin(kind), "a value")

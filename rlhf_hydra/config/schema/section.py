"""What all sections are made of."""

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, field, fields
from typing import Any, ClassVar


def choice(default: Any, *options: str) -> Any:
    """A field that takes one of `options`."""
    return field(default=default, metadata={"choices": options})


def choices(default: Sequence[str], *options: str) -> Any:
    """A list of some of `options`."""
    return field(default_factory=lambda: list(default), metadata={"choices": options})


def number(
    default: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A field whose value lies in a range; a `None` value is exempt."""
    bounds = {name: value for name, value in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if value is not None}
    return field(default=default, metadata={"bounds": bounds})


def part(kind: type, **changes: Any) -> Any:
    """A nested section, with `changes` to its own defaults."""
    return field(default_factory=lambda: kind(**changes))


class Section:
    """Base of all sections. `freeze` makes a tree read-only, once Hydra has finished writing into it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def freeze(self) -> "Section":
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            for child in value.values() if isinstance(value, dict) else [value]:
                if isinstance(child, Section):
                    child.freeze()
        object.__setattr__(self, "_frozen", True)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise FrozenInstanceError(f"{type(self).__name__}.{name} is part of a resolved run and cannot be changed")
        object.__setattr__(self, name, value)

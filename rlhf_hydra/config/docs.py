"""`docs/config.md`, written from the schemas: `python -m rlhf_hydra.config.docs > docs/config.md`."""

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import groupby
from typing import Any

from omegaconf import MISSING

from rlhf_hydra.config.check import COMPARE
from rlhf_hydra.config.keys import Key, all_keys, type_name
from rlhf_hydra.config.plugins import schemas
from rlhf_hydra.config.schema import RunConfig

HEADER = """\
# Every key of a run

Written by `python -m rlhf_hydra.config.docs` from `rlhf_hydra/config/schema/`; change it there.

A key is set on the command line (`policy.optim.lr=1e-6`) or in a YAML file under `conf/`. The defaults below are those
of the schemas; a choice such as `algo=grpo` or `cluster=a100x8` is a file that says what it changes. `--cfg job` prints
what results. *must be given*: the choice's file or the command line sets it. Names in italics: choices that alone have
the key, by schema.
"""


@cache
def meanings(module: str) -> dict[tuple[str, str], str]:
    """(class, field) -> the docstring under the field, of the classes of a module."""
    found: dict[tuple[str, str], str] = {}
    try:
        source = inspect.getsource(sys.modules[module])
    except OSError:  # of a team, and not there to be read
        return found
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for this, after in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(this, ast.AnnAssign)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                ):
                    found[node.name, ast.unparse(this.target)] = " ".join(str(after.value.value).split())
    return found


def meaning(key: Key) -> str:
    """The docstring under the field, in its class or the nearest base that has one."""
    texts = (meanings(base.__module__).get((base.__name__, key.field.name)) for base in key.owner.__mro__[:-1])
    return next((text for text in texts if text), "")


def default(key: Key) -> str:
    """As it is after every section has changed the defaults of the sections inside it."""
    value: Any = schemas()[key.schemas[0]]() if key.schemas else RunConfig()
    for name in key.name.split(".")[1 if key.schemas else 0 :]:
        value = getattr(value, name)
    if value == MISSING:
        return "*must be given*"
    return f"`{json.dumps(value) if value is None or isinstance(value, bool) else value}`"


def allowed(key: Key) -> str:
    metadata = key.field.metadata
    if "choices" in metadata:
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    bounds = " and ".join(f"{COMPARE[sign][1]} {bound}" for sign, bound in metadata.get("bounds", {}).items())
    return f"{type_name(key.kind)}{', ' if bounds else ''}{bounds}"


def rows(name: str, variants: tuple[Key, ...]) -> Iterator[str]:
    """A row of the table for each way in which the choices declare a key."""
    group = name.split(".")[0]
    everyone = {path for path in schemas() if path.startswith(f"{group}/")}
    described = [(default(key), allowed(key), meaning(key)) for key in variants]
    for facts in dict.fromkeys(described):
        owners = [
            path for key, other in zip(variants, described, strict=True) for path in key.schemas if other == facts
        ]
        only = "" if set(owners) == everyone else ", ".join(f"`{path.split('/')[1]}`" for path in owners)
        cells = [f"`{name}`", *facts[:2], f"*{only}.* {facts[2]}".strip() if only else facts[2]]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def section(name: str) -> str:
    """The heading under which a key stands: its first word, or `run` for the keys of the run itself."""
    return name.split(".")[0] if "." in name else "run"


def page() -> str:
    leaves = {n: keys for n, keys in all_keys().items() if not is_dataclass(keys[0].kind)}
    lines = [HEADER]
    order = sorted(
        leaves,
        key=lambda name: (section(name) != "run", list(RunConfig.__dataclass_fields__).index(name.split(".")[0])),
    )
    for title, names in groupby(order, key=section):
        lines += [f"## {title}\n", "| key | default | allowed | meaning |", "|---|---|---|---|"]
        lines += [row for name in names for row in rows(name, leaves[name])]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")

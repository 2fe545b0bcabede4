"""The failures that people can put right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_hydra.config.secrets import redact


class Failure(Exception):
    """Ends a run with its message, which says what is wrong and the way out; no traceback is shown."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: which key, with which value, set where, why that fails, and the way out."""

    rule: str
    """Name of the rule that refuses."""
    key: str
    says: str
    fix: str = ""
    value: Any = None
    where: str = ""
    """A YAML file, or the command line; empty for a default."""

    def __hash__(self) -> int:  # the value may be a list
        return hash(str(self))

    def __str__(self) -> str:
        value = "" if self.value is None else f"={self.value}"
        where = f" ({self.where})" if self.where else ""
        return str(redact(f"{self.key}{value}{where}: {self.says}" + (f"\n    {self.fix}" if self.fix else "")))


class ConfigError(Exception):
    """A run that cannot be started, with everything that is wrong about it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(f"error: {problem}" for problem in self.problems))

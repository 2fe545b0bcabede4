"""What became of the rows: which are not used, and why."""

from collections.abc import Callable
from dataclasses import dataclass, field


class BadRow(Exception):
    """A row that cannot be used. `column` is what is at fault, None where no single one is."""

    def __init__(self, why: str, column: str | None = None, fatal: bool = False) -> None:
        super().__init__(f"`{column}` {why}" if column else why)
        self.column, self.fatal = column, fatal
        """`fatal`: no row can be used like this, so the run stops."""


@dataclass(frozen=True)
class DataReport:
    """What became of the rows. `str(report)` is a few lines for people."""

    source: str
    read: int
    used: int
    dropped: dict[str, int]
    """Rows that are not used, by reason."""
    examples: dict[str, int]
    """The first row that was dropped for each reason."""
    max_tokens: int
    """Of the longest prompt or row that is used."""
    fingerprint: str
    noun: str = "prompts"
    """What the used rows have become."""
    notes: list[str] = field(default_factory=list)
    """More lines, each about the whole."""

    def __str__(self) -> str:
        head = f"{self.source}: {self.used} of {self.read} {self.noun}, up to {self.max_tokens} tokens"
        reasons = (f"  dropped {count}: {why} (first: row {self.examples[why]})" for why, count in self.dropped.items())
        return "\n".join([head, *reasons, *(f"  {note}" for note in self.notes)])


class Ledger:
    """Counts rows by what became of them. With `stop`, the first bad one ends the run: stop(message) is raised."""

    def __init__(self, source: str, stop: Callable[[str], Exception] | None = None) -> None:
        self.source, self.stop = source, stop
        self.read = 0
        self.dropped: dict[str, int] = {}
        self.first: dict[str, int] = {}

    def drop(self, why: str, row: int) -> None:
        if self.stop is not None:
            raise self.stop(f"{self.source}, row {row}: {why}\ndata.strict=true stops at the first row like this")
        self.dropped[why] = self.dropped.get(why, 0) + 1
        self.first.setdefault(why, row)

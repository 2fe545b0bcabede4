"""What became of the rows: which are not used, and why."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rlhf_hydra.data.files import DataError, Row, Rows, column

Item = TypeVar("Item")


class BadRow(Exception):
    """A row that cannot be used; `name` is the column at fault, None where no single one is."""

    def __init__(self, why: str, name: str | None = None) -> None:
        super().__init__(f"column `{name}` {why}" if name else why)
        self.name = name


class BadKey(BadRow):
    """A row that does not go with a key of the config. If it is the first one, the key is wrong and the run stops."""


class Refused(BadRow):
    """What no run should go on with."""


@dataclass(frozen=True)
class DataReport:
    """What became of the rows. `str(report)` is a few lines for people."""

    source: str
    read: int
    used: int
    """Rows that are used."""
    made: int
    """What they have become, of `noun`: more where a row is taken apart, or where a blend draws it again."""
    dropped: dict[str, int]
    """Rows that are not used, by reason."""
    examples: dict[str, int]
    """The first row that was dropped for each reason."""
    max_tokens: int
    """Of the longest prompt or row of tokens that is used."""
    fingerprint: str
    noun: str = "prompts"
    """What the rows have become."""
    notes: list[str] = field(default_factory=list)
    """More lines, each about the whole."""

    def record(self) -> dict[str, Any]:
        """What tells whether another run has the same data."""
        return {"source": self.source, "fingerprint": self.fingerprint, "rows": self.used}

    def __str__(self) -> str:
        became = self.noun if self.made == self.used else f"rows, as {self.made} {self.noun}"
        head = f"{self.source}: {self.used} of {self.read} {became}, up to {self.max_tokens} tokens"
        reasons = (f"  dropped {count}: {why} (first: row {self.examples[why]})" for why, count in self.dropped.items())
        return "\n".join([head, *reasons, *(f"  {note}" for note in self.notes)])


class Ledger:
    """Counts rows by what became of them; where `strict`, the first bad one is a DataError."""

    def __init__(self, source: str, strict: bool) -> None:
        self.source, self.strict = source, strict
        self.read = self.used = self.made = self.cut = 0
        self.dropped: dict[str, int] = {}
        self.first: dict[str, int] = {}

    def usable(self, rows: Rows, make: Callable[[int, Row], Iterable[Item]]) -> Iterator[tuple[int, Item]]:
        """What `make` makes of each row, with the row's number. Rows for which it raises BadRow are counted. A column
        that the first row lacks is a DataError at once, since it is more likely a wrong name than a bad row."""
        for number, row in rows:
            self.read += 1
            where = f"{self.source}, row {number}"
            try:
                items = list(make(number, row))
            except Refused as refused:
                raise DataError(f"{where}: {refused}") from refused
            except BadRow as bad:
                if self.read == 1 and isinstance(bad, BadKey):
                    raise DataError(f"{where}: {bad}") from bad
                if self.read == 1 and bad.name is not None:
                    column(row, bad.name, where)
                self.drop(str(bad), number)
            else:
                self.used, self.made = self.used + 1, self.made + len(items)
                yield from ((number, item) for item in items)

    def drop(self, why: str, row: int) -> None:
        if self.strict:
            raise DataError(f"{self.source}, row {row}: {why}\ndata.strict=true stops at the first such row")
        self.dropped[why] = self.dropped.get(why, 0) + 1
        self.first.setdefault(why, row)

    def report(self, max_tokens: int, fingerprint: str, noun: str) -> DataReport:
        notes = [f"cut {self.cut} rows at the end (data.overlong=cut)"] if self.cut else []
        counts = self.read, self.used, self.made
        return DataReport(self.source, *counts, self.dropped, self.first, max_tokens, fingerprint, noun, notes)

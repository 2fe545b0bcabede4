"""What became of the rows: which are not used, and why."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rlhf_hydra.data.files import DataError, Row, column

Note = Callable[[str], None]
"""Takes a line for people."""


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
class Tried:
    """What a row was made into, or why it could not be."""

    number: int
    row: Row
    items: list[Any]
    bad: BadRow | None = None


def attempt(make: Callable[[int, Row], Iterable[Any]], number: int, row: Row) -> Tried:
    try:
        return Tried(number, row, list(make(number, row)))
    except BadRow as bad:
        return Tried(number, row, [], bad)


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


class Progress:
    """Says how far a long work on rows is, and where their `total` is known, when it ends: after five seconds, and then
    ever more seldom, down to once a minute."""

    def __init__(self, source: str, note: Note, total: int = 0) -> None:
        self.source, self.note, self.total = source, note, total
        self.began, self.wait = time.monotonic(), 5.0
        self.due = self.began + self.wait

    def at(self, rows: int) -> None:
        now = time.monotonic()
        if now < self.due:
            return
        took, rate = now - self.began, rows / (now - self.began)
        share = f"{rows:,} of {self.total:,}" if self.total else f"{rows:,}"
        left = f", {(self.total - rows) / rate:.0f} s left" if self.total else ""
        self.note(f"{self.source}: {share} rows in {took:.0f} s, {rate:,.0f} rows/s{left}")
        self.wait = min(60.0, 2 * self.wait)
        self.due = now + self.wait


def unsaid(text: str) -> None:
    """A Note that nobody reads."""


class Ledger:
    """Counts rows by what became of them; where `strict`, the first bad one is a DataError."""

    def __init__(self, source: str, strict: bool, note: Note = unsaid) -> None:
        self.source, self.strict, self.progress = source, strict, Progress(source, note)
        self.read = self.used = self.made = self.cut = 0
        self.dropped: dict[str, int] = {}
        self.first: dict[str, int] = {}

    def usable(self, rows: Iterable[Tried]) -> Iterator[tuple[int, Any]]:
        """What each row was made into, with the row's number. Bad ones are counted. A column that the first row lacks
        is a DataError at once, since it is more likely a wrong name than a bad row."""
        for row in rows:
            self.read += 1
            self.progress.at(self.read)
            if row.bad is None:
                self.used, self.made = self.used + 1, self.made + len(row.items)
                yield from ((row.number, item) for item in row.items)
                continue
            where = f"{self.source}, row {row.number}"
            if isinstance(row.bad, Refused) or (self.read == 1 and isinstance(row.bad, BadKey)):
                raise DataError(f"{where}: {row.bad}") from row.bad
            if self.read == 1 and row.bad.name is not None:
                column(row.row, row.bad.name, where)
            self.drop(str(row.bad), row.number)

    def drop(self, why: str, row: int) -> None:
        if self.strict:
            raise DataError(f"{self.source}, row {row}: {why}\ndata.strict=true stops at the first such row")
        self.dropped[why] = self.dropped.get(why, 0) + 1
        self.first.setdefault(why, row)

    def report(self, max_tokens: int, fingerprint: str, noun: str) -> DataReport:
        notes = [f"cut {self.cut} rows at the end (data.overlong=cut)"] if self.cut else []
        counts = self.read, self.used, self.made
        return DataReport(self.source, *counts, self.dropped, self.first, max_tokens, fingerprint, noun, notes)

"""What is typed on a command line: `key=value`, and with `-m` the values that a key may take."""

import re
import shlex
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem

NAME = re.compile(r"[~+]{0,2}[A-Za-z0-9_$./@:\[\]-]+")
"""What stands before the equals sign."""


def parse(parser: OverridesParser, line: str) -> Override:
    """One override.

    Raises:
        ConfigError: it is not of the form `key=value`, or the value has a syntax error.
    """
    try:
        if line.startswith("="):
            raise HydraException("no key")
        return parser.parse_overrides([line])[0]
    except HydraException as error:
        raise ConfigError([unreadable(line, str(error))]) from None


def unreadable(line: str, reason: str) -> Problem:
    """Why the grammar refuses a line, of which its own words say little unless a function is concerned."""
    name, equals, value = line.partition("=")
    if not equals or not NAME.fullmatch(name):
        fix = f"Write {line}=VALUE." if NAME.fullmatch(line) else "Write key=value; docs/config.md has all keys."
        return Problem("syntax", line, "is not of the form key=value", fix, where=COMMAND_LINE)
    if value[:1] in ("'", '"') and value[-1:] != value[0]:
        return Problem("syntax", name, "has a quote that is not closed", "Close it.", value, COMMAND_LINE)
    quote = "'" if '"' in value else '"'
    fix = f"If it is a text, put it in quotes: {shlex.quote(f'{name}={quote}{value}{quote}')}"
    if called := re.search(r"while evaluating .*?: (.*?)(\n\n|\nSee |$)", reason, re.DOTALL):
        says = ". ".join(called[1].splitlines())
        return Problem("syntax", name, f"calls a function that fails: {says}", fix, value, COMMAND_LINE)
    return Problem("syntax", name, "has a value that cannot be read", fix, value, COMMAND_LINE)


def quoted(value: str) -> str:
    """A text as an override takes it. A backslash counts double before a quote, and as itself elsewhere."""
    if re.fullmatch(r"[\w./@:-]+", value, re.ASCII):
        return value
    return "'" + re.sub(r"(\\*)('|\Z)", lambda end: 2 * end[1] + ("\\'" if end[2] else ""), value) + "'"


@dataclass(frozen=True)
class Interval:
    """Values of `name` between two bounds, both included."""

    name: str
    low: float
    high: float
    is_log: bool
    is_whole: bool

    def at(self, share: float) -> str:
        """The override that lies `share`, in [0, 1), of the way from `low` to `high`."""
        if self.is_whole:
            return self.line(int(self.low + share * (self.high - self.low + 1)))
        if self.is_log:
            return self.line(self.low * (self.high / self.low) ** share)
        return self.line(self.low + share * (self.high - self.low))

    def line(self, value: float) -> str:
        """The override that takes `value`, to four digits."""
        rounded = value if self.is_whole else float(f"{value:.4g}")
        return f"{self.name}={min(max(rounded, self.low), self.high)}"


Values = tuple[str, ...] | Interval


def values(override: Override, line: str) -> Values:
    """What one override of `-m` lets a key be."""
    name = line.partition("=")[0]
    if not override.is_sweep_override():
        return (line,)
    if override.is_discrete_sweep():
        return listed(override, line)
    sweep = override.value()
    assert isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None
    is_whole, is_log = isinstance(sweep.start, int), "log" in sweep.tags
    if sweep.start >= sweep.end or (is_log and (is_whole or sweep.start <= 0)):
        fix = "Write interval(1,8), int(interval(1,8)), or tag(log,interval(1e-7,1e-5)) with bounds above 0."
        raise ConfigError([Problem("sweep", name, "is not an interval", fix, line.partition("=")[2], COMMAND_LINE)])
    return Interval(name, sweep.start, sweep.end, is_log, is_whole)


def listed(override: Override, line: str) -> tuple[str, ...]:
    """Every value of a list, a range or a glob, as an override."""
    sweep, (name, _, text) = override.value(), line.partition("=")
    if isinstance(sweep, RangeSweep):
        # As they are written: counted in binary fractions, range(0,0.9,0.3) would have a fourth value.
        sweep.start, sweep.stop, sweep.step = (exact(bound) for bound in (sweep.start, sweep.stop, sweep.step))
    found = () if isinstance(sweep, RangeSweep) and not sweep.step else tuple(override.sweep_string_iterator())
    if not found:
        fix = "Write a list as in 1,2, range(1,4), or glob(*) for all options of a group."
        raise ConfigError([Problem("sweep", name, "has no value to choose from", fix, text, COMMAND_LINE)])
    return tuple(f"{name}={value}" for value in found)


def exact(bound: float | None) -> Any:
    """A whole number, or what a fraction reads."""
    return bound if bound is None or isinstance(bound, int) else Decimal(repr(bound))

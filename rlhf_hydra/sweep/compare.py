"""How two runs differ: config with defaults folded in, curves, and what else may have caused it: code, packages, data,
model, machine. `task=compare` shows all of it; `task=rerun` asks whether a run and its repetition are exactly the same.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_hydra.config.export import PLACES
from rlhf_hydra.config.layers import leaves
from rlhf_hydra.provenance import FILE as PROVENANCE
from rlhf_hydra.sweep.runs import Curve, Trial, read_json, read_sweep
from rlhf_hydra.sweep.words import shown

TOLERANCE = 1e-6
"""Values of a metric that lie closer count as equal in `task=compare`."""
MEASURED = ("time/", "system/")
"""Metrics of the machine, which no two runs have in common."""
CAUSES = ("commit", "diff_sha", "files", "data", "model", "seeds", "python", "packages", "hardware", "resumed")
"""Parts of `provenance.json` that may change the numbers; the others say what was typed."""
NOTHING = "-"
"""Shown where only the other run has a value."""
SHOWN = 5
"""Metrics, and keys of a cause, that a verdict lists one by one."""

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class CurveDifference:
    """How a metric of run b differs from that of run a."""

    metric: str
    a: Curve
    b: Curve
    tolerance: float

    @property
    def last(self) -> Pair:
        return tuple(next(reversed(curve.values()), None) for curve in (self.a, self.b))  # type: ignore[return-value]

    @property
    def gaps(self) -> Curve:
        """|b - a| at the steps that both have."""
        return {step: abs(self.b[step] - value) for step, value in self.a.items() if step in self.b}

    @property
    def at(self) -> int | None:
        """The step of the largest gap."""
        return max(gaps, key=lambda step: gaps[step]) if (gaps := self.gaps) else None

    @property
    def first(self) -> int | None:
        """The first step at which they differ by more than the tolerance; None: at none."""
        return next((step for step, gap in self.gaps.items() if gap > self.tolerance), None)

    @property
    def alone(self) -> int | None:
        """The first step that only one of them has."""
        return min(self.a.keys() ^ self.b.keys(), default=None)


@dataclass(frozen=True)
class Comparison:
    a: Trial
    b: Trial
    config: dict[str, Pair]
    """Dotted key -> its values, where they differ."""
    provenance: dict[str, Pair]
    """The same of `provenance.json`: code, packages, data, model, machine."""
    unknown: tuple[str, ...]
    """Runs without a `provenance.json`."""
    curves: list[CurveDifference]

    @property
    def parting(self) -> int | None:
        """The first step at which not all numbers are the same, or that only one run has; None: there is none."""
        found = (step for curve in self.curves for step in (curve.first, curve.alone) if step is not None)
        return min(found, default=None)


def compare(a: Path, b: Path, tolerance: float = TOLERANCE) -> Comparison:
    """Failure if either is no run folder."""
    first, second = read_sweep([a, b]).trials
    facts = [causes(read_json(trial.folder / PROVENANCE, [])) for trial in (first, second)]
    unknown = tuple(trial.name for trial, known in zip((first, second), facts, strict=True) if not known)
    metrics = [metric for metric in {**first.curves, **second.curves} if not metric.startswith(MEASURED)]
    return Comparison(
        a=first,
        b=second,
        config={key: pair for key, pair in different(first.config, second.config) if key.split(".")[0] not in PLACES},
        provenance=dict(different(*facts)) if not unknown else {},
        unknown=unknown,
        curves=[CurveDifference(m, first.curves.get(m, {}), second.curves.get(m, {}), tolerance) for m in metrics],
    )


def causes(record: Mapping[str, Any]) -> dict[str, Any]:
    return dict(leaves({cause: record[cause] for cause in CAUSES if cause in record}))


def different(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Pair]]:
    """Each key whose value is not the same in both."""
    for key in {**a, **b}:
        pair = a.get(key, NOTHING), b.get(key, NOTHING)
        if pair[0] != pair[1]:
            yield key, pair


# ---------------------------------------------------------------------------------------------------------- verdict


def verdict(first: Path, second: Path) -> tuple[bool, str]:
    """`task=rerun`: whether both runs logged the same numbers, and a text that says so."""
    found = compare(first, second, tolerance=0.0)
    if found.parting is None:
        steps = len({step for curve in found.curves for step in curve.a})
        head = [f"same as {first}: all metrics of {steps} steps are equal"]
    else:
        head = [f"differs from {first}:", *(f"  {line}" for line in partings(found, found.parting))]
    if found.unknown:
        reasons = [f"nothing is known of {name}: it has no {PROVENANCE}" for name in found.unknown]
    else:
        reasons = list(listed(found.provenance)) or ["code, data, model, packages and machine are the same"]
    return found.parting is None, "\n".join([*head, *(f"  {reason}" for reason in reasons)])


def partings(found: Comparison, step: int) -> Iterator[str]:
    """What is not the same at a step."""
    sides = [any(step in curve for curve in curves) for curves in zip(*((c.a, c.b) for c in found.curves), strict=True)]
    if not all(sides):
        yield f"step {step} is in {'the first' if sides[0] else 'the second'} run alone"
        return
    here = [curve for curve in found.curves if step in (curve.first, curve.alone)]
    for curve in here[:SHOWN]:
        yield f"step {step}: {curve.metric} {curve.a.get(step, NOTHING)} -> {curve.b.get(step, NOTHING)}"
    if len(here) > SHOWN:
        yield f"step {step}: and {len(here) - SHOWN} other metrics"


def listed(pairs: Mapping[str, Pair]) -> Iterator[str]:
    """A line for each key, of each cause the first few."""
    for cause in CAUSES:
        keys = [key for key in pairs if key.split(".")[0] == cause]
        yield from (f"{key}: {pairs[key][0]} -> {pairs[key][1]}" for key in keys[:SHOWN])
        if len(keys) > SHOWN:
            yield f"{cause}: and {len(keys) - SHOWN} others"


# -------------------------------------------------------------------------------------------------------- terminal


def print_comparison(a: Path, b: Path, console: Console | None = None) -> None:
    """`task=compare`."""
    console = console or Console(width=None if sys.stdout.isatty() else 120)
    found = compare(a, b)
    for letter, trial in (("a", found.a), ("b", found.b)):
        console.print(f"{letter}  {trial.folder}  {trial.state}", highlight=False, soft_wrap=True)
        for problem in trial.problems:
            console.print(Text(f"   {problem}", style="yellow"))
    console.print()
    print_pairs(console, "config", found.config, "The configs are the same, defaults included.")
    if found.unknown:
        console.print(f"Code, packages and machine are unknown: no {PROVENANCE} in {', '.join(found.unknown)}.", "")
    else:
        print_pairs(console, "provenance", found.provenance, "Code, packages, data and machine are the same.")
    print_curves(console, found.curves)


def print_pairs(console: Console, title: str, pairs: Mapping[str, Pair], equal: str) -> None:
    if not pairs:
        console.print(equal, "")
        return
    table = plain_table(title, "key", "a", "b")
    for key, pair in pairs.items():
        table.add_row(key, *(shown(value) for value in pair))
    console.print(table, "")


def print_curves(console: Console, curves: list[CurveDifference]) -> None:
    """A line for each metric that differs; those that are equal are counted."""
    differing = [curve for curve in curves if curve.first is not None or not curve.gaps]
    if differing:
        table = plain_table("curves", "metric", "last a", "last b", "largest gap", "at step", "differ from step")
        for curve in differing:
            largest = None if curve.at is None else curve.gaps[curve.at]
            table.add_row(curve.metric, *map(shown, (*curve.last, largest, curve.at, curve.first)))
        console.print(table)
    steps = max((len(curve.gaps) for curve in curves), default=0)
    console.print(f"{len(curves) - len(differing)} of {len(curves)} metrics agree to {TOLERANCE:g} over {steps} steps.")


def plain_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

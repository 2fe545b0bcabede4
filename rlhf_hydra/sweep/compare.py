"""How two runs differ: config with defaults folded in, code, packages, data, machine, and curves."""

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
from rlhf_hydra.sweep.report import shown
from rlhf_hydra.sweep.runs import Curve, Trial, read_json, read_sweep

TOLERANCE = 1e-6
"""Values of a metric that lie closer count as equal."""
UNCOMPARED = ("time/",)
"""Metrics that differ between any two runs."""
NOTHING = "-"
"""Shown where only the other run has a value."""

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class CurveDifference:
    """How a metric of run b differs from that of run a, over the steps that both have."""

    metric: str
    last: Pair
    steps: int
    """That both have."""
    largest: float
    """max |b - a|."""
    at: int | None
    """The step of the largest difference."""
    first: int | None
    """The first step at which they differ by more than `TOLERANCE`; None: at none."""


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
    def is_equal(self) -> bool:
        """Whether the runs agree in everything that is known of both."""
        return not self.config and not self.provenance and all(curve.first is None for curve in self.curves)


def compare(a: Path, b: Path) -> Comparison:
    """Failure if either is no run folder."""
    first, second = read_sweep([a, b]).trials
    facts = [dict(leaves(read_json(trial.folder / PROVENANCE, []))) for trial in (first, second)]
    unknown = tuple(trial.name for trial, known in zip((first, second), facts, strict=True) if not known)
    return Comparison(
        a=first,
        b=second,
        config={key: pair for key, pair in different(first.config, second.config) if key.split(".")[0] not in PLACES},
        provenance=dict(different(*facts)) if not unknown else {},
        unknown=unknown,
        curves=list(curve_differences(first.curves, second.curves)),
    )


def different(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Pair]]:
    """Each key whose value is not the same in both."""
    for key in {**a, **b}:
        pair = a.get(key, NOTHING), b.get(key, NOTHING)
        if pair[0] != pair[1]:
            yield key, pair


def curve_differences(a: Mapping[str, Curve], b: Mapping[str, Curve]) -> Iterator[CurveDifference]:
    for metric in {**a, **b}:
        if metric.startswith(UNCOMPARED):
            continue
        ours, theirs = a.get(metric, {}), b.get(metric, {})
        gaps = {step: abs(theirs[step] - value) for step, value in ours.items() if step in theirs}
        at = max(gaps, key=lambda step: gaps[step], default=None)
        yield CurveDifference(
            metric=metric,
            last=tuple(next(reversed(curve.values()), None) for curve in (ours, theirs)),  # type: ignore[arg-type]
            steps=len(gaps),
            largest=0.0 if at is None else gaps[at],
            at=at,
            first=next((step for step, gap in gaps.items() if gap > TOLERANCE), None),
        )


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
    differing = [curve for curve in curves if curve.first is not None or not curve.steps]
    if differing:
        table = plain_table("curves", "metric", "last a", "last b", "largest gap", "at step", "differ from step")
        for curve in differing:
            gap = (shown(curve.largest), shown(curve.at), shown(curve.first)) if curve.steps else (NOTHING,) * 3
            table.add_row(curve.metric, *map(shown, curve.last), *gap)
        console.print(table)
    steps = max((curve.steps for curve in curves), default=0)
    console.print(f"{len(curves) - len(differing)} of {len(curves)} metrics agree to {TOLERANCE:g} over {steps} steps.")


def plain_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table

"""What a sweep may try: lists of values, lists that go together, intervals, and seeds."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import COMMAND_LINE, ConfigError, Problem
from rlhf_hydra.config.export import PLACES
from rlhf_hydra.config.overrides import Interval, Values
from rlhf_hydra.config.schema import OptunaSweep, RandomSweep, RunConfig, Sweep
from rlhf_hydra.config.seeds import derive

IRRELEVANT = (*PLACES, "tracking")
"""Sections that do not decide what a trial finds."""
ALIKE = (*IRRELEVANT, "cluster.address", "hydra.sweep")
"""How the names begin of keys that all trials have in common."""


IN_VAIN = 10_000
"""Draws without a new combination after which there is none: of an interval so narrow that few numbers of four digits
lie in it."""


@dataclass(frozen=True)
class Choices:
    """Keys that vary together: each option is one override for each of them."""

    options: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return ",".join(name_of(line) for line in self.options[0])


Axis = Choices | Interval


@dataclass(frozen=True)
class Point:
    """The overrides of one run, and which of them tell it from the other runs of its sweep."""

    overrides: list[str]
    own: list[str]


class Space:
    """Everything that the values of a command line allow."""

    def __init__(self, values: Mapping[str, Values], cfg: Sweep, seed: int) -> None:
        self.values, self.cfg, self.seed = dict(values), cfg, seed
        if cfg.seeds > 1:
            if varies(values.get("seed", ())):
                raise wrong("sweep.seeds", "the seed has several values already", "Drop one of the two.")
            self.values |= {"seed": tuple(f"seed={seed + i}" for i in range(cfg.seeds))}
        self.fixed = [name for name, options in self.values.items() if not varies(options)]
        self.axes = self._axes()

    @classmethod
    def of(cls, composer: Composer, overrides: Sequence[str]) -> "Space":
        """The space of a command line. ConfigError where its values do not go together."""
        values = composer.axes(overrides)
        for name, options in values.items():
            if varies(options) and name.lstrip("+").startswith(ALIKE):
                raise wrong(name, "does not decide what a run finds, and has one value in a sweep", "Choose one.")
        run: RunConfig = composer.compose([first(options) for options in values.values()]).run
        space = cls(values, run.sweep, run.seed)
        if not isinstance(run.sweep, RandomSweep):
            space.refuse_intervals()
        return space

    def _axes(self) -> list[Axis]:
        """In the order of the command line; a zip stands where its first key does; seeds come last."""
        inside = [name for group in self.cfg.zip for name in group]
        if twice := next((name for name in inside if inside.count(name) > 1), ""):
            raise wrong("sweep.zip", f"{twice} stands in two zips", "Let all that goes together with it be one zip.")
        zips = {group[0]: self._zipped(group) for group in self.cfg.zip if group}
        axes: list[Axis] = []
        for name, options in self.values.items():
            if name in zips:
                axes.append(zips[name])
            elif isinstance(options, Interval):
                axes.append(options)
            elif name not in self.fixed and name not in inside and not self._is_seeds(name):
                axes.append(Choices(tuple((option,) for option in options)))
        return axes

    def _zipped(self, group: Sequence[str]) -> Choices:
        columns = {name: self.values.get(name, ()) for name in group}
        lists = [options for options in columns.values() if not isinstance(options, Interval)]
        if len(lists) < len(group) or len({len(options) for options in lists}) > 1 or not lists[0]:
            sizes = ", ".join(f"{name}: {shown(options)}" for name, options in columns.items())
            fix = "Give each key of a zip a list of the same length."
            raise wrong("sweep.zip", f"the values do not pair ({sizes})", fix)
        return Choices(tuple(zip(*lists, strict=True)))

    def _is_seeds(self, name: str) -> bool:
        return name == "seed" and self.cfg.seeds > 1

    def refuse_intervals(self) -> None:
        for axis in self.axes:
            if isinstance(axis, Interval):
                fix = "List the values, as in 0.1,0.2 or range(1,4), or take sweep=random or sweep=optuna."
                raise wrong(axis.name, "a grid cannot be swept over an interval", fix)

    def describe(self) -> dict[str, Any]:
        """The keys with one value, as overrides, and the values of the others."""
        varied = {name: options for name, options in self.values.items() if name not in self.fixed}
        base = [first(self.values[name]) for name in self.fixed]
        return {"base": base, "axes": {name: shown(options) for name, options in varied.items()}}

    def points(self) -> Iterator[Point]:
        """The runs of a grid or of a random search; of a search by Optuna those at its bounds, which are not run."""
        if isinstance(self.cfg, OptunaSweep):
            chosen: Iterator[Sequence[Sequence[str]]] = self._bounds()
        elif isinstance(self.cfg, RandomSweep):
            chosen = self._drawn(self.cfg.trials)
        else:
            chosen = product(*(axis.options for axis in self.axes if isinstance(axis, Choices)))
        return (point for lines in chosen for point in self.repeats([line for part in lines for line in part]))

    def repeats(self, chosen: Sequence[str]) -> Iterator[Point]:
        """One combination with each of its seeds."""
        seeds = self.values["seed"] if self._is_seeds("seed") else ()
        assert not isinstance(seeds, Interval)
        for seed in [[line] for line in seeds] or [[]]:
            own = {name_of(line): line for line in (*chosen, *seed)}
            lines = [own.get(name, first(options)) for name, options in self.values.items()]
            yield Point(lines, [line for line in lines if name_of(line) in own])

    def _drawn(self, trials: int) -> Iterator[list[tuple[str, ...]]]:
        """`trials` different combinations, or all if there are fewer; a longer search begins with the shorter one."""
        rng = random.Random(derive(self.seed, "sweep"))
        continuous = any(isinstance(axis, Interval) and not axis.is_whole for axis in self.axes)
        limit = trials if continuous else min(trials, prod(map(size, self.axes)))
        seen: set[tuple[tuple[str, ...], ...]] = set()
        in_vain = 0
        while len(seen) < limit and not (continuous and in_vain > IN_VAIN):
            drawn = tuple(draw(axis, rng.random()) for axis in self.axes)
            in_vain = in_vain + 1 if drawn in seen else 0
            if drawn not in seen:
                seen.add(drawn)
                yield list(drawn)

    def _bounds(self) -> Iterator[list[tuple[str, ...]]]:
        """Every value of every list and both ends of every interval, one axis at a time."""
        start = [draw(axis, 0.0) for axis in self.axes]
        yield start
        for i, axis in enumerate(self.axes):
            ends = axis.options[1:] if isinstance(axis, Choices) else ((axis.line(axis.high),),)
            yield from ([*start[:i], end, *start[i + 1 :]] for end in ends)


def draw(axis: Axis, share: float) -> tuple[str, ...]:
    """What lies `share`, in [0, 1), of the way through an axis."""
    return axis.options[int(share * len(axis.options))] if isinstance(axis, Choices) else (axis.at(share),)


def size(axis: Axis | Values) -> int:
    """Number of values, those of an interval of whole numbers included."""
    if isinstance(axis, Interval):
        return int(axis.high - axis.low) + 1
    return len(axis.options if isinstance(axis, Choices) else axis)


def varies(options: Values) -> bool:
    return isinstance(options, Interval) or len(options) > 1


def first(options: Values) -> str:
    return options.at(0.0) if isinstance(options, Interval) else options[0]


def shown(options: Values) -> list[str] | str:
    if isinstance(options, Interval):
        return f"interval({options.low},{options.high})"
    return [line.partition("=")[2] for line in options]


def name_of(line: str) -> str:
    return line.partition("=")[0]


def wrong(key: str, says: str, fix: str) -> ConfigError:
    return ConfigError([Problem("sweep", key, says, fix, where=COMMAND_LINE)])

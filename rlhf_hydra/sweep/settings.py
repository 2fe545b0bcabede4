"""Trials that differ in their seed alone, taken as one: a mean over the seeds, and how far the seeds lie apart."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rlhf_hydra.sweep.objective import averaged
from rlhf_hydra.sweep.runs import Curve, Trial, Value
from rlhf_hydra.sweep.space import IRRELEVANT

WORST_FIRST = ("failed", "killed", "unfinished", "stopped", "running", "queued", "waiting", "pruned", "done")


@dataclass(frozen=True)
class Setting:
    """One configuration, and the runs of it. Their numbers are those of the runs that are done; while none is, of those
    that have begun."""

    trials: tuple[Trial, ...]

    @cached_property
    def name(self) -> str:
        first = self.trials[0].name
        return first if len(self.trials) == 1 else f"{first} ×{len(self.trials)}"

    @cached_property
    def state(self) -> str:
        """done where all trials are; else that of the one which needs attention most."""
        return min((trial.state for trial in self.trials), key=WORST_FIRST.index)

    @property
    def states(self) -> str:
        """The state, or where the trials have several `2 done, 1 failed`."""
        counts = Counter(sorted((trial.state for trial in self.trials), key=WORST_FIRST.index, reverse=True))
        return self.state if len(counts) == 1 else ", ".join(f"{count} {state}" for state, count in counts.items())

    @property
    def seeds(self) -> list[Value]:
        return [trial.value("seed") for trial in self.trials]

    @cached_property
    def config(self) -> dict[str, Value]:
        """Every key of the resolved config; all seeds in one text."""
        known = next((trial.config for trial in self.trials if trial.config), {})
        return known if len(self.trials) == 1 else known | {"seed": ", ".join(map(str, self.seeds))}

    def value(self, key: str) -> Value:
        """Of a dotted key, or the choice of a group such as `algo`; None if it is not known."""
        if key in self.config:
            return self.config[key]
        return next((value for trial in self.trials if (value := trial.value(key)) is not None), None)

    @cached_property
    def counted(self) -> list[Trial]:
        """The trials that the numbers are of."""
        return [t for t in self.trials if t.state == "done"] or [t for t in self.trials if t.curves]

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The last value of each metric, mean over the seeds."""
        return averaged([trial.metrics for trial in self.counted]) if self.counted else {}

    def last(self, metric: str) -> float | None:
        return self.metrics.get(metric)

    def deviation(self, metric: str) -> float | None:
        """Standard deviation of the last value over the seeds (n - 1); None of a single one."""
        if len(self.counted) < 2 or metric not in self.metrics:
            return None
        return statistics.stdev(trial.metrics[metric] for trial in self.counted)

    def curve(self, metric: str) -> Curve:
        """Mean over the seeds, at the steps that all of them have."""
        return {step: statistics.fmean(values) for step, values in self._values(metric).items()}

    def band(self, metric: str) -> Curve:
        """Standard deviation over the seeds at each step; empty for a single seed."""
        if len(self.counted) < 2:
            return {}
        return {step: statistics.stdev(values) for step, values in self._values(metric).items()}

    def _values(self, metric: str) -> dict[int, list[float]]:
        curves = [trial.curves.get(metric, {}) for trial in self.counted]
        steps = [step for step in (curves[0] if curves else {}) if all(step in curve for curve in curves)]
        return {step: [curve[step] for curve in curves] for step in steps}

    @property
    def seconds(self) -> float:
        """Of all trials together, as the hours are."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def gpu_hours(self) -> float:
        return sum(trial.gpu_hours for trial in self.trials)

    @property
    def core_hours(self) -> float:
        return sum(trial.core_hours for trial in self.trials)


def settings(trials: Sequence[Trial]) -> list[Setting]:
    """Each trial in one of them, in the order of their first trials. A second run with the same seed is no repeat: it
    begins a setting of its own."""
    groups: dict[object, list[Trial]] = {}
    seen: Counter[object] = Counter()
    for trial in trials:
        same = identity(trial)
        again = (same, trial.value("seed"))
        groups.setdefault((same, seen[again]), []).append(trial)
        seen[again] += 1
    return [Setting(tuple(group)) for group in groups.values()]


def identity(trial: Trial) -> object:
    """Everything that decides what a trial finds but its seed: its config, or else what was asked for."""
    known = trial.config or trial.overrides
    kept = {key: value for key, value in known.items() if key.split(".")[0] not in (*IRRELEVANT, "hydra", "seed")}
    return frozenset(kept.items()) if known else trial.name

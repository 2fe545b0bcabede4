"""Which trial is the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_hydra.config.conditions import Condition, parse_condition
from rlhf_hydra.config.schema import OptunaSweep, RunConfig

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Objective:
    metric: str | None
    """None: nothing is evaluated and nothing was named, so nothing is ranked."""
    direction: str = "max"
    conditions: Sequence[Condition] = field(default_factory=tuple)
    against: str | None = None

    @classmethod
    def of(cls, run: RunConfig) -> "Objective":
        cfg = run.sweep
        judged = f"eval/pass@{min(run.eval.k)}" if run.eval.every else None
        against = cfg.against if isinstance(cfg, OptunaSweep) else None
        return cls(cfg.objective or judged, cfg.direction, tuple(map(parse_condition, cfg.constraints)), against)

    def describe(self) -> dict[str, Any]:
        return {"objective": self.metric, "direction": self.direction, "constraints": list(map(str, self.conditions))}

    def value(self, metrics: Metrics) -> float | None:
        return None if self.metric is None else metrics.get(self.metric)

    def allows(self, metrics: Metrics) -> bool:
        return all(condition.holds(metrics) for condition in self.conditions)

    def violations(self, metrics: Metrics) -> list[str]:
        return [str(condition) for condition in self.conditions if not condition.holds(metrics)]

    def ranked(self, finished: Mapping[str, Metrics]) -> list[str]:
        """The keys of trials that have a value and keep the conditions, best first."""
        values = {key: self.value(metrics) for key, metrics in finished.items() if self.allows(metrics)}
        known = {key: value for key, value in values.items() if value is not None}
        return sorted(known, key=lambda key: known[key], reverse=self.direction == "max")

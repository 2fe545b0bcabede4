"""Which trial is the best: the metric that decides, which way is better, and what else must hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_hydra.config.conditions import SHORT, Condition, parse_condition, usual_direction
from rlhf_hydra.config.schema import OptunaSweep, ReportTask, RunConfig, Supervised

Metrics = Mapping[str, float]

KL, REWARD, LOSS = SHORT["kl"], SHORT["reward"], "train/loss"


@dataclass(frozen=True)
class Objective:
    metric: str | None = None
    """None: nothing is evaluated and nothing was named, so nothing is ranked."""
    direction: str = "max"
    conditions: Sequence[Condition] = ()
    against: str | None = None
    training: str = REWARD
    """What the training itself improves, which is shown where nothing judges it."""

    @classmethod
    def of(cls, run: RunConfig) -> "Objective":
        cfg, is_supervised = run.sweep, isinstance(run.algo, Supervised)
        judge = "eval/loss" if is_supervised else f"eval/pass@{min(run.eval.k)}"
        metric, training = cfg.objective or (judge if run.eval.every else None), LOSS if is_supervised else REWARD
        against = cfg.against if isinstance(cfg, OptunaSweep) else None
        conditions = tuple(map(parse_condition, cfg.constraints))
        return cls(metric, cfg.direction or usual_direction(metric or training), conditions, against, training)

    def changed(self, task: ReportTask) -> "Objective":
        """With what a report asks for instead. ValueError if a condition cannot be read."""
        usual = usual_direction(task.objective) if task.objective else self.direction
        return replace(
            self,
            metric=task.objective or self.metric,
            direction=task.direction or usual,
            conditions=tuple(map(parse_condition, task.constraints)) or self.conditions,
        )

    @property
    def shown(self) -> str:
        """What tables and figures show first."""
        return self.metric or self.training

    def describe(self) -> dict[str, Any]:
        return {"objective": self.metric, "direction": self.direction, "constraints": list(map(str, self.conditions))}

    def value(self, metrics: Metrics) -> float | None:
        return None if self.metric is None else metrics.get(self.metric)

    def violations(self, metrics: Metrics) -> list[str]:
        return [str(condition) for condition in self.conditions if not condition.holds(metrics)]

    def ranked(self, finished: Mapping[str, Metrics]) -> list[str]:
        """The keys of those that have a value and keep the conditions, best first; ties go to the lower KL."""
        allowed = {key: metrics for key, metrics in finished.items() if not self.violations(metrics)}
        known = {key: value for key, metrics in allowed.items() if (value := self.value(metrics)) is not None}
        sign = -1 if self.direction == "max" else 1
        return sorted(known, key=lambda key: (sign * known[key], allowed[key].get(KL, float("inf"))))


def averaged(repeats: Sequence[Metrics]) -> dict[str, float]:
    """The mean of each metric that all repeats have: what a combination that is run with several seeds is worth."""
    common = [name for name in repeats[0] if all(name in metrics for metrics in repeats)]
    return {name: sum(metrics[name] for metrics in repeats) / len(repeats) for name in common}

"""Conditions on metrics, such as `kl <= 15`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import ge, gt, le, lt

COMPARE = {"<=": le, ">=": ge, "<": lt, ">": gt}

SHORT = {
    "kl": "policy/kl",
    "reward": "reward/mean",
    "entropy": "policy/entropy",
    "tokens": "response/tokens_mean",
    "eval": "eval/mean",
}
"""What may be written for a metric in a condition."""


@dataclass(frozen=True)
class Condition:
    metric: str
    sign: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """A metric that is not there satisfies nothing."""
        return self.metric in metrics and COMPARE[self.sign](metrics[self.metric], self.bound)

    def excess(self, metrics: Mapping[str, float]) -> float:
        """How far beyond the bound; at most 0 where the condition holds, infinite without the metric."""
        if self.metric not in metrics:
            return float("inf")
        beyond = metrics[self.metric] - self.bound
        return beyond if self.sign.startswith("<") else -beyond


def parse_condition(text: str) -> Condition:
    """`METRIC <= NUMBER`, with any of `<= >= < >`. ValueError if it is something else."""
    found = re.fullmatch(r"\s*([\w@./-]+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    if found is None:
        raise ValueError(f"'{text}' is not of the form METRIC <= NUMBER")
    metric, sign, bound = found.groups()
    return Condition(SHORT.get(metric, metric), sign, float(bound))


def usual_direction(metric: str) -> str:
    """Of a loss less is better, of anything else more."""
    return "min" if metric.endswith("loss") else "max"

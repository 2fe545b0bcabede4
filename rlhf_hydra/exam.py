"""Evaluation of supervised runs: the objective over all held-out examples."""

import math
import shlex
from pathlib import Path
from typing import Any

from rlhf_hydra.algos.objectives import Totals
from rlhf_hydra.cluster.roles import Learner
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.data.report import Note, Progress, unsaid
from rlhf_hydra.evaluate import is_due
from rlhf_hydra.lessons import Lessons, parts, watched

Numbers = dict[str, float]


class Exam:
    """Evaluates when it is time, once. Exact, however many examples are looked at together, and on however many ranks:
    the totals are those of the whole set."""

    def __init__(self, run: RunConfig, learner: Learner, held_out: Lessons | None, note: Note) -> None:
        self.run, self.learner, self.held_out, self.note, self.last = run, learner, held_out, note, -1

    def state(self) -> dict[str, Any]:
        return {"last": self.last, "facts": self.learner.facts}

    def load_state(self, state: dict[str, Any]) -> None:
        self.last, self.learner.facts = state["last"], state["facts"]

    def evaluate(self, step: int) -> Numbers:
        """Metrics of the weights after `step`; none where no evaluation is due."""
        if self.held_out is None or not is_due(self.run, step, self.last):
            return {}
        metrics = measure(self.learner, self.held_out, self.run.policy.samples_per_update, self.note)
        if "eval/reward_std" in metrics:
            self.learner.facts = {"mean": metrics["eval/reward_mean"], "std": metrics["eval/reward_std"]}
        self.last = step
        return metrics

    def advice(self, model: Path) -> str:
        """How to use a reward model, and what was found out about it."""
        folder = shlex.quote(str(model))
        shaping = " ".join(f"algo.shaping.{name}={value:.6g}" for name, value in self.learner.facts.items())
        use = f"reward=model reward.path={folder} critic.path={folder}"
        return f"to learn from this reward model: algo=ppo {use} algo.shaping.normalize=stored {shaping}"


def measure(learner: Learner, lessons: Lessons, size: int, note: Note = unsaid) -> Numbers:
    """The objective's metrics over all `lessons`, `size` examples at a time."""
    count = Totals(tokens=0, rows=0, kl=lessons.kl(learner, lessons.items, size))
    for part in parts(lessons.items, size):
        count += lessons.count(lessons.batch(part))
    metrics: Numbers = {}
    for part in watched(parts(lessons.items, size), Progress("evaluation", note, len(lessons))):
        for name, share in learner.evaluate(lessons.batch(part), count).get().items():
            metrics[name] = metrics.get(name, 0.0) + share
    return with_deviation(metrics)


def with_deviation(metrics: Numbers) -> Numbers:
    """`x_square`, a mean of squares, becomes `x_std`, the deviation from `x_mean`, at least 1e-8."""
    for name in [name for name in metrics if name.endswith("_square")]:
        stem = name.removesuffix("_square")
        variance = metrics.pop(name) - metrics[f"{stem}_mean"] ** 2
        metrics[f"{stem}_std"] = math.sqrt(max(variance, 1e-16))
    return metrics

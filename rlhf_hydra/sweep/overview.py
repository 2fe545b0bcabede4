"""A sweep with everything that is found in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf_hydra.sweep import findings
from rlhf_hydra.sweep.objective import LOSS, Objective
from rlhf_hydra.sweep.runs import UNTROUBLED, Sweep, Trial
from rlhf_hydra.sweep.settings import Setting, settings

METRICS = (
    (findings.REWARD, findings.KL, findings.LENGTH, findings.ENTROPY)
    + ("eval/loss", LOSS, "eval/accuracy", "train/accuracy")
    + ("eval/margin", "train/margin", "eval/kl", "train/kl")
)
"""What is shown of a run, of what it logs: of one that samples, and of a supervised one."""


@dataclass(frozen=True)
class Report:
    """What tables, figures and pages are made of."""

    sweep: Sweep
    folder: Path
    """Where the report lies; links start there."""
    settings: list[Setting]
    """What the table and the plots have a line for."""
    swept: dict[str, list[Any]]
    ranking: list[Setting]
    """Those that can be the best, best first."""
    frontier: list[Setting]
    effects: list[findings.Effect]
    signs: dict[str, list[str]]
    """Trial -> signs of reward hacking; those without are left out."""
    differences: dict[str, dict[Any, list[str]]]
    notes: list[str] = field(default_factory=list)
    """What the reader should know of how this came about."""
    command: str = ""
    """What runs the best again; empty if there is none."""

    @property
    def best(self) -> Setting | None:
        return self.ranking[0] if self.ranking else None

    @property
    def objective(self) -> str:
        """The metric that decides, or else that of the training."""
        return self.sweep.objective.shown

    @cached_property
    def in_order(self) -> list[Setting]:
        """The best first, then those that are not ranked."""
        return self.ranking + [setting for setting in self.settings if setting not in self.ranking]

    @cached_property
    def metrics(self) -> list[str]:
        """What the table and the plots show, the objective first."""
        logged = {metric for trial in self.sweep.trials for metric in trial.curves}
        return [metric for metric in dict.fromkeys((self.objective, *METRICS)) if metric in logged]

    @property
    def columns(self) -> list[str]:
        """Those that have room in a table; `trials.csv` has all that was logged."""
        return self.metrics[: 4 if self.repeats else 5]

    @property
    def repeats(self) -> bool:
        """Whether there are settings with several seeds."""
        return len(self.settings) < len(self.sweep.trials)

    @property
    def failures(self) -> list[Trial]:
        return [trial for trial in self.sweep.trials if trial.state not in UNTROUBLED]

    def signs_of(self, setting: Setting) -> list[str]:
        return list(dict.fromkeys(sign for trial in setting.trials for sign in self.signs.get(trial.name, ())))

    @property
    def cost_name(self) -> str:
        return "GPU h" if self.uses_gpus else "core h"

    @cached_property
    def uses_gpus(self) -> bool:
        return any(trial.gpus for trial in self.sweep.trials)

    def cost(self, of: Setting | Trial) -> float:
        return of.gpu_hours if self.uses_gpus else of.core_hours


def study(sweep: Sweep, folder: Path) -> Report:
    """Find everything that there is to say; writes nothing."""
    found = settings(sweep.trials)
    swept = findings.swept(found, sweep.axes)
    report = Report(
        sweep=sweep,
        folder=folder,
        settings=found,
        swept=swept,
        ranking=findings.ranking(found, sweep.objective),
        frontier=findings.frontier(found, sweep.objective),
        effects=findings.effects(found, swept, sweep.objective.shown),
        signs={trial.name: signs for trial in sweep.trials if (signs := findings.signs(trial))},
        differences=findings.differences(found),
    )
    report.notes.extend(remarks(report))
    return report


# ----------------------------------------------------------------------------------------------------------- notes


def remarks(report: Report) -> list[str]:
    """Why the best is the best, or why there is none, and what could not be read."""
    objective, trials, done = report.sweep.objective, report.sweep.trials, findings.finished(report.settings)
    found = [] if report.best else [f"None is the best: {why_none(done, objective)}."]
    for condition in objective.conditions:
        if broken := [setting.name for setting in done if not condition.holds(setting.metrics)]:
            known = any(condition.metric in setting.metrics for setting in done)
            why = "" if known else f" (there is no {condition.metric})"
            found.append(f"Not {condition}{why}, so not the best: {', '.join(broken)}.")
    begun = [setting for setting in report.settings if setting not in done and len(setting.trials) > 1]
    if partly := [setting.name for setting in begun if any(trial.state == "done" for trial in setting.trials)]:
        found.append(f"Not ranked before all of their seeds are done: {', '.join(partly)}.")
    sampling = [setting for setting in done if setting.curve(findings.REWARD)]
    if blind := [setting.name for setting in sampling if not setting.curve(findings.KL)]:
        found.append(f"No KL was measured (algo.kl.coef=0), so not on the frontier: {', '.join(blind)}.")
    if refused := report.sweep.refused:
        point, error = next(iter(refused.items()))
        why = error.removeprefix("error: ").splitlines()[0]
        found.append(f"Passed over: {len(refused)} that would be no sound run, first {point} ({why}).")
    problems = dict.fromkeys(problem for trial in trials for problem in trial.problems)
    named = {problem: [trial.name for trial in trials if problem in trial.problems] for problem in problems}
    return found + [f"{', '.join(names)}: {problem}." for problem, names in named.items()]


def why_none(done: Sequence[Setting], objective: Objective) -> str:
    if objective.metric is None:
        says = f"nothing was evaluated, and {objective.training}, which the training itself improves, is no judge"
        return f"{says}. Set eval.every, or name what decides with sweep.objective, or task.objective of a report"
    if not done:
        return "no trial is done, or none with all of its seeds"
    known = ", ".join(sorted(set().union(*(setting.metrics for setting in done))))
    if not any(objective.metric in setting.metrics for setting in done):
        return f"there is no {objective.metric}; metrics: {known}"
    return f"all break a condition; metrics: {known}"

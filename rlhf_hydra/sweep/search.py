"""Points that Optuna chooses, by its own ask and tell. The study is a file in the sweep's folder; needs `search`."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.overrides import Interval
from rlhf_hydra.config.schema import OptunaSweep
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.sweep.objective import Objective, averaged
from rlhf_hydra.sweep.progress import Progress
from rlhf_hydra.sweep.space import Axis, Choices, Point, Space
from rlhf_hydra.sweep.status import Status
from rlhf_hydra.sweep.trial import Trial

STUDY = "optuna.db"
KEYS, REFUSED = "trials", "refused"

Accept = Callable[[Point], Trial]
"""Composes, checks and lists a point. ConfigError if it is no sound run."""


class Study:
    """A search of `sweep.trials` points, each run once per seed; a study that is there already goes on.

    A point counts when all of its trials have ended well; one that failed stays open, to be run again.
    """

    def __init__(self, space: Space, cfg: OptunaSweep, objective: Objective, folder: Path, accept: Accept) -> None:
        self.space, self.cfg, self.objective, self.accept = space, cfg, objective, accept
        self.study = open_study(space, cfg, objective, folder)
        self.queue: deque[Trial] = deque()
        self.open: dict[str, list[tuple[Any, list[Trial]]]] = {}
        """Key -> the points that wait for it, each with all of its trials; Optuna may ask for the same one again."""
        self.refused: dict[str, str] = {}
        """Points that are no sound run -> why."""
        for frozen in self.study.get_trials():
            if REFUSED in frozen.user_attrs:
                self.refused[" ".join(frozen.user_attrs[KEYS])] = frozen.user_attrs[REFUSED]
            if not frozen.state.is_finished():
                self.reopen(frozen)

    def reopen(self, frozen: Any) -> None:
        """Go on with a point that was asked for in an earlier session."""
        import optuna

        lines = frozen.user_attrs.get(KEYS)
        if lines is None:
            self.study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
        else:
            self.enqueue(optuna.trial.Trial(self.study, frozen._trial_id), lines)

    def take(self) -> Trial | None:
        while not self.queue and len(self.study.trials) < self.cfg.trials:
            self.ask()
        return self.queue.popleft() if self.queue else None

    def ask(self) -> None:
        chosen = self.study.ask()
        lines = [line for axis in self.space.axes for line in suggest(chosen, axis)]
        chosen.set_user_attr(KEYS, lines)
        self.enqueue(chosen, lines)

    def enqueue(self, chosen: Any, lines: Sequence[str]) -> None:
        """Queue what is left to do of a point; one that is no sound run is told to have failed."""
        import optuna

        try:
            trials = [self.accept(point) for point in self.space.repeats(lines)]
        except ConfigError as error:
            self.refused[" ".join(lines)] = str(error)
            chosen.set_user_attr(REFUSED, str(error))
            self.study.tell(chosen, state=optuna.trial.TrialState.FAIL)
            return
        self.queue.extend(trial for trial in trials if trial.key not in self.open and not trial.status.is_final)
        for trial in trials:
            self.open.setdefault(trial.key, []).append((chosen, trials))
        self.settle(chosen, trials)

    def finished(self, trial: Trial, status: Status, progress: Progress) -> None:
        for chosen, trials in self.open[trial.key]:
            self.settle(chosen, trials)

    def settle(self, chosen: Any, trials: Sequence[Trial]) -> None:
        """Tell Optuna about a point when all of its trials are done, or one was pruned."""
        import optuna

        if any(trial.status.pruned for trial in trials):
            self.study.tell(chosen, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
        elif all(trial.status.state == "done" for trial in trials):
            found = averaged([Progress(trial.folder).last for trial in trials])
            for condition in self.objective.conditions:
                chosen.set_constraint(str(condition), condition.excess(found))
            names = [name for name in (self.objective.metric, self.objective.against) if name]
            self.study.tell(chosen, [metric_of(found, name) for name in names], skip_if_finished=True)

    def prunes(self, trial: Trial, progress: Progress) -> str:
        """Report what is new of the objective; only points that are run once can be pruned."""
        if self.cfg.pruner == "none" or self.cfg.seeds > 1 or self.objective.metric is None:
            return ""
        chosen, _ = self.open[trial.key][0]
        for step, metrics in progress.fresh:
            value = metrics.get(self.objective.metric)
            if value is not None:
                chosen.report(value, step)
                if chosen.should_prune():
                    return f"pruned at step {step}: {self.objective.metric} {value:.4g} is worse than that of others"
        return ""


def open_study(space: Space, cfg: OptunaSweep, objective: Objective, folder: Path) -> Any:
    """The study of this space and objective in `folder`, made if it is not there."""
    try:
        import optuna
    except ImportError as error:
        raise Failure(f"sweep=optuna needs a package: pip install 'rlhf_hydra[search]' ({error})") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions: list[Any] = ["maximize" if objective.direction == "max" else "minimize"]
    identity = json.dumps([space.describe()["axes"], cfg.zip, cfg.seeds, objective.describe(), objective.against])
    study = optuna.create_study(
        storage=f"sqlite:///{folder / STUDY}",
        study_name=hashlib.blake2b(identity.encode(), digest_size=4).hexdigest(),
        directions=directions + ["minimize"] * bool(objective.against),
        load_if_exists=True,
    )
    # Another seed when the study goes on: the same one would draw what it drew before.
    study.sampler = sampler(cfg, derive(space.seed, "optuna", len(study.trials)) % 2**32)
    pruners = {"none": optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner}
    study.pruner = pruners.get(cfg.pruner, optuna.pruners.SuccessiveHalvingPruner)()
    return study


def sampler(cfg: OptunaSweep, seed: int) -> Any:
    import optuna

    if cfg.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=min(50, max(2, cfg.trials // 4)))
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(1, cfg.trials // 3)))


def suggest(chosen: Any, axis: Axis) -> tuple[str, ...]:
    """What Optuna takes from an axis. Of an interval four digits: the search does not need more, and readers less."""
    if isinstance(axis, Choices):
        options = {" ".join(option): option for option in axis.options}
        return options[chosen.suggest_categorical(axis.name, list(options))]
    return (interval(chosen, axis),)


def interval(chosen: Any, axis: Interval) -> str:
    if axis.is_whole:
        return axis.line(chosen.suggest_int(axis.name, int(axis.low), int(axis.high)))
    return axis.line(chosen.suggest_float(axis.name, axis.low, axis.high, log=axis.is_log))


def metric_of(metrics: dict[str, float], name: str) -> float:
    if name not in metrics:
        raise Failure(f"sweep.objective: the trials have no metric {name}; they have: {', '.join(sorted(metrics))}")
    return metrics[name]

"""What a set of trials shows: the best, the frontier, the effect of each key, signs of reward hacking, differences.

A trial's value of a metric is the last one that was logged; the exported model is the one after that step.
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_hydra.config.conditions import parse_condition
from rlhf_hydra.config.export import PLACES
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.sweep.runs import Curve, Sweep, Trial, Value

KL, REWARD, EVAL, LENGTH, ENTROPY = (
    "policy/kl",
    "reward/mean",
    "eval/mean",
    "response/tokens_mean",
    "policy/entropy",
)

MIN_STEPS = 8
"""Values that a curve needs before its shape is judged."""
KL_SPEED_UP = 1.5
"""KL runs away when it grows more than this many times as much in the second half of the run as in the first."""
KL_NOTICEABLE = 0.1
"""nats per token, below which KL is not judged."""
LENGTH_FACTOR = 2.0
"""Length runs away when responses end this many times as long, or as short, as they began."""
EVAL_LOSS = 0.25
"""Share of what the evaluation had gained that must be lost again for it to count as falling."""


# ------------------------------------------------------------------------------------------------------------ axes


def swept(sweep: Sweep) -> dict[str, list[Value]]:
    """The keys that were varied, the sweep's own or else all overrides, each with the values that its trials have."""
    keys = sweep.axes or dict.fromkeys(key for trial in sweep.trials for key in trial.overrides)
    values = {key: distinct(trial.value(key) for trial in sweep.trials) for key in keys if not is_place(key)}
    return {key: found for key, found in values.items() if len(found) > 1}


def is_place(key: str) -> bool:
    return key.split(".")[0] in (*PLACES, "hydra")


def distinct(values: Iterable[Value]) -> list[Value]:
    """Each known value once; numbers in order, then texts as they come."""
    found = [value for value in dict.fromkeys(values) if value is not None]
    numbers = sorted(value for value in found if not isinstance(value, str))
    return [*numbers, *(value for value in found if isinstance(value, str))]


# ------------------------------------------------------------------------------------------------------------ best


def objective(sweep: Sweep) -> str:
    """The metric that decides: the one that was named, else the evaluation's, else the training reward."""
    logged = {metric for trial in sweep.trials for metric in trial.curves}
    judged = sorted(metric for metric in logged if re.fullmatch(r"eval/pass@\d+", metric))
    return sweep.objective or min(judged, key=len, default=EVAL if EVAL in logged else REWARD)


def best(sweep: Sweep) -> Trial | None:
    """The finished trial with the best last value of the objective that meets every constraint; ties: lower KL.

    None where nothing was evaluated and no objective was named: the training reward is no judge of itself.
    """
    metric, sign = objective(sweep), -1 if sweep.direction == "max" else 1
    if metric == REWARD and sweep.objective is None:
        return None
    found = [trial for trial in finished(sweep) if not broken(trial, sweep.constraints)]
    ranked = [(sign * value, last_kl(trial), trial) for trial in found if (value := trial.last(metric)) is not None]
    return min(ranked, key=lambda item: item[:2])[2] if ranked else None


def last_kl(trial: Trial) -> float:
    """Infinite where it was not measured."""
    kl = trial.last(KL)
    return float("inf") if kl is None else kl


def finished(sweep: Sweep) -> list[Trial]:
    return [trial for trial in sweep.trials if trial.state == "done"]


def broken(trial: Trial, constraints: Sequence[str]) -> list[str]:
    """The constraints, such as `kl <= 0.2`, that its last values do not meet; a value that is missing meets none."""
    last = {metric: value for metric in trial.curves if (value := trial.last(metric)) is not None}
    try:
        return [text for text in constraints if not parse_condition(text).holds(last)]
    except ValueError as error:
        raise Failure(f"constraint {error}, as in 'kl <= 0.2'") from None


# -------------------------------------------------------------------------------------------------------- frontier


def path(trial: Trial, metric: str) -> list[tuple[int, float, float]]:
    """(step, KL, value) wherever both are known. Before the first step policy and reference are one: KL 0."""
    kl = trial.curves.get(KL, {})
    known = {0: 0.0} | kl if kl else {}
    return [(step, known[step], value) for step, value in trial.curves.get(metric, {}).items() if step in known]


def frontier(sweep: Sweep) -> list[Trial]:
    """Finished trials that no other beats (Pareto): none has as low a KL and more of the objective, or as much at a
    lower KL. In the order of their KL."""
    sign = 1 if sweep.direction == "max" else -1
    ends = [(trial, *points[-1][1:]) for trial in finished(sweep) if (points := path(trial, objective(sweep)))]
    kept = [
        (kl, trial)
        for trial, kl, value in ends
        if not any(
            other_kl <= kl and sign * other >= sign * value and (other_kl < kl or other != value)
            for _, other_kl, other in ends
        )
    ]
    return [trial for _, trial in sorted(kept, key=lambda item: item[0])]


# --------------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True)
class Effect:
    """The main effect of a swept key: the objective at each of its values, over all settings of the other keys."""

    key: str
    values: list[tuple[Value, list[float]]]
    """Value -> the objective of each trial that has it."""

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(found) for _, found in self.values]

    @property
    def span(self) -> float:
        """Largest mean less smallest mean."""
        return max(self.means) - min(self.means) if self.values else 0.0


def effects(sweep: Sweep) -> list[Effect]:
    """Of every swept key over the finished trials, the one with the largest span first."""
    metric, trials = objective(sweep), finished(sweep)
    found = []
    for key, values in swept(sweep).items():
        ends = [
            (value, [end for t in trials if t.value(key) == value and (end := t.last(metric)) is not None])
            for value in values
        ]
        found.append(Effect(key, [(value, reached) for value, reached in ends if reached]))
    return sorted(found, key=lambda effect: -effect.span)


# --------------------------------------------------------------------------------------------------- reward hacking


def signs(trial: Trial) -> list[str]:
    """Signs that a trial games its reward: the training reward rises, while

    - `KL_SPEED_UP`: KL grows ever faster, and has reached `KL_NOTICEABLE`;
    - `LENGTH_FACTOR`: responses become that much longer, or shorter;
    - `EVAL_LOSS`: the evaluation has lost that share of what it had gained.

    The beginning, the middle and the end are means over the first, middle and last fifth of a curve. Curves of fewer
    than `MIN_STEPS` values are not judged (an evaluation: of fewer than 3). A sign is a reason to read samples, not a
    verdict.
    """
    if not rises(trial.curves.get(REWARD, {})):
        return []
    checks = (kl_sign(trial.curves.get(KL, {})), length_sign(trial.curves.get(LENGTH, {})))
    return [sign for sign in (*checks, eval_sign(trial.curves.get(EVAL, {}))) if sign]


def levels(curve: Curve) -> tuple[float, float, float]:
    """Means over the first, the middle and the last fifth."""
    values = list(curve.values())
    fifth = max(1, len(values) // 5)
    middle = (len(values) - fifth) // 2
    begins, halfway, ends = values[:fifth], values[middle : middle + fifth], values[-fifth:]
    return statistics.fmean(begins), statistics.fmean(halfway), statistics.fmean(ends)


def rises(curve: Curve) -> bool:
    """Whether it ends above its beginning by more than it usually moves from one step to the next."""
    if len(curve) < MIN_STEPS:
        return False
    values = list(curve.values())
    moves = [abs(after - before) for before, after in zip(values, values[1:], strict=False)]
    begins, _, ends = levels(curve)
    return ends - begins > statistics.median(moves)


def kl_sign(curve: Curve) -> str:
    if not rises(curve):
        return ""
    begins, halfway, ends = levels(curve)
    first, second = halfway - begins, ends - halfway
    if ends < KL_NOTICEABLE or second <= KL_SPEED_UP * max(first, 0.0):
        return ""
    return f"KL runs away: {first:+.3g} in the first half of the run, {second:+.3g} in the second"


def length_sign(curve: Curve) -> str:
    if len(curve) < MIN_STEPS:
        return ""
    begins, _, ends = levels(curve)
    if ends >= LENGTH_FACTOR * begins:
        return f"responses grow longer: {begins:.4g} -> {ends:.4g} tokens"
    return f"responses grow shorter: {begins:.4g} -> {ends:.4g} tokens" if ends * LENGTH_FACTOR <= begins else ""


def eval_sign(curve: Curve) -> str:
    values = list(curve.values())
    if len(values) < 3:
        return ""
    gained, lost = max(values) - values[0], max(values) - values[-1]
    if lost <= 0 or lost <= EVAL_LOSS * gained:
        return ""
    return f"evaluation falls: {max(values):.3g} at its best, {values[-1]:.3g} now"


# ----------------------------------------------------------------------------------------------------- differences


def differences(trials: Sequence[Trial]) -> dict[str, dict[Value, list[str]]]:
    """Every key of the resolved configs that differs: value -> names of the trials that have it."""
    found: dict[str, dict[Value, list[str]]] = {}
    known = [trial for trial in trials if trial.config]
    for key in dict.fromkeys(key for trial in known for key in trial.config if not is_place(key)):
        holders: dict[Value, list[str]] = {}
        for trial in known:
            holders.setdefault(trial.config.get(key, "-"), []).append(trial.name)
        if len(holders) > 1:
            found[key] = holders
    return found

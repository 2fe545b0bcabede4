"""What a set of trials shows: the best, the frontier, the effect of each key, signs of reward hacking, differences.

A trial's value of a metric is the last one that was logged; the exported model is the one after that step. A setting's
is the mean over its seeds.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rlhf_hydra.config.conditions import SHORT
from rlhf_hydra.config.export import PLACES
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.runs import Curve, Trial, Value
from rlhf_hydra.sweep.settings import Setting
from rlhf_hydra.sweep.words import shown

KL, REWARD, EVAL, LENGTH, ENTROPY = (SHORT[name] for name in ("kl", "reward", "eval", "tokens", "entropy"))

MANY = 8
"""Numbers up to which each has a place of its own."""
MIN_STEPS = 10
"""Values that a curve needs before its shape is judged."""
KL_SPEED_UP = 1.5
"""KL runs away when it grows more than this many times as much in the second half of the run as in the first."""
KL_NOTICEABLE = 0.1
"""nats per token, below which KL is not judged."""
LENGTH_FACTOR = 2.0
"""Length runs away when responses end this many times as long, or as short, as they began."""
EVAL_LOSS = 0.25
"""Share of what the evaluation had gained that must be lost again for it to count as falling."""
EVAL_NOISE = 3.0
"""How many times the usual distance of an evaluation from the mean of its neighbours the loss must be."""
MIN_EVALS = 4
"""Values that an evaluation needs before its shape is judged."""


# ------------------------------------------------------------------------------------------------------------ axes


def swept(settings: Sequence[Setting], axes: Sequence[str] = ()) -> dict[str, list[Value]]:
    """The keys that were varied, `axes` or else all overrides, each with the values that the settings have."""
    keys = axes or dict.fromkeys(key for setting in settings for trial in setting.trials for key in trial.overrides)
    values = {key: distinct(setting.value(key) for setting in settings) for key in keys if not is_place(key)}
    return {key: found for key, found in values.items() if len(found) > 1}


def is_place(key: str) -> bool:
    return key.split(".")[0] in (*PLACES, "hydra")


def distinct(values: Iterable[Value]) -> list[Value]:
    """Each known value once; numbers in order, then texts as they come."""
    found = [value for value in dict.fromkeys(values) if value is not None]
    numbers = sorted(value for value in found if not isinstance(value, str))
    return [*numbers, *(value for value in found if isinstance(value, str))]


# ------------------------------------------------------------------------------------------------------------ best


def ranking(settings: Sequence[Setting], objective: Objective) -> list[Setting]:
    """Those of which all trials are done, that have a value and keep the conditions, best first."""
    done = {setting.name: setting for setting in finished(settings)}
    return [done[name] for name in objective.ranked({name: setting.metrics for name, setting in done.items()})]


def finished(settings: Sequence[Setting]) -> list[Setting]:
    return [setting for setting in settings if setting.state == "done"]


# -------------------------------------------------------------------------------------------------------- frontier


def path(setting: Setting, metric: str) -> list[tuple[int, float, float]]:
    """(step, KL, value) wherever both are known. Before the first step policy and reference are one: KL 0."""
    kl = setting.curve(KL)
    known = {0: 0.0} | kl if kl else {}
    return [(step, known[step], value) for step, value in setting.curve(metric).items() if step in known]


def frontier(settings: Sequence[Setting], objective: Objective) -> list[Setting]:
    """Finished settings that no other beats (Pareto): none has as low a KL and more of the objective, or as much at a
    lower KL. In the order of their KL."""
    sign = 1 if objective.direction == "max" else -1
    ends = [(setting, *points[-1][1:]) for setting in finished(settings) if (points := path(setting, objective.shown))]
    kept = [
        (kl, setting)
        for setting, kl, value in ends
        if not any(
            other_kl <= kl and sign * other >= sign * value and (other_kl < kl or other != value)
            for _, other_kl, other in ends
        )
    ]
    return [setting for _, setting in sorted(kept, key=lambda item: item[0])]


# --------------------------------------------------------------------------------------------------------- effects


@dataclass(frozen=True)
class Level:
    """A value of a swept key, or a quarter of very many."""

    at: Value
    """The value, of a quarter the middle one."""
    name: str
    reached: list[float]
    """The objective of each setting that has it."""


@dataclass(frozen=True)
class Effect:
    """The main effect of a swept key: the objective at each of its values, over all settings of the other keys."""

    key: str
    levels: list[Level]

    @property
    def means(self) -> list[float]:
        return [statistics.fmean(level.reached) for level in self.levels]

    @property
    def span(self) -> float:
        """Largest mean less smallest mean."""
        return max(self.means) - min(self.means)


def effects(settings: Sequence[Setting], swept: Mapping[str, Sequence[Value]], metric: str) -> list[Effect]:
    """Of every swept key with several values among the finished settings, the one with the largest span first."""
    found = []
    for key, values in swept.items():
        ends: dict[Value, list[float]] = {value: [] for value in values}
        for setting in finished(settings):
            if (value := setting.value(key)) in ends and (end := setting.last(metric)) is not None:
                ends[value].append(end)
        known = {value: reached for value, reached in ends.items() if reached}
        if len(known) > 1:
            found.append(Effect(key, quarters(known) if are_many(list(known)) else levels_of(known)))
    return sorted(found, key=lambda effect: -effect.span)


def levels_of(ends: Mapping[Value, list[float]]) -> list[Level]:
    return [Level(value, shown(value), reached) for value, reached in ends.items()]


def quarters(ends: Mapping[Value, list[float]]) -> list[Level]:
    """Of numbers in order; each alone would have an effect, as large as the settings differ anyway."""
    values, found = list(ends), []
    for part in range(4):
        inside = values[len(values) * part // 4 : len(values) * (part + 1) // 4]
        name = f"{shown(inside[0])} to {shown(inside[-1])}"
        found.append(Level(statistics.median_low(inside), name, [end for value in inside for end in ends[value]]))
    return found


def are_many(values: Sequence[Value]) -> bool:
    """Whether they are too many numbers for each to have a place of its own."""
    return len(values) > MANY and not any(isinstance(value, str) for value in values)


# --------------------------------------------------------------------------------------------------- reward hacking


def signs(trial: Trial) -> list[str]:
    """Signs that a trial games its reward: the training reward rises, while

    - `KL_SPEED_UP`: KL grows ever faster, and has reached `KL_NOTICEABLE`;
    - `LENGTH_FACTOR`: responses become that much longer, or shorter;
    - `EVAL_LOSS`, `EVAL_NOISE`: the last two evaluations have lost that share of what was gained, and more than noise.

    The beginning, the middle and the end are means over the first, middle and last fifth of a curve. Curves of fewer
    than `MIN_STEPS` values are not judged (an evaluation: of fewer than `MIN_EVALS`). A sign is a reason to read
    samples, not a verdict.
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
    begins, _, ends = levels(curve)
    return ends - begins > usual_move(curve)


def usual_move(curve: Curve) -> float:
    """From one step to the next."""
    values = list(curve.values())
    return statistics.median(abs(after - before) for before, after in pairwise(values))


def kl_sign(curve: Curve) -> str:
    if not rises(curve):
        return ""
    begins, halfway, ends = levels(curve)
    first, second = halfway - begins, ends - halfway
    if ends < KL_NOTICEABLE or second <= KL_SPEED_UP * max(first, 0.0) + usual_move(curve):
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
    if len(values) < MIN_EVALS:
        return ""
    best, ends = max(values), statistics.fmean(values[-2:])
    apart = [
        abs(now - (before + after) / 2) for before, now, after in zip(values, values[1:], values[2:], strict=False)
    ]
    if best - ends <= max(EVAL_LOSS * (best - values[0]), EVAL_NOISE * statistics.median_low(apart)):
        return ""
    return f"evaluation falls: {best:.3g} at its best, {ends:.3g} in the end"


# ----------------------------------------------------------------------------------------------------- differences


def differences(settings: Sequence[Setting]) -> dict[str, dict[Value, list[str]]]:
    """Every key of the resolved configs that differs: value -> names of the settings that have it."""
    found: dict[str, dict[Value, list[str]]] = {}
    known = {setting.name: setting.config for setting in settings if setting.config}
    for key in dict.fromkeys(key for config in known.values() for key in config if not is_place(key)):
        holders: dict[Value, list[str]] = {}
        for name, config in known.items():
            holders.setdefault(config.get(key, "-"), []).append(name)
        if len(holders) > 1:
            found[key] = holders
    return found

"""From the config of a reward to its scorer."""

from collections.abc import Callable

from rlhf_hydra.config.schema import CompositeReward, FunctionReward, ModelReward, Reward, RuleReward
from rlhf_hydra.rewards import function, rules
from rlhf_hydra.rewards.base import RewardError, Sample, Scorer, Scores, Step, floats

Score = Callable[[list[Sample]], Scores]


def build(cfg: Reward, score_model: Callable[[ModelReward], Score] | None = None) -> Scorer:
    """The scorer of `cfg`. `score_model` makes the scorer of a reward model, wherever the caller has put it.

    Raises RewardError where a part cannot be built.
    """
    match cfg:
        case RuleReward():
            return rules.build(cfg)
        case FunctionReward():
            return function.build(cfg)
        case ModelReward():
            if score_model is None:
                raise RewardError(f"reward `{cfg.name}` is a model, and no model can be placed here")
            return Scorer(finite(score_model(cfg), f"reward `{cfg.name}`"))
        case CompositeReward():
            return _composite(cfg, score_model)
    raise RewardError(f"reward `{cfg.name}` is none of rule, function, model, process, composite")


def finite(score: Score, who: str) -> Score:
    """RewardError for a total that is no number: a model's can overflow in 16 bits."""

    def checked(samples: list[Sample]) -> Scores:
        scores = score(samples)
        return Scores(floats(scores.total, samples, who), scores.parts, scores.steps)

    return checked


def _composite(cfg: CompositeReward, score_model: Callable[[ModelReward], Score] | None) -> Scorer:
    """total = sum_p weight_p * total_p; every total_p is kept as part `p`, and the parts of p as `p/...`.

    Process rewards are those of all parts, each times its part's weight.
    """
    if not cfg.parts:
        raise RewardError(f"reward `{cfg.name}` is a composite without parts")
    scorers = {name: build(part, score_model) for name, part in cfg.parts.items()}

    def score(samples: list[Sample]) -> Scores:
        total = [0.0] * len(samples)
        parts: dict[str, list[float]] = {}
        steps: list[list[Step]] | None = None
        for name, scorer in scorers.items():
            scores = _part(name, scorer, samples)
            weight = cfg.parts[name].weight
            total = [t + weight * value for t, value in zip(total, scores.total, strict=True)]
            parts |= {name: scores.total, **{f"{name}/{inner}": values for inner, values in scores.parts.items()}}
            if scores.steps is not None:
                weighted = [[Step(s.end, weight * s.reward) for s in row] for row in scores.steps]
                steps = weighted if steps is None else [a + b for a, b in zip(steps, weighted, strict=True)]
        return Scores(total, parts, steps)

    def close() -> None:
        for scorer in scorers.values():
            scorer.close()

    return Scorer(score, close)


def _part(name: str, scorer: Scorer, samples: list[Sample]) -> Scores:
    try:
        return finite(scorer, "its values")(samples)
    except Exception as error:
        raise RewardError(f"reward part `{name}`: {error}") from error

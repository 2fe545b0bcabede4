"""Rules: rewards that need no model."""

import os

from rlhf_hydra.config.schema import RuleReward
from rlhf_hydra.rewards.base import RewardError, Sample, Scorer, Scores
from rlhf_hydra.rewards.math_pool import BAD_LABEL, LIMIT, RIGHT, MathPool


def build(cfg: RuleReward) -> Scorer:
    """The scorer of `cfg.rule`."""
    if cfg.rule == "math":
        return _math(cfg)
    rule = {"exact": exact, "echo": echo}[cfg.rule]
    return Scorer(lambda samples: Scores([rule(sample) for sample in samples]))


def exact(sample: Sample) -> float:
    """1 where the response is the label, white space around both aside."""
    return float(sample.response.strip() == _label(sample, "exact").strip())


def echo(sample: Sample) -> float:
    """Share of the response's characters that repeat the label, or the prompt where there is no label.

    mean_i [response_i = target_(i mod len(target))], so `ccc` gets 1 for `c`, and `abab` for `ab`; 0 without response.
    """
    target = str(sample.prompt if sample.label is None else sample.label) or "\0"
    hits = sum(c == target[i % len(target)] for i, c in enumerate(sample.response))
    return hits / max(len(sample.response), 1)


def _math(cfg: RuleReward) -> Scorer:
    """1 where the answer equals the label as mathematics; 0 also where the limits of `MathPool` end it."""
    pool = MathPool(cfg.timeout_s, workers=min(4, os.cpu_count() or 1))

    def score(samples: list[Sample]) -> Scores:
        verdicts = pool.judge([(_label(sample, "math"), sample.response) for sample in samples])
        parts = {"math/timeouts": LIMIT, "math/bad_labels": BAD_LABEL}
        return Scores(
            total=[float(verdict == RIGHT) for verdict in verdicts],
            parts={name: [float(verdict == kind) for verdict in verdicts] for name, kind in parts.items()},
        )

    return Scorer(score, pool.close)


def _label(sample: Sample, rule: str) -> str:
    if sample.label is None:
        raise RewardError(f"reward rule `{rule}` compares with a label, and there is none: set data.label_column")
    return str(sample.label)

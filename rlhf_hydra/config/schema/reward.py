"""`reward`: what scores a response."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from omegaconf import MISSING

from rlhf_hydra.config.schema.section import Section, choice, number


@dataclass
class Reward(Section):
    name: str = MISSING
    """Name of the choice: `reward=<name>`."""
    weight: float = 1.0
    """Factor inside a composite."""


@dataclass
class RuleReward(Reward):
    rule: str = choice("${data.rule}", "exact", "echo", "math")
    """exact: response equals the label. echo: share of the response that repeats the prompt. math: answers agree."""
    timeout_s: float = number(5.0, gt=0)
    """Time limit for one answer; over it the answer counts as wrong, and is counted."""


@dataclass
class FunctionReward(Reward):
    path: str = MISSING
    """`file.py:function` or `package.module:function`; called once with the whole batch."""
    kwargs: Dict[str, Any] = field(default_factory=dict)
    """Passed on to the function."""


@dataclass
class ModelReward(Reward):
    path: str = MISSING
    """A sequence classifier with one output, local folder or hub id."""
    hub: str = choice("huggingface", "huggingface", "modelscope")
    revision: Optional[str] = None
    tokens_per_microbatch: int = number(16_384, ge=1)


@dataclass
class ProcessReward(ModelReward):
    """A process reward model, as `algo=prm` makes them: a language model that judges each step of a response.

    A step's reward is the probability of the token for good, of the two in `step_tokens`, after the step.
    """

    separator: str = "\n"
    """Text between the steps of a response. Empty: each character is a step."""
    template: str = "{step}\n"
    """A step as the model reads it, one after the other: as in its training data, its placeholder included."""
    placeholder: Optional[str] = None
    """The token of `template` at which the model judges. null: the last one."""
    step_tokens: List[str] = field(default_factory=lambda: ["+", "-"])
    """One token each that stands for a good and for a bad step."""
    outcome: str = choice("none", "none", "sum", "mean", "min", "last")
    """none: each step's reward counts at its last token, for algorithms that credit tokens. Otherwise the response's
    reward is the sum, mean or smallest of its steps' rewards, or the last one."""


@dataclass
class CompositeReward(Reward):
    """The sum of `parts`, each times its weight; every part's value is logged."""

    parts: Dict[str, Reward] = field(default_factory=dict)

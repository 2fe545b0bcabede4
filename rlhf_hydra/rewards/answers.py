"""What a response says in the end: the votes of maj@k."""

import re
from collections.abc import Callable

from rlhf_hydra.config.layout import reward_parts
from rlhf_hydra.config.schema import Reward, RuleReward

BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")

Answer = Callable[[str], str | None]


def answer_of(reward: Reward) -> Answer:
    """How the answer is read out of a response that `reward` judges: `math_answer` where it does mathematics."""
    is_math = any(isinstance(part, RuleReward) and part.rule == "math" for part in reward_parts(reward))
    return math_answer if is_math else plain_answer


def plain_answer(response: str) -> str | None:
    """The response, white space around it aside; None if that leaves nothing."""
    return response.strip() or None


def math_answer(response: str) -> str | None:
    r"""What follows the last `####` on its line, else the last `\boxed{}`, else the last number; None without one.

    Written alike, `1,000`, `$1000$` and `1000.` are one answer; 1/2 and 0.5 are two.
    """
    _, mark, end = response.rpartition("####")
    boxed, numbers = BOXED.findall(response), NUMBER.findall(response)
    found = end.strip().split("\n", 1)[0] if mark else (boxed or numbers or [""])[-1]
    return re.sub(r"(?<=\d),(?=\d{3})|[\s$]", "", found).rstrip(".") or None

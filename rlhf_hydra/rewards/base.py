"""Text in, floats out: what a reward is given, and what it returns."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rlhf_hydra.config.failure import Failure


class RewardError(Failure, ValueError):
    """A reward that cannot be built or used. The message names it, the row, and the way out."""


@dataclass(frozen=True)
class Sample:
    """One prompt and one response to it."""

    prompt: str
    response: str
    label: Any = None
    """Value of `data.label_column`."""
    group: int = 0
    """Samples with the same number answer the same prompt."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """The other columns of the data's row."""
    tokens: list[int] = field(default_factory=list)
    """Prompt and response."""
    prompt_tokens: int = 0
    """How many of `tokens` are the prompt's."""


@dataclass
class Scores:
    """Of a batch: one value per sample, in the order of the samples."""

    total: list[float]
    """The reward."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """What else is worth logging, by name."""


@dataclass(frozen=True)
class Scorer:
    """Callable from a batch to its scores, and how to free what it holds. `close` may be called again and again."""

    score: Callable[[list[Sample]], Scores]
    close: Callable[[], None] = lambda: None

    def __call__(self, samples: list[Sample]) -> Scores:
        return self.score(samples)


def floats(values: Iterable[Any], samples: list[Sample], who: str) -> list[float]:
    """`values` as one finite float per sample. Raises RewardError, which names `who` and the first bad row."""
    numbers = []
    try:
        for value in values:
            numbers.append(float(value))
    except (TypeError, ValueError) as error:
        raise RewardError(f"{who}: row {len(numbers)} is no number: {error}") from error
    if len(numbers) != len(samples):
        raise RewardError(f"{who}: {len(numbers)} values for {len(samples)} samples")
    bad = next((i for i, number in enumerate(numbers) if not math.isfinite(number)), None)
    if bad is not None:
        raise RewardError(f"{who}: row {bad} is {numbers[bad]}; response: {samples[bad].response[:200]!r}")
    return numbers

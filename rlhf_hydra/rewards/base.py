"""Text in, floats out: what a reward is given, and what it returns."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class Step(NamedTuple):
    """A step of a response, and its process reward."""

    end: int
    """Characters of the response up to the step's end, whatever tokens they are."""
    reward: float


@dataclass
class Scores:
    """Of a batch: one value per sample, in the order of the samples.

    >>> Scores(total=[1.0], steps=[[Step(end=12, reward=0.5), Step(end=30, reward=-0.5)]]).earned
    [1.0]
    """

    total: list[float]
    """The reward of the whole response."""
    parts: dict[str, list[float]] = field(default_factory=dict)
    """What else is worth logging, by name."""
    steps: list[list[Step]] | None = None
    """Rewards of its steps, beside `total`. Only for algorithms that give every token its own credit."""

    @property
    def earned(self) -> list[float]:
        """`total` and what the steps add."""
        if self.steps is None:
            return self.total
        return [total + sum(step.reward for step in steps) for total, steps in zip(self.total, self.steps, strict=True)]

    def __getitem__(self, rows: Sequence[int]) -> "Scores":
        parts = {name: [part[row] for row in rows] for name, part in self.parts.items()}
        steps = None if self.steps is None else [self.steps[row] for row in rows]
        return Scores([self.total[row] for row in rows], parts, steps)

    @staticmethod
    def cat(scores: Sequence["Scores"]) -> "Scores":
        """One after another; a part that some of them lack is 0 there."""
        names = dict.fromkeys(name for s in scores for name in s.parts)
        parts = {n: [x for s in scores for x in s.parts.get(n, [0.0] * len(s.total))] for n in names}
        steps = [x for s in scores for x in (s.steps or [[]] * len(s.total))]
        total = [x for s in scores for x in s.total]
        return Scores(total, parts, None if all(s.steps is None for s in scores) else steps)


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


def checked_steps(steps: Iterable[Iterable[Any]], samples: list[Sample], who: str) -> list[list[Step]]:
    """`steps` as a list of `Step`s per sample. RewardError, with `who` and the row, for one that its response lacks."""
    try:
        found = [[Step(int(end), float(reward)) for end, reward in row] for row in steps]
    except (TypeError, ValueError) as error:
        raise RewardError(f"{who}: `steps` needs a list of (end, reward) for each sample: {error}") from error
    if len(found) != len(samples):
        raise RewardError(f"{who}: `steps` of {len(found)} samples, not of {len(samples)}")
    for row, (sample, its) in enumerate(zip(samples, found, strict=True)):
        for step in its:
            if not 1 <= step.end <= len(sample.response):
                says = f"a step of row {row} ends at {step.end}, its response has {len(sample.response)} characters"
                raise RewardError(f"{who}: {says}")
            if not math.isfinite(step.reward):
                raise RewardError(f"{who}: a step of row {row} is {step.reward}")
    return found

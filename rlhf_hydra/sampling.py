"""From prompts to scored responses: the next prompts, or those that dynamic sampling accepts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as dataclass_replace
from itertools import chain
from statistics import fmean
from typing import Any, Protocol

from rlhf_hydra import filtering
from rlhf_hydra.algos.table import Algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import Crew
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.data.prompts import Prompt, PromptStream, shown
from rlhf_hydra.rewards.base import Sample, Scores, Step
from rlhf_hydra.workers.engine.base import Response, Sampling

Metrics = dict[str, float]


class Waiting(Protocol):
    """Scores on their way."""

    def get(self) -> Scores: ...


@dataclass(frozen=True)
class Known:
    scores: Scores

    def get(self) -> Scores:
        return self.scores


@dataclass(frozen=True)
class Sampled:
    """Responses, those to one prompt side by side, and their rewards, which another role may still be computing."""

    prompts: list[Prompt]
    batch: RolloutBatch
    samples: list[Sample]
    scores: Waiting
    """One per row."""
    greedy: Waiting | None
    """One per prompt: of its greedy response."""

    def __getitem__(self, numbers: Sequence[int]) -> "Sampled":
        """These prompts, counted in the order in which they were sampled, and their rows."""
        n = len(self.samples) // len(self.prompts)
        rows = [number * n + i for number in numbers for i in range(n)]
        greedy = None if self.greedy is None else Known(self.greedy.get()[numbers])
        prompts, samples = [self.prompts[i] for i in numbers], [self.samples[row] for row in rows]
        return Sampled(prompts, self.batch[rows], samples, Known(self.scores.get()[rows]), greedy)

    @staticmethod
    def cat(parts: Sequence["Sampled"]) -> "Sampled":
        greedy = [part.greedy.get() for part in parts if part.greedy is not None]
        return Sampled(
            list(chain.from_iterable(part.prompts for part in parts)),
            RolloutBatch.cat([part.batch for part in parts]),
            list(chain.from_iterable(part.samples for part in parts)),
            Known(Scores.cat([part.scores.get() for part in parts])),
            Known(Scores.cat(greedy)) if greedy else None,
        )

    def responses(self) -> Iterator[Response]:
        """As the engine gave them."""
        batch = self.batch
        for row, sample in enumerate(self.samples):
            span = slice(sample.prompt_tokens, int(batch.lengths[row]))
            logprobs, truncated = batch.rollout_logprobs, batch.truncated
            assert logprobs is not None and truncated is not None
            yield Response(batch.tokens[row, span].tolist(), logprobs[row, span].tolist(), bool(truncated[row]))


class Reserve:
    """Accepted prompts that were too many for their step, with their responses. The next step begins with them.

    Their responses are of the policy as it was: what keeps any needs `algo.correction`. Part of the run's state.
    """

    def __init__(self, prompts: Sequence[Prompt], tokenizer: Any) -> None:
        self.prompts, self.tokenizer = prompts, tokenizer
        self.numbers = {id(prompt): number for number, prompt in enumerate(prompts)}
        self.kept: Sampled | None = None

    def take(self) -> list[Sampled]:
        kept, self.kept = self.kept, None
        return [kept] if kept else []

    def keep(self, sampled: Sampled) -> None:
        """Their groups are numbered anew, from 0."""
        n = len(sampled.samples) // len(sampled.prompts)
        samples = [dataclass_replace(sample, group=row // n) for row, sample in enumerate(sampled.samples)]
        group = sampled.batch.group.new_tensor([sample.group for sample in samples])
        self.kept = dataclass_replace(sampled, batch=sampled.batch.replace(group=group), samples=samples)

    def state(self) -> dict[str, Any]:
        if self.kept is None:
            return {}
        kept = self.kept
        return {
            "prompts": [self.numbers[id(prompt)] for prompt in kept.prompts],
            "responses": [[r.tokens, r.logprobs, r.truncated] for r in kept.responses()],
            "scores": vars(kept.scores.get()),
            "greedy": None if kept.greedy is None else vars(kept.greedy.get()),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.kept = None
        if state:
            prompts = [self.prompts[number] for number in state["prompts"]]
            batch, samples = laid_out(prompts, [Response(*r) for r in state["responses"]], self.tokenizer)
            greedy = None if state["greedy"] is None else Known(scores_of(state["greedy"]))
            self.kept = Sampled(prompts, batch, samples, Known(scores_of(state["scores"])), greedy)


def scores_of(state: dict[str, Any]) -> Scores:
    steps = state["steps"]
    return Scores(state["total"], state["parts"], steps and [[Step(*step) for step in row] for row in steps])


def collect(
    crew: Crew,
    prompts: PromptStream,
    reserve: Reserve,
    tokenizer: Any,
    algorithm: Algorithm,
    run: RunConfig,
    step: int,
) -> tuple[Sampled, Metrics]:
    """`prompts_per_step` prompts and their responses: the next ones, or those that `algo.filter` accepts.

    Each round asks for `oversample` times as many prompts as are missing, a wave at a time, and ends with the wave in
    which the step is full. What is accepted beyond that is in `reserve`, so it is never thrown away. The metrics of
    a filtered step are about all that it sampled, since what was kept is not a fair sample of the policy.
    """
    cfg, wanted = run.rl.filter, run.rollout.prompts_per_step
    accept = filtering.criterion(cfg)
    if accept is None:
        return sample(crew, prompts.take(wanted), tokenizer, algorithm, run, step), {}
    old = reserve.take()
    parts, accepted, rounds = list(old), [True] * sum(len(part.prompts) for part in old), 0
    while sum(accepted) < wanted and rounds < cfg.max_rounds:
        for size in waves(wanted - sum(accepted), cfg.oversample, capacity(crew, run)):
            part = sample(crew, prompts.take(size), tokenizer, algorithm, run, step, len(parts), len(accepted))
            accepted += accept(part.batch, part.samples, part.scores.get().earned)
            parts.append(part)
            if sum(accepted) >= wanted:
                break
        rounds += 1
    everything = Sampled.cat(parts)
    chosen = filtering.choose(accepted, everything.scores.get().earned, wanted)
    beyond = [number for number, ok in enumerate(accepted) if ok and number not in set(chosen)]
    if beyond:
        reserve.keep(everything[beyond])
    counts = {"rounds": rounds, "filled_up": max(0, wanted - sum(accepted)), "reserve": len(beyond)}
    fresh = parts[len(old) :]
    return everything[chosen], {
        **{f"sampling/{name}": float(count) for name, count in counts.items()},
        **(_sampling(Sampled.cat(fresh), accepted[-sum(len(part.prompts) for part in fresh) :]) if fresh else {}),
    }


def waves(missing: int, oversample: float, capacity: int) -> Iterator[int]:
    """Prompts to sample side by side, again and again until `oversample` times the missing ones have been.

    A wave is what the engines hold at once, but at least what is missing: less cannot fill the step.

    >>> list(waves(missing=4, oversample=2.5, capacity=6))
    [6, 4]
    """
    left = math.ceil(oversample * missing)
    while left > 0:
        size = min(left, max(missing, capacity))
        yield size
        left -= size


def capacity(crew: Crew, run: RunConfig) -> int:
    """Prompts whose responses the engines sample at the same time."""
    return crew.engine.group.size * run.engine.max_sequences // run.rollout.samples_per_prompt


def _sampling(sampled: Sampled, accepted: Sequence[bool]) -> Metrics:
    """Of a filtered step: all that it sampled."""
    scores = sampled.scores.get()
    return {
        **means(scores),
        "reward/mean": fmean(scores.earned),
        "tokens/generated": float(sampled.batch.response_mask.sum()),
        "sampling/prompts": float(len(sampled.prompts)),
        "sampling/pass_rate": fmean(accepted),
    }


def means(scores: Scores) -> Metrics:
    """Of the parts of a reward."""
    return {f"reward/{name}": fmean(part) for name, part in scores.parts.items()}


def sample(
    crew: Crew,
    prompts: Sequence[Prompt],
    tokenizer: Any,
    algorithm: Algorithm,
    run: RunConfig,
    step: int,
    part: int = 0,
    first_group: int = 0,
) -> Sampled:
    """`samples_per_prompt` responses to each prompt, neighbours in the batch; each row has a seed of its own."""
    n, images = run.rollout.samples_per_prompt, shown(prompts)
    asked = [prompt.tokens for prompt in prompts for _ in range(n)]
    seeds = [derive(run.seed, "sample", step, part, row) for row in range(len(asked))]
    sampling = Sampling.from_config(run.rollout)
    greedy: list[Response] = []
    responses = crew.engine.generate(asked, seeds, sampling, [its for its in images for _ in range(n)])
    if algorithm.needs_greedy:
        asked, likeliest = [p.tokens for p in prompts], sampling.likeliest()
        greedy = crew.engine.generate(asked, seeds[: len(prompts)], likeliest, images)
    batch, samples = laid_out(prompts, responses, tokenizer, first_group)
    _, beside = laid_out(prompts, greedy, tokenizer, first_group) if greedy else (None, [])
    waiting = crew.reward.score(beside) if greedy else None
    return Sampled(list(prompts), batch, samples, crew.reward.score(samples), waiting)


def laid_out(
    prompts: Sequence[Prompt], responses: Sequence[Response], tokenizer: Any, first_group: int = 0
) -> tuple[RolloutBatch, list[Sample]]:
    """Equally many responses to each prompt, in the prompts' order: as tensors, and as text."""
    n = len(responses) // len(prompts)
    asked = [prompt for prompt in prompts for _ in range(n)]
    batch = RolloutBatch.from_sequences(
        [prompt.tokens for prompt in asked],
        [r.tokens for r in responses],
        group=[first_group + row // n for row in range(len(asked))],
        logprobs=[r.logprobs for r in responses],
        truncated=[r.truncated for r in responses],
        images=[its for its in shown(prompts) for _ in range(n)],
    )
    texts = tokenizer.batch_decode([r.tokens for r in responses], skip_special_tokens=True)
    rows = zip(asked, batch.group.tolist(), responses, texts, strict=True)
    return batch, [readable(*row) for row in rows]


def readable(prompt: Prompt, group: int, response: Response, text: str) -> Sample:
    """What a reward is given."""
    return Sample(
        prompt=prompt.text,
        response=text,
        label=prompt.label,
        group=group,
        metadata=prompt.metadata,
        tokens=[*prompt.tokens, *response.tokens],
        prompt_tokens=len(prompt.tokens),
    )

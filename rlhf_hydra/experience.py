"""From prompts to a batch that can be learned from: sample, score, and ask the other models."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

import torch

from rlhf_hydra import filtering
from rlhf_hydra.algos.table import Algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import Crew
from rlhf_hydra.config.arithmetic import updates_per_step
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.data.prompts import Prompt, PromptStream
from rlhf_hydra.rewards.base import Sample, Scores
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

    batch: RolloutBatch
    samples: list[Sample]
    scores: Waiting
    """One per row."""
    greedy: Waiting | None
    """One per prompt: of its greedy response."""

    def __getitem__(self, prompts: Sequence[int]) -> "Sampled":
        """The rows of these prompts, numbered in the order in which they were sampled."""
        n = len(self.batch) // len(self.batch.group.unique())
        rows = [prompt * n + i for prompt in prompts for i in range(n)]
        greedy = None if self.greedy is None else Known(pick(self.greedy.get(), prompts))
        samples = [self.samples[row] for row in rows]
        return Sampled(self.batch[rows], samples, Known(pick(self.scores.get(), rows)), greedy)

    @staticmethod
    def cat(parts: Sequence["Sampled"]) -> "Sampled":
        greedy = [part.greedy.get() for part in parts if part.greedy is not None]
        return Sampled(
            RolloutBatch.cat([part.batch for part in parts]),
            [sample for part in parts for sample in part.samples],
            Known(join([part.scores.get() for part in parts])),
            Known(join(greedy)) if greedy else None,
        )


def pick(scores: Scores, rows: Sequence[int]) -> Scores:
    parts = {name: [part[row] for row in rows] for name, part in scores.parts.items()}
    return Scores([scores.total[row] for row in rows], parts)


def join(scores: Sequence[Scores]) -> Scores:
    parts = {name: [x for s in scores for x in s.parts[name]] for name in scores[0].parts}
    return Scores([x for s in scores for x in s.total], parts)


def collect(
    crew: Crew, prompts: PromptStream, tokenizer: Any, algorithm: Algorithm, run: RunConfig, step: int
) -> tuple[Sampled, Metrics]:
    """`prompts_per_step` prompts and their responses: the next ones, or those that `algo.filter` accepts.

    Each round asks for as many prompts as are missing, so what is accepted is never thrown away. The metrics of a
    filtered step are about everything that was sampled, since what was kept is not a fair sample of the policy.
    """
    accept = filtering.criterion(run.rl.filter)
    wanted, rounds, accepted = run.rollout.prompts_per_step, list[Sampled](), list[bool]()
    while not rounds or (accept and sum(accepted) < wanted and len(rounds) < run.rl.filter.max_rounds):
        asked = prompts.take(wanted - sum(accepted))
        rounds.append(sample(crew, asked, tokenizer, algorithm, run, step, len(rounds), len(accepted)))
        if accept:
            accepted += accept(rounds[-1].batch, rounds[-1].samples, rounds[-1].scores.get().total)
    if accept is None:
        return rounds[0], {}
    everything = Sampled.cat(rounds)
    rewards = everything.scores.get()
    kept = filtering.choose(accepted, rewards.total, wanted)
    return everything[kept], {
        **_means(rewards),
        "reward/mean": fmean(rewards.total),
        "tokens/generated": float(everything.batch.response_mask.sum()),
        "sampling/pass_rate": fmean(accepted),
        "sampling/rounds": float(len(rounds)),
        "sampling/filled_up": float(max(0, wanted - sum(accepted))),
    }


def sample(
    crew: Crew,
    prompts: Sequence[Prompt],
    tokenizer: Any,
    algorithm: Algorithm,
    run: RunConfig,
    step: int,
    round: int = 0,
    first_group: int = 0,
) -> Sampled:
    """`samples_per_prompt` responses to each prompt, neighbours in the batch; each row has a seed of its own."""
    group = [i for i in range(len(prompts)) for _ in range(run.rollout.samples_per_prompt)]
    asked = [prompts[g].tokens for g in group]
    seeds = [derive(run.seed, "sample", step, round, row) for row in range(len(asked))]
    sampling = Sampling.from_config(run.rollout)
    greedy: list[Response] = []
    with crew.engine.awake():
        responses = crew.engine.generate(asked, seeds, sampling)
        if algorithm.needs_greedy:
            greedy = crew.engine.generate([p.tokens for p in prompts], seeds[: len(prompts)], sampling.likeliest())
    batch = RolloutBatch.from_sequences(
        asked,
        [r.tokens for r in responses],
        group=[first_group + g for g in group],
        logprobs=[r.logprobs for r in responses],
        truncated=[r.truncated for r in responses],
    )
    samples = _readable([prompts[g] for g in group], batch.group.tolist(), responses, tokenizer)
    beside = _readable(prompts, range(first_group, first_group + len(prompts)), greedy, tokenizer) if greedy else []
    return Sampled(batch, samples, crew.reward.score(samples), crew.reward.score(beside) if greedy else None)


def _readable(
    prompts: Sequence[Prompt], groups: Sequence[int], responses: Sequence[Response], tokenizer: Any
) -> list[Sample]:
    texts = tokenizer.batch_decode([r.tokens for r in responses], skip_special_tokens=True)
    return [readable(*row) for row in zip(prompts, groups, responses, texts, strict=True)]


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


def evaluate(crew: Crew, sampled: Sampled, algorithm: Algorithm, run: RunConfig) -> tuple[RolloutBatch, Metrics]:
    """Rewards, and whichever of reference, values and old logprobs the algorithm reads; the roles work side by side."""
    batch, temperature = sampled.batch, run.rollout.temperature
    updates = updates_per_step(run, run.policy.samples_per_update)
    ref = crew.reference.logprobs(batch, temperature) if crew.reference else None
    values = crew.critic.values(batch) if crew.critic else None
    old = crew.policy.logprobs(batch, temperature) if algorithm.needs_old_logprobs(updates) else None
    scored = sampled.scores.get()
    greedy = torch.tensor(sampled.greedy.get().total) if sampled.greedy else None
    batch = batch.replace(
        rewards=torch.tensor(scored.total, dtype=torch.float32),
        greedy_rewards=None if greedy is None else greedy.repeat_interleave(run.rollout.samples_per_prompt),
        ref_logprobs=ref.get() if ref else None,
        values=values.get() if values else None,
        old_logprobs=old.get() if old else None,
    )
    return batch, _means(scored) | ({} if greedy is None else {"reward/greedy": greedy.mean().item()})


def _means(scores: Scores) -> Metrics:
    return {f"reward/{name}": fmean(part) for name, part in scores.parts.items()}


def describe(batch: RolloutBatch) -> Metrics:
    """Lengths of the responses."""
    lengths = batch.response_mask.sum(1)
    metrics = {
        "response/tokens_mean": lengths.float().mean().item(),
        "response/tokens_max": float(lengths.max()),
        "tokens/generated": float(lengths.sum()),
    }
    if batch.truncated is not None:
        metrics["response/truncated_frac"] = batch.truncated.float().mean().item()
    return metrics


def rows(samples: Sequence[Sample], batch: RolloutBatch, count: int = 8) -> list[dict[str, Any]]:
    """The first few responses, for people to look at."""
    rewards = batch.rewards.tolist() if batch.rewards is not None else [None] * len(batch)
    shown = zip(samples[:count], rewards[:count], strict=True)
    return [{"prompt": s.prompt, "response": s.response, "label": s.label, "reward": reward} for s, reward in shown]

"""From scored responses to a batch that can be learned from: process rewards, and what the other models say."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_hydra.algos.shaping import step_rewards
from rlhf_hydra.algos.table import Algorithm, earned
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import Crew
from rlhf_hydra.config.arithmetic import updates_per_step
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.rewards.base import RewardError, Sample, Step
from rlhf_hydra.sampling import Sampled, means

Metrics = dict[str, float]


def evaluate(
    crew: Crew, sampled: Sampled, tokenizer: Any, algorithm: Algorithm, run: RunConfig
) -> tuple[RolloutBatch, Metrics]:
    """Rewards, and whichever of reference, values and old logprobs the algorithm reads; the roles work side by side.

    RewardError for rewards of steps where the algorithm has no use for them.
    """
    batch, temperature = sampled.batch, run.rollout.temperature
    updates = updates_per_step(run, run.policy.samples_per_update)
    ref = crew.reference.logprobs(batch, temperature) if crew.reference else None
    values = crew.critic.values(batch) if crew.critic else None
    old = crew.policy.logprobs(batch, temperature) if algorithm.needs_old_logprobs(updates) else None
    scored = sampled.scores.get()
    if scored.steps is not None and not algorithm.takes_steps:
        says = f"algo={run.algo.name} compares whole responses, and the reward gives `steps`"
        raise RewardError(f"{says}: add them to `total` instead, or take algo=ppo or algo=reinforce")
    greedy = torch.tensor(sampled.greedy.get().total) if sampled.greedy else None
    batch = batch.replace(
        rewards=torch.tensor(scored.total, dtype=torch.float32),
        greedy_rewards=None if greedy is None else greedy.repeat_interleave(run.rollout.samples_per_prompt),
        step_rewards=None if scored.steps is None else placed(scored.steps, sampled.samples, tokenizer, batch),
        ref_logprobs=ref.get() if ref else None,
        values=values.get() if values else None,
        old_logprobs=old.get() if old else None,
    )
    return batch, means(scored) | ({} if greedy is None else {"reward/greedy": greedy.mean().item()})


def placed(steps: Sequence[Sequence[Step]], samples: Sequence[Sample], tokenizer: Any, batch: RolloutBatch) -> Tensor:
    """Each step's reward at the token with which its text is complete. [B, T]"""
    count = max(map(len, steps), default=0)
    rewards, ends = torch.zeros(len(batch), count), torch.full((len(batch), count), -1)
    for row, (its, sample) in enumerate(zip(steps, samples, strict=True)):
        rewards[row, : len(its)] = torch.tensor([step.reward for step in its])
        ends[row, : len(its)] = torch.tensor([column_of(step.end, sample, tokenizer) for step in its])
    return step_rewards(rewards, ends, batch.response_mask)


def column_of(end: int, sample: Sample, tokenizer: Any) -> int:
    """Number of the token, prompt included, whose text reaches the character `end` of the response."""
    response = sample.tokens[sample.prompt_tokens :]

    def characters(token: int) -> int:
        return len(tokenizer.decode(response[: token + 1], skip_special_tokens=True))

    return sample.prompt_tokens + min(bisect_left(range(len(response)), end, key=characters), len(response) - 1)


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
    shown = zip(samples[:count], earned(batch)[:count].tolist(), strict=True)
    return [{"prompt": s.prompt, "response": s.response, "label": s.label, "reward": reward} for s, reward in shown]

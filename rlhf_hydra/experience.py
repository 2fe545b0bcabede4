"""From prompts to a batch that can be learned from: sample, score, and ask the other models."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from rlhf_hydra.algos.table import Algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import Crew
from rlhf_hydra.config.arithmetic import updates_per_step
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.data.prompts import Prompt
from rlhf_hydra.rewards.base import Sample
from rlhf_hydra.workers.engine.base import Response, Sampling

Metrics = dict[str, float]


def sample(
    crew: Crew, prompts: Sequence[Prompt], tokenizer: Any, run: RunConfig, step: int
) -> tuple[RolloutBatch, list[Sample]]:
    """`samples_per_prompt` responses to each prompt, neighbours in the batch; each row has a seed of its own."""
    group = [i for i in range(len(prompts)) for _ in range(run.rollout.samples_per_prompt)]
    asked = [prompts[g].tokens for g in group]
    seeds = [derive(run.seed, "sample", step, row) for row in range(len(asked))]
    with crew.engine.awake():
        responses = crew.engine.generate(asked, seeds, Sampling.from_config(run.rollout))
    batch = RolloutBatch.from_sequences(
        asked,
        [r.tokens for r in responses],
        group=group,
        logprobs=[r.logprobs for r in responses],
        truncated=[r.truncated for r in responses],
    )
    texts = tokenizer.batch_decode([r.tokens for r in responses], skip_special_tokens=True)
    return batch, [readable(prompts[g], g, r, text) for g, r, text in zip(group, responses, texts, strict=True)]


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


def evaluate(
    crew: Crew, batch: RolloutBatch, samples: list[Sample], algorithm: Algorithm, run: RunConfig
) -> tuple[RolloutBatch, Metrics]:
    """Rewards, and whichever of reference, values and old logprobs the algorithm reads; the roles work side by side."""
    temperature = run.rollout.temperature
    updates = updates_per_step(run, run.policy.samples_per_update)
    scores = crew.reward.score(samples)
    ref = crew.reference.logprobs(batch, temperature) if crew.reference else None
    values = crew.critic.values(batch) if crew.critic else None
    old = crew.policy.logprobs(batch, temperature) if algorithm.needs_old_logprobs(updates) else None
    scored = scores.get()
    batch = batch.replace(
        rewards=torch.tensor(scored.total, dtype=torch.float32),
        ref_logprobs=ref.get() if ref else None,
        values=values.get() if values else None,
        old_logprobs=old.get() if old else None,
    )
    return batch, {f"reward/{name}": fmean(part) for name, part in scored.parts.items()}


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

"""The optimizer steps of one rollout."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from statistics import fmean

import torch

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.crew import Crew
from rlhf_hydra.cluster.roles import Summed
from rlhf_hydra.config.arithmetic import policy_learns
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.seeds import derive

POLICY_READS = ("advantages", "old_logprobs", "ref_logprobs", "rollout_logprobs")
CRITIC_READS = ("values", "returns")


SUMMED = ("/skipped",)
"""Metrics that are counts: added over the updates of a step."""


def learn(
    crew: Crew, batch: RolloutBatch, run: RunConfig, step: int, kl_coef: float, texts: RolloutBatch | None = None
) -> dict[str, float]:
    """All epochs and minibatches of critic and policy; the metrics are means over optimizer steps.

    The two learn side by side, unless they share GPUs: then one after the other, to save memory. In the first
    `critic.warmup_steps` steps of the run only the critic learns. `texts`: those of all the policy's updates.
    """
    critic: list[Summed] = []
    if crew.critic is not None:
        batches = minibatches(batch.only(*CRITIC_READS), run.critic.samples_per_update, run, step)
        critic = [crew.critic.step(minibatch) for minibatch in batches]
        if crew.critic_shares_gpus:
            mean(critic)
    policy: list[Summed] = []
    if policy_learns(run, step):
        beside = repeat(None) if texts is None else iter(texts.split(run.rl.ptx.samples_per_update))
        for minibatch in minibatches(batch.only(*POLICY_READS), run.policy.samples_per_update, run, step):
            policy.append(crew.policy.step(minibatch, kl_coef, beside=next(beside)))
            if run.rl.stop_kl is not None and policy[-1].get()["policy/update_kl"] > run.rl.stop_kl:
                break
    return mean(critic) | mean(policy) | {"policy/updates": float(len(policy))}


def minibatches(batch: RolloutBatch, size: int, run: RunConfig, step: int) -> Iterator[RolloutBatch]:
    """`size` rows at a time, `epochs` times over; in a new order each time, unless there is just one update."""
    if size == len(batch) and run.rl.epochs == 1:
        yield batch
        return
    for epoch in range(run.rl.epochs):
        generator = torch.Generator().manual_seed(derive(run.seed, "minibatches", step, epoch))
        yield from batch[torch.randperm(len(batch), generator=generator)].split(size)


def mean(updates: Sequence[Summed]) -> dict[str, float]:
    """Waits for them. Counts are added."""
    metrics = [update.get() for update in updates]
    names = metrics[0] if metrics else {}
    return {n: (sum if n.endswith(SUMMED) else fmean)([m[n] for m in metrics]) for n in names}

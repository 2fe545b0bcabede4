"""Every option learns: a table of logits in place of a model, the whole of the mathematics around it.

Prompt: one of four letters. Best response: that letter, six times. Chance: one in four.
"""

import pytest
import torch
from torch import Tensor

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.algos.shaping import RewardNormalizer
from rlhf_hydra.algos.table import Algorithm, algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import (
    GAE,
    GRPO,
    KL,
    PPO,
    RL,
    Correction,
    Group,
    PolicyLoss,
    Reinforce,
    Returns,
    Rollout,
    Shaping,
)

LETTERS, LENGTH, SAMPLES, STEPS = 4, 6, 8, 40
ROLLOUT = Rollout(max_response_tokens=LENGTH)

OPTIONS: dict[str, RL] = {
    "ppo": PPO(name="ppo", kl=KL(coef=0.01)),
    "ppo_clipped_rewards": PPO(name="ppo", shaping=Shaping(clip=0.8), loss=PolicyLoss(dual_clip=3.0)),
    "grpo": GRPO(name="grpo", kl=KL(coef=0.001, estimator="k3", where="loss")),
    "reinforce": Reinforce(name="reinforce", loss=PolicyLoss(kind="reinforce")),
    "reinforce_discounted": Reinforce(name="reinforce", advantage=Returns(gamma=0.9)),
    "reinforce_running": Reinforce(
        name="reinforce", advantage=Returns(whiten="mean"), shaping=Shaping(normalize="running")
    ),
    "reinforce_group_whitened": Reinforce(name="reinforce", advantage=Returns(whiten_over="group")),
    "rloo": GRPO(name="rloo", advantage=Group(baseline="leave_one_out", scale="none"), kl=KL(coef=0.01)),
    "dr_grpo": GRPO(name="dr", advantage=Group(scale="none"), loss=PolicyLoss(aggregation="sequence_sum")),
    "dapo": GRPO(name="dapo", loss=PolicyLoss(clip_high=0.28), shaping=Shaping(overlong_share=0.2)),
    "gspo": GRPO(name="gspo", loss=PolicyLoss(kind="sequence_clip", aggregation="sequence_mean")),
    "cispo": GRPO(name="cispo", loss=PolicyLoss(kind="detached_clip", clip_low=1, clip_high=4)),
    "prorl": GRPO(
        name="prorl",
        advantage=Group(scale="none", whiten="std"),
        kl=KL(coef=1e-4, estimator="k2", where="loss"),
        correction=Correction(weight="token", mask="token"),
    ),
    "sequence_masked": GRPO(name="grpo", correction=Correction(weight="sequence", mask="geometric")),
    "entropy_bonus": GRPO(name="grpo", loss=PolicyLoss(entropy_coef=0.001)),
    "kl_abs": PPO(name="ppo", kl=KL(coef=0.01, estimator="abs"), advantage=GAE(lam=1.0)),
}


class Table:
    """Logits [letter, position, token] and values [letter, position], and an engine that is a little wrong."""

    def __init__(self) -> None:
        self.logits = torch.zeros(LETTERS, LENGTH, LETTERS, requires_grad=True)
        self.values = torch.zeros(LETTERS, LENGTH, requires_grad=True)
        self.optim = torch.optim.Adam([self.logits, self.values], lr=0.1)
        self.random = torch.Generator().manual_seed(0)

    def forward(self, batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
        """logprobs, entropy, values, [B, 1 + LENGTH]; column 0 is the prompt."""
        letter, response = batch.tokens[:, 0], batch.tokens[:, 1:]
        everything = self.logits[letter].log_softmax(-1)
        logprobs = everything.gather(-1, response[..., None]).squeeze(-1)
        entropy = -(everything.exp() * everything).sum(-1)
        return tuple(torch.nn.functional.pad(x, (1, 0)) for x in (logprobs, entropy, self.values[letter]))

    def rollout(self) -> RolloutBatch:
        letters = torch.arange(LETTERS).repeat_interleave(SAMPLES)
        probabilities = (self.logits.detach() + 0.02 * torch.randn(self.logits.shape, generator=self.random)).softmax(
            -1
        )
        response = torch.multinomial(probabilities[letters].flatten(0, 1), 1, generator=self.random).view(-1, LENGTH)
        sampled = probabilities[letters].log().gather(-1, response[..., None]).squeeze(-1)
        batch = RolloutBatch.from_sequences(
            letters[:, None].tolist(), response.tolist(), group=letters.tolist(), logprobs=sampled.tolist()
        )
        with torch.no_grad():
            old, _, values = self.forward(batch)
        return batch.replace(
            rewards=(response == letters[:, None]).float().mean(1),
            old_logprobs=old,
            ref_logprobs=torch.full_like(old, -1.3863).masked_fill(~batch.response_mask, 0),  # log 1/4
            values=values,
        )


def update(table: Table, math: Algorithm, batch: RolloutBatch) -> dict[str, Tensor]:
    totals = StepTotals.of(batch)
    logprobs, entropy, values = table.forward(batch)
    loss, metrics = math.policy_loss(logprobs, entropy, batch, totals, math.cfg.kl.coef)
    if math.needs_critic:
        critic, more = math.value_loss(values, batch, totals)
        loss, metrics = loss + critic, metrics | more
    table.optim.zero_grad()
    loss.backward()
    table.optim.step()
    return metrics


@pytest.mark.parametrize("option", OPTIONS)
def test_learns(option):
    table, math = Table(), algorithm(OPTIONS[option], ROLLOUT)
    normalizer = RewardNormalizer(math.cfg.shaping)
    rewards = []
    for _ in range(STEPS):
        batch, metrics = math.assign_credit(table.rollout(), math.cfg.kl.coef, normalizer)
        rewards.append(metrics["reward/mean"])
        for _ in range(2):
            assert all(value.isfinite() for value in update(table, math, batch).values())
    assert rewards[0] < 0.4
    assert sum(rewards[-3:]) / 3 >= 0.9

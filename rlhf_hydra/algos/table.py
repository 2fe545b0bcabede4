"""name -> Algorithm. The only place that knows an algorithm's parts by their names."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_hydra.algos import losses
from rlhf_hydra.algos.advantages import gae, greedy_advantages, group_advantages, reward_to_go, token_rewards
from rlhf_hydra.algos.correction import correction_weights, importance
from rlhf_hydra.algos.kl import kl_estimate
from rlhf_hydra.algos.losses import StepTotals, log_ratio, loss_weights
from rlhf_hydra.algos.masked import masked_mean, masked_var, whiten
from rlhf_hydra.algos.shaping import RewardNormalizer, shape
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import PPO, RL, PolicyLoss, Rollout, ValueLoss

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class Estimator:
    """A way from rewards to advantages. `cfg` is the subclass of `schema.Advantage` that brings its keys."""

    needs_critic: bool
    baseline: Callable[[Tensor, RolloutBatch, Any], Tensor]
    """(scores [B], batch, cfg) -> scores [B] less what any response to this prompt would have got."""
    credit: Callable[[Tensor, RolloutBatch, Any], tuple[Tensor, Tensor]]
    """(token_rewards [B, T], batch, cfg) -> advantages, returns [B, T]."""
    needs_greedy: bool = False
    """Reads `greedy_rewards`."""
    takes_steps: bool = False
    """Gives each token its own credit, so that rewards may come on the way: `step_rewards`."""


def _no_baseline(scores: Tensor, batch: RolloutBatch, cfg: Any) -> Tensor:
    return scores


def _group_baseline(scores: Tensor, batch: RolloutBatch, cfg: Any) -> Tensor:
    return group_advantages(scores, batch.group, batch.response_mask.any(1), cfg.baseline, cfg.scale)


def _greedy_baseline(scores: Tensor, batch: RolloutBatch, cfg: Any) -> Tensor:
    greedy = computed(batch.greedy_rewards, "greedy_rewards")
    return greedy_advantages(scores, greedy, batch.response_mask.any(1))


def _critic_credit(rewards: Tensor, batch: RolloutBatch, cfg: Any) -> tuple[Tensor, Tensor]:
    return gae(rewards, computed(batch.values, "values"), batch.response_mask, cfg.gamma, cfg.lam)


def _return_credit(rewards: Tensor, batch: RolloutBatch, cfg: Any) -> tuple[Tensor, Tensor]:
    returns = reward_to_go(rewards, batch.response_mask, cfg.gamma)
    return returns, returns


def _response_credit(rewards: Tensor, batch: RolloutBatch, cfg: Any) -> tuple[Tensor, Tensor]:
    returns = reward_to_go(rewards, batch.response_mask, 1.0)
    return returns, returns


ADVANTAGES: dict[str, Estimator] = {
    "gae": Estimator(needs_critic=True, baseline=_no_baseline, credit=_critic_credit, takes_steps=True),
    "returns": Estimator(needs_critic=False, baseline=_no_baseline, credit=_return_credit, takes_steps=True),
    "group": Estimator(needs_critic=False, baseline=_group_baseline, credit=_response_credit),
    "greedy": Estimator(needs_critic=False, baseline=_greedy_baseline, credit=_response_credit, needs_greedy=True),
}

PolicyLossFunction = Callable[[Tensor, Tensor, Tensor, Tensor, PolicyLoss], tuple[Tensor, Tensor]]

POLICY_LOSSES: dict[str, PolicyLossFunction] = {
    "clip": losses.clip,
    "sequence_clip": losses.sequence_clip,
    "detached_clip": losses.detached_clip,
    "reinforce": losses.reinforce,
}


@dataclass(frozen=True)
class Algorithm:
    """What a choice `algo=...` computes. Pure: no state, so that driver and workers each hold a copy."""

    cfg: RL
    max_response_tokens: int
    value: ValueLoss | None
    """The critic's objective; None where there is no critic."""

    @property
    def needs_critic(self) -> bool:
        return ADVANTAGES[self.cfg.advantage.estimator].needs_critic

    @property
    def needs_greedy(self) -> bool:
        return ADVANTAGES[self.cfg.advantage.estimator].needs_greedy

    @property
    def takes_steps(self) -> bool:
        return ADVANTAGES[self.cfg.advantage.estimator].takes_steps

    @property
    def needs_reference(self) -> bool:
        return self.cfg.kl.coef > 0

    @property
    def _kl_in_reward(self) -> bool:
        return self.needs_reference and self.cfg.kl.where == "reward"

    @property
    def _kl_in_loss(self) -> bool:
        return self.needs_reference and self.cfg.kl.where == "loss"

    @property
    def _corrects(self) -> bool:
        return self.cfg.correction.weight != "none" or self.cfg.correction.mask != "none"

    def needs_old_logprobs(self, updates_per_rollout: int) -> bool:
        """False where the only update is exactly on-policy: then the logprobs of its own forward are the old ones."""
        return updates_per_rollout > 1 or self._kl_in_reward

    def assign_credit(
        self, batch: RolloutBatch, kl_coef: float, normalizer: RewardNormalizer | None = None
    ) -> tuple[RolloutBatch, dict[str, float]]:
        """Fill `token_rewards`, `advantages` and `returns`, from `rewards` and whatever else the algorithm reads.

        On the whole rollout batch, once. `step_rewards` are added to the token rewards as they come, unshaped.
        `normalizer` belongs to the run's state, and is needed where `algo.shaping.normalize` is not `none`.
        """
        advantage, mask = self.cfg.advantage, batch.response_mask
        estimator = ADVANTAGES[advantage.estimator]
        kl = self._reward_kl(batch)
        rewards = token_rewards(self._scores(batch, normalizer), mask, kl, kl_coef)
        if batch.step_rewards is not None:
            rewards = rewards + batch.step_rewards.masked_fill(~mask, 0)
        advantages, returns = estimator.credit(rewards, batch, advantage)
        group = batch.group if advantage.whiten_over == "group" else None
        advantages = whiten(advantages, mask, advantage.whiten, group)
        filled = batch.replace(token_rewards=rewards, advantages=advantages, returns=returns)
        return filled, credit_metrics(filled, kl)

    def _reward_kl(self, batch: RolloutBatch) -> Tensor | None:
        if not self._kl_in_reward:
            return None
        old, ref = computed(batch.old_logprobs, "old_logprobs"), computed(batch.ref_logprobs, "ref_logprobs")
        return kl_estimate(old, ref, self.cfg.kl.estimator, self.cfg.kl.clamp)

    def _scores(self, batch: RolloutBatch, normalizer: RewardNormalizer | None) -> Tensor:
        shaping, advantage, lengths = self.cfg.shaping, self.cfg.advantage, batch.response_mask.sum(1)
        scores = computed(batch.rewards, "rewards").float().masked_fill(lengths == 0, 0)
        if shaping.normalize != "none":
            scores = computed(normalizer, "normalizer")(scores, lengths > 0)
        scores = shape(scores, lengths, batch.truncated, shaping, self.max_response_tokens)
        scores = ADVANTAGES[advantage.estimator].baseline(scores, batch, advantage)
        late = shaping.clip is not None and shaping.clip_where == "after"
        return scores.clamp(-shaping.clip, shaping.clip) if late else scores  # type: ignore[operator]

    def policy_loss(
        self, logprobs: Tensor, entropy: Tensor | None, batch: RolloutBatch, totals: StepTotals, kl_coef: float
    ) -> tuple[Tensor, Metrics]:
        """This micro-batch's share of AGG(w * l) + beta * AGG(kl) [KL as a loss] - entropy_coef * AGG(H).

        `logprobs`, `entropy` [b, T], with gradients. Losses and metrics of all micro-batches and ranks add up to the
        step's. Without `old_logprobs` the update is on-policy: old = logprobs. An empty mask gives 0.
        """
        loss, mask = self.cfg.loss, batch.response_mask
        logprobs = logprobs.float().masked_fill(~mask, 0)
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        advantages = computed(batch.advantages, "advantages").masked_fill(~mask, 0)
        per_token, clipped = POLICY_LOSSES[loss.kind](logprobs, old, advantages, mask, loss)
        weights = loss_weights(mask, loss.aggregation, totals, self.max_response_tokens)
        metrics = update_metrics(logprobs, old, clipped, mask, totals)

        if batch.rollout_logprobs is not None:
            metrics |= mismatch_metrics(old, batch.rollout_logprobs, mask, totals)
        if self._corrects:
            rollout = computed(batch.rollout_logprobs, "rollout_logprobs")
            keep = correction_weights(old, rollout, mask, self.cfg.correction)
            per_token = per_token * keep
            metrics["engine/masked_frac"] = token_mean(keep == 0, mask, totals)
        if self._kl_in_loss:
            ref = computed(batch.ref_logprobs, "ref_logprobs")
            kl = kl_estimate(logprobs, ref, self.cfg.kl.estimator, self.cfg.kl.clamp)
            per_token = per_token + kl_coef * kl
            metrics["policy/kl"] = token_mean(kl, mask, totals)
        if entropy is not None or loss.entropy_coef > 0:
            entropy = computed(entropy, "entropy").float().masked_fill(~mask, 0)
            per_token = per_token - loss.entropy_coef * entropy
            metrics["policy/entropy"] = token_mean(entropy, mask, totals)

        total = (weights * per_token.masked_fill(~mask, 0)).sum()
        return total, {"policy/loss": total.detach(), **metrics}

    def value_loss(self, values: Tensor, batch: RolloutBatch, totals: StepTotals) -> tuple[Tensor, Metrics]:
        """This micro-batch's share of the critic's loss; losses and metrics add up. `values` [b, T] with gradients."""
        cfg, mask = computed(self.value, "algo.value"), batch.response_mask
        values = values.float().masked_fill(~mask, 0)
        old, returns = computed(batch.values, "values"), computed(batch.returns, "returns")
        weights = loss_weights(mask, cfg.aggregation, totals, self.max_response_tokens)
        per_token = losses.value_loss(values, old, returns, cfg.clip)
        total = (weights * per_token.masked_fill(~mask, 0)).sum()
        return total, {
            "critic/loss": total.detach(),
            "critic/clip_frac": token_mean((values - old).abs() > (cfg.clip or math.inf), mask, totals),
            "critic/value_mean": token_mean(values, mask, totals),
            "critic/return_mean": token_mean(returns, mask, totals),
        }


def algorithm(cfg: RL, rollout: Rollout) -> Algorithm:
    """The algorithm that a run config names."""
    return Algorithm(cfg, rollout.max_response_tokens, cfg.value if isinstance(cfg, PPO) else None)


def computed(value: Any, name: str) -> Any:
    """`value`, which an earlier step has filled in."""
    if value is None:
        raise ValueError(f"`{name}` is needed here and is None: compute it in an earlier step and pass it along")
    return value


def token_mean(x: Tensor, mask: Tensor, totals: StepTotals) -> Tensor:
    """This micro-batch's share of the step's mean over response tokens. [b, T] -> scalar, detached."""
    return x.detach().float().masked_fill(~mask, 0).sum() / max(totals.tokens, 1)


def update_metrics(logprobs: Tensor, old: Tensor, clipped: Tensor, mask: Tensor, totals: StepTotals) -> Metrics:
    """How far this update is from the policy that sampled: share of clipped tokens, mean ratio, KL(old || new)."""
    change = log_ratio(logprobs, old, mask)
    return {
        "policy/clip_frac": token_mean(clipped, mask, totals),
        "policy/ratio": token_mean(change.exp(), mask, totals),
        "policy/update_kl": token_mean(-change, mask, totals),
    }


def mismatch_metrics(old: Tensor, rollout: Tensor, mask: Tensor, totals: StepTotals) -> Metrics:
    """How far the engine is from the policy: mean |difference|, KL(engine || policy), mean importance weight."""
    change = log_ratio(old, rollout, mask)
    return {
        "engine/logprob_diff": token_mean(change.abs(), mask, totals),
        "engine/kl": token_mean(-change, mask, totals),
        "engine/ratio": token_mean(importance(old, rollout, mask, "token"), mask, totals),
    }


def earned(batch: RolloutBatch) -> Tensor:
    """[B]: each response's reward, and what its steps add."""
    rewards: Tensor = computed(batch.rewards, "rewards")
    return rewards if batch.step_rewards is None else rewards + batch.step_rewards.sum(1)


def credit_metrics(batch: RolloutBatch, kl: Tensor | None) -> dict[str, float]:
    """Of the whole rollout, over rows and tokens that count."""
    mask, valid = batch.response_mask, batch.response_mask.any(1)
    rewards, advantages = earned(batch), computed(batch.advantages, "advantages")
    metrics = {
        "reward/mean": masked_mean(rewards, valid),
        "reward/std": masked_var(rewards, valid).sqrt(),
        "policy/advantage_std": masked_var(advantages, mask).sqrt(),
    }
    if kl is not None:
        metrics["policy/kl"] = masked_mean(kl, mask)
    if batch.values is not None:
        metrics["critic/explained_variance"] = explained_variance(
            batch.values, computed(batch.returns, "returns"), mask
        )
    return {name: float(value) for name, value in metrics.items()}


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - var(G - V) / var(G) over the masked entries; 0 where the returns do not vary."""
    total = masked_var(returns, mask)
    return torch.where(total > 0, 1 - masked_var(returns - values, mask) / total.clamp(min=1e-12), 0.0)

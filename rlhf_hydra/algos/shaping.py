"""What happens to rewards before they become advantages."""

import math

import torch
from torch import Tensor

from rlhf_hydra.config.schema import Shaping


def shape(rewards: Tensor, lengths: Tensor, truncated: Tensor | None, cfg: Shaping, max_tokens: int) -> Tensor:
    """Overlong penalty, truncation penalty, and the clip where it comes before the baseline. [B] -> [B].

    `lengths` [B] response tokens, `truncated` [B] bool. Normalisation has state: see `RewardNormalizer`.
    """
    if cfg.overlong_share > 0:
        buffer = cfg.overlong_share * max_tokens
        rewards = rewards - overlong_penalty(lengths, max_tokens, buffer, cfg.overlong_penalty)
    if cfg.truncated is not None and truncated is not None:
        rewards = torch.where(truncated, truncation(rewards, cfg.truncated), rewards)
    if cfg.clip is not None and cfg.clip_where == "before":
        rewards = rewards.clamp(-cfg.clip, cfg.clip)
    return rewards


def overlong_penalty(lengths: Tensor, max_tokens: int, buffer_tokens: float, penalty: float) -> Tensor:
    """DAPO (arXiv 2503.14476): penalty * clip((|y| - (max - buffer)) / buffer, 0, 1), to subtract. [B] -> [B]."""
    return penalty * ((lengths - (max_tokens - buffer_tokens)) / buffer_tokens).clamp(0, 1)


def truncation(rewards: Tensor, coef: float) -> Tensor:
    """ProRL v2 (2025): reward of a truncated response; coef >= 0: R * coef, coef < 0: coef. [B] -> [B]."""
    return rewards * coef if coef >= 0 else torch.full_like(rewards, coef)


def step_rewards(scores: Tensor, ends: Tensor, mask: Tensor) -> Tensor:
    """Process rewards at the last response token at or before each step's end.

    `scores`, `ends` [B, S]: reward and column of step s's last token, column -1 where a row has fewer steps;
    `mask` [B, T] -> [B, T]. Steps that end before the first response token are dropped; those that meet on one add up.
    """
    columns = torch.arange(mask.shape[1], device=mask.device)
    latest = torch.where(mask, columns, -1).cummax(1).values
    target = torch.where(ends >= 0, latest.gather(1, ends.clamp(min=0)), -1)
    kept = scores.masked_fill(target < 0, 0).float()
    return torch.zeros(mask.shape, device=mask.device).scatter_add(1, target.clamp(min=0), kept)


class RewardNormalizer:
    """(R - mean) / max(std, 1e-8), with stored statistics, or those of all rewards so far, the present ones included.

    Running moments are merged after Chan et al. (1979): n = n_a + n_b, mean += delta * n_b / n,
    M2 += M2_b + delta^2 * n_a * n_b / n. They belong to the run's state.
    """

    def __init__(self, cfg: Shaping) -> None:
        self.cfg = cfg
        self.count, self.mean, self.m2 = 0, 0.0, 0.0

    def __call__(self, rewards: Tensor, valid: Tensor) -> Tensor:
        """`rewards`, `valid` [B] -> [B]. Rows that are not valid change no statistic."""
        if self.cfg.normalize == "none":
            return rewards
        if self.cfg.normalize == "stored":
            return (rewards - self.cfg.mean) / self.cfg.std
        self._merge(rewards[valid].double())
        std = math.sqrt(self.m2 / self.count) if self.count else 1.0
        return (rewards - self.mean) / max(std, 1e-8)

    def _merge(self, x: Tensor) -> None:
        if len(x) == 0:
            return
        total, delta = self.count + len(x), float(x.mean()) - self.mean
        self.m2 += float((x - x.mean()).square().sum()) + delta**2 * self.count * len(x) / total
        self.mean += delta * len(x) / total
        self.count = total

    def state(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    def load_state(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.m2 = int(state["count"]), state["mean"], state["m2"]

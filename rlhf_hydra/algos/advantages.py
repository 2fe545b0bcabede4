"""From rewards to advantages."""

import torch
from torch import Tensor

from rlhf_hydra.algos.masked import group_stats


def token_rewards(rewards: Tensor, mask: Tensor, kl: Tensor | None, kl_coef: float) -> Tensor:
    """r_t = R * 1[t is the last response token] - beta * kl_t; 0 outside the mask.

    `rewards` [B], `mask` and `kl` [B, T] -> [B, T]. A row without response tokens gets nothing.
    """
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    placed = torch.where(last, rewards[:, None], 0.0)
    return placed if kl is None else placed - kl_coef * kl.masked_fill(~mask, 0)


def gae(token_rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (arXiv 1506.02438) over the trainable tokens alone.

    delta_t = r_t + gamma * V_{t+1} - V_t;  A_t = delta_t + gamma * lam * A_{t+1};  G_t = A_t + V_t

    V and A beyond the last token are 0. t+1 is the next token with mask True: environment tokens in the middle of a
    response neither decay nor count. All [B, T] -> advantages, returns [B, T], 0 outside the mask and in an empty row.
    """
    order = _compact(mask)
    kept = mask.gather(1, order)
    r, v = (x.gather(1, order).masked_fill(~kept, 0) for x in (token_rewards, values))
    delta = r + gamma * _shift(v, 1) - v
    advantages = _spread(discounted_sum(delta, gamma * lam), order, mask)
    return advantages, (advantages + values).masked_fill(~mask, 0)


def reward_to_go(token_rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma * G_{t+1} over the trainable tokens alone. [B, T] -> [B, T], 0 outside the mask."""
    order = _compact(mask)
    r = token_rewards.gather(1, order).masked_fill(~mask.gather(1, order), 0)
    return _spread(discounted_sum(r, gamma), order, mask)


def group_advantages(rewards: Tensor, group: Tensor, valid: Tensor, baseline: str, scale: str) -> Tensor:
    """A_i = (R_i - b_i) / s, against the other responses of the same group.

    baseline `mean`: b = mean of the group (arXiv 2402.03300); `leave_one_out`: mean of the others (arXiv 2402.14740).
    scale `std`: s = standard deviation of the group (n - 1) + 1e-9; `none`: s = 1 (arXiv 2503.20783).
    `rewards`, `group`, `valid` [B] -> [B]. Rows that are not `valid` (no trainable token) count in no statistic and get
    0, and so does a row that is alone in its group. Computed in float64: equal rewards give exactly 0.
    """
    x = rewards.double().masked_fill(~valid, 0)
    n, mean, std = group_stats(x, group, valid)
    advantages = x - (mean if baseline == "mean" else (n * mean - x) / (n - 1).clamp(min=1))
    if scale == "std":
        advantages = advantages / (std + 1e-9)
    return torch.where(valid & (n > 1), advantages, 0.0).to(rewards.dtype)


def greedy_advantages(rewards: Tensor, greedy_rewards: Tensor, valid: Tensor) -> Tensor:
    """ReMax (arXiv 2310.10505): A_i = R_i - R(greedy response to the prompt). [B] each -> [B], 0 where not valid."""
    return (rewards - greedy_rewards).masked_fill(~valid, 0)


def discounted_sum(x: Tensor, decay: float) -> Tensor:
    """y_t = sum over k >= 0 of decay^k * x_{t+k}. [B, T] -> [B, T].

    By doubling: once y_t covers w columns, y_t + decay^w * y_{t+w} covers 2w; log2(T) passes instead of T steps.
    """
    width = 1
    while width < x.shape[1]:
        x = x + decay**width * _shift(x, width)
        width *= 2
    return x


def _shift(x: Tensor, by: int) -> Tensor:
    """y_t = x_{t+by}, 0 beyond the end."""
    return torch.nn.functional.pad(x[:, by:], (0, min(by, x.shape[1])))


def _compact(mask: Tensor) -> Tensor:
    """[B, T] column order that brings each row's masked tokens to the front, in their order."""
    return torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)


def _spread(x: Tensor, order: Tensor, mask: Tensor) -> Tensor:
    """Undo `_compact`."""
    return torch.zeros_like(x).scatter(1, order, x).masked_fill(~mask, 0)

"""Losses per token, and the weights that sum them into the loss of an optimizer step.

A loss is `(weights * per_token).sum()`. The weights come from totals of the whole step, so the losses, gradients and
metrics of micro-batches and ranks add up: sharded equals unsharded by construction.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import PolicyLoss


@dataclass(frozen=True)
class StepTotals:
    """What one optimizer step counts, over all its micro-batches and ranks."""

    tokens: int
    """Response tokens."""
    rows: int
    """Responses with at least one token."""

    @staticmethod
    def of(batch: RolloutBatch | Tensor) -> "StepTotals":
        """Totals of a step that consists of this batch, or of this response mask [B, T]."""
        mask = batch.response_mask if isinstance(batch, RolloutBatch) else batch
        return StepTotals(tokens=int(mask.sum()), rows=int(mask.any(1).sum()))


def loss_weights(mask: Tensor, aggregation: str, totals: StepTotals, max_response_tokens: int) -> Tensor:
    """Weight of each token's loss. `mask` [b, T] -> [b, T] float32, 0 outside the mask.

    token_mean:     1 / N                      N tokens of the step       (DAPO, arXiv 2503.14476)
    sequence_mean:  1 / (|y_i| * R)            R non-empty rows of it     (GRPO, arXiv 2402.03300)
    sequence_sum:   1 / (R * max_response_tokens)                         (Dr. GRPO, arXiv 2503.20783)
    """
    rows, tokens = max(totals.rows, 1), max(totals.tokens, 1)
    if aggregation == "token_mean":
        return mask.float() / tokens
    if aggregation == "sequence_mean":
        return mask.float() / mask.sum(1, keepdim=True).clamp(min=1) / rows
    return mask.float() / (rows * max_response_tokens)


def imitation(logprobs: Tensor, mask: Tensor, totals: StepTotals) -> Tensor:
    """This micro-batch's share of the mean of -log p over the tokens of a step. [b, T] -> []; an empty mask gives 0."""
    return -(loss_weights(mask, "token_mean", totals, 1) * logprobs.float().masked_fill(~mask, 0)).sum()


def router_share(router: Tensor, mask: Tensor, totals: StepTotals) -> Tensor:
    """This micro-batch's share of the step's router loss, the mean over micro-batches weighted by response tokens.

    `router` [], of the whole micro-batch; `mask` [b, T]. Experts are balanced within a micro-batch: how unevenly a step
    loads them is no sum over its tokens. An empty mask gives 0.
    """
    return router * mask.sum() / max(totals.tokens, 1)


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """clip(logp - old_logp, -20, 20), 0 outside the mask. [b, T] -> [b, T]."""
    return (logprobs - old_logprobs).masked_fill(~mask, 0).clamp(-20, 20)


def clip(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, cfg: PolicyLoss) -> tuple[Tensor, Tensor]:
    """PPO (arXiv 1707.06347): rho = exp(logp - old);  l = -min(rho * A, clip(rho, 1 - low, 1 + high) * A).

    [b, T] each -> per-token loss [b, T], and the tokens whose gradient the clip stopped, [b, T] bool.
    """
    return _clipped(log_ratio(logprobs, old, mask).exp(), advantages, cfg)


def sequence_clip(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, cfg: PolicyLoss
) -> tuple[Tensor, Tensor]:
    """GSPO (arXiv 2507.18071): as `clip`, with one ratio per response, s = exp(mean over its tokens of logp - old).

    [b, T] each -> per-token loss [b, T], clipped [b, T]. A response without tokens has ratio 1.
    """
    mean = log_ratio(logprobs, old, mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return _clipped(mean.exp().expand_as(logprobs), advantages, cfg)


def detached_clip(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, cfg: PolicyLoss
) -> tuple[Tensor, Tensor]:
    """CISPO (arXiv 2506.13585): l = -stop_gradient(clip(rho, 1 - low, 1 + high)) * A * logp.

    No token loses its gradient. [b, T] each -> per-token loss [b, T], tokens whose weight was clipped [b, T].
    """
    ratio = log_ratio(logprobs, old, mask).detach().exp()
    weight = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
    return -weight * advantages * logprobs, weight != ratio


def reinforce(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, cfg: PolicyLoss
) -> tuple[Tensor, Tensor]:
    """Policy gradient (Williams, 1992): l = -A * logp. [b, T] each -> per-token loss [b, T]; nothing is clipped."""
    return -advantages * logprobs, torch.zeros_like(mask)


def _clipped(ratio: Tensor, advantages: Tensor, cfg: PolicyLoss) -> tuple[Tensor, Tensor]:
    free = ratio * advantages
    bound = ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high) * advantages
    objective, clipped = torch.minimum(free, bound), bound < free
    if cfg.dual_clip is not None:
        floor = cfg.dual_clip * advantages
        floored = (advantages < 0) & (floor > objective)
        objective, clipped = torch.where(floored, floor, objective), clipped | floored
    return -objective, clipped


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Clipped value loss (arXiv 2005.12729): V' = V_old + clip(V - V_old, -c, c);  l = max((V' - G)^2, (V - G)^2) / 2.

    Without a `clip`: (V - G)^2 / 2. [b, T] each -> [b, T].
    """
    if clip is None:
        return (values - returns).square() / 2
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((near - returns).square(), (values - returns).square()) / 2

"""Where the engine that sampled and the policy that learns disagree about the same tokens.

Both speak of softmax(logits / temperature) over the whole vocabulary, also where top-p, top-k or a barred EOS took
tokens out of what was drawn. So u is 1 wherever they agree. Against an engine's renormalised logprobs u would be the
mass of the tokens that were left, below 1 without any disagreement, and a token mask would drop what was cut most.
"""

import torch
from torch import Tensor

from rlhf_hydra.algos.losses import log_ratio
from rlhf_hydra.config.schema import Correction


def importance(old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor, level: str) -> Tensor:
    """u, detached, [b, T]. With d_t = old_t - roll_t, held in [-20, 20] (as is the sum):

    token: exp(d_t);  sequence: exp(sum over the response of d_t);  geometric: exp(mean over the response of d_t).

    Outside the mask token weights are 1; a row without response tokens has u = 1.
    """
    d = log_ratio(old_logprobs, rollout_logprobs, mask).detach()
    if level == "token":
        return d.exp()
    total = d.sum(1, keepdim=True)
    if level == "geometric":
        total = total / mask.sum(1, keepdim=True).clamp(min=1)
    return total.clamp(-20, 20).exp().expand_as(d)


def correction_weights(old_logprobs: Tensor, rollout_logprobs: Tensor, mask: Tensor, cfg: Correction) -> Tensor:
    """w_t = clip(u_t, weight_low, weight_high) * 1[mask_low <= u'_t <= mask_high], [b, T].

    weight token alone: truncated importance sampling (Yao et al., 2025). weight and mask token, same bounds: IcePop
    (arXiv 2510.18855). mask sequence or geometric: whole responses are kept or left out. What is left out still counts
    in the loss's denominator, so a step's loss does not depend on how it is sharded.
    """
    weights = torch.ones_like(old_logprobs)
    if cfg.weight != "none":
        u = importance(old_logprobs, rollout_logprobs, mask, cfg.weight)
        weights = u.clamp(cfg.weight_low, cfg.weight_high)
    if cfg.mask != "none":
        u = importance(old_logprobs, rollout_logprobs, mask, cfg.mask)
        weights = weights.masked_fill((u < cfg.mask_low) | (u > cfg.mask_high), 0)
    return weights

"""Draw tokens by inverse CDF: a row's draw depends on its own seed and logits, never on its neighbours."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf_hydra.workers.engine.base import Sampling


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """[B, steps] float64 in (0, 1]: row i is the stream of seed i, the same for every `steps`."""
    return torch.from_numpy(np.stack([1.0 - np.random.default_rng(seed).random(steps) for seed in seeds]))


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling, barred: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """Tokens [B] from `logits` [B, V], one number of `uniform` [B] each, and their logprobs [B].

    token = the first whose cumulative probability reaches u * (mass of the allowed tokens); its logprob is
    log softmax(logits / temperature), over all tokens.
    """
    logprobs = (logits.float() / sampling.temperature).log_softmax(-1)
    allowed = logprobs.index_fill(-1, logits.new_tensor(barred, dtype=torch.long), -torch.inf) if barred else logprobs
    if sampling.greedy:
        token = allowed.argmax(-1, keepdim=True)
    elif sampling.top_k or sampling.top_p < 1.0:
        probs, order = _truncate(allowed, sampling)
        token = order.gather(-1, _inverse_cdf(probs, uniform))
    else:
        token = _inverse_cdf(allowed.exp(), uniform)
    return token.squeeze(-1), logprobs.gather(-1, token).squeeze(-1)


def _truncate(logprobs: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The likeliest tokens in falling order: at most `top_k`, then the fewest whose mass reaches `top_p`."""
    size = logprobs.shape[-1]
    kept, order = logprobs.topk(min(sampling.top_k or size, size), dim=-1)
    probs = kept.softmax(-1)
    before = probs.cumsum(-1) - probs
    return probs.masked_fill(before >= sampling.top_p, 0.0), order


def _inverse_cdf(probs: Tensor, uniform: Tensor) -> Tensor:
    """[B, 1]: with u in (0, 1] and the left-most hit, a token of probability 0 is never drawn."""
    cdf = probs.double().cumsum(-1)
    return torch.searchsorted(cdf, uniform.to(cdf.device).unsqueeze(-1) * cdf[:, -1:])

"""The policy (and the reference): a causal language model that gives log-probabilities of response tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from rlhf_hydra.models.packed import ATTENTION, Packed, check_packable

LOGITS_AT_ONCE = 2**28
"""Logits (tokens x vocabulary) that are held at a time; 1 GiB in float32."""


class PolicyModel(nn.Module):
    """`forward` gives the log-probability of each response token, and the entropy of the choice.

    Only the positions before response tokens pass the output layer. Where their logits are many, they are made in
    chunks that the backward pass makes again, so that they are never all in memory.
    """

    def __init__(self, lm: nn.Module, logits_at_once: int = LOGITS_AT_ONCE) -> None:
        super().__init__()
        self.lm: Any = lm
        self.logits_at_once = logits_at_once

    @classmethod
    def load(cls, folder: str, trust_remote_code: bool = False) -> "PolicyModel":
        lm = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=ATTENTION, trust_remote_code=trust_remote_code
        )
        check_packable(lm)
        return cls(lm)

    def forward(self, packed: Packed, temperature: float) -> tuple[Tensor, Tensor]:
        """logprobs [M] (differentiable) and entropy [M], float32, of softmax(logits / temperature)."""
        config = self.lm.config
        chunk = max(1, self.logits_at_once // config.vocab_size)
        scaled = any(getattr(config, key, None) for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"))
        if len(packed.targets) <= chunk or scaled:
            logits = self.lm(**packed.model_inputs(), use_cache=False, logits_to_keep=packed.before).logits[0]
            return choose(logits, packed.targets, temperature)
        hidden = self.lm.base_model(**packed.model_inputs(), use_cache=False).last_hidden_state[0, packed.before]
        parts = [
            checkpoint(self._score, h, t, temperature, use_reentrant=False)
            for h, t in zip(hidden.split(chunk), packed.targets.split(chunk), strict=True)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _score(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        return choose(self.lm.get_output_embeddings()(hidden), targets, temperature)


def choose(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy H = logsumexp(z) - sum softmax(z) z of z = logits / temperature. [M, V] -> [M], [M]."""
    z = logits.float() / temperature
    normalizer = z.logsumexp(-1)
    logprobs = z.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    return logprobs, normalizer - ((z - normalizer[:, None]).exp() * z).sum(-1)

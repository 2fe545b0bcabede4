"""The policy (and the reference): a causal language model that gives log-probabilities of response tokens."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM

from rlhf_hydra.models.lora import Adapters, load_options
from rlhf_hydra.models.packed import ATTENTION, Packed, check_packable

Entropy = Literal["none", "value", "gradient"]
"""What is computed of it: nothing (zeros), the number, or the number with its gradient, which costs as many logits."""

LOGITS_AT_ONCE = 2**28
"""Logits (tokens x vocabulary) that are held at a time; 1 GiB in float32."""


SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models that change the logits after the output layer: theirs are made whole."""


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
    def load(cls, folder: str, trust_remote_code: bool = False, adapters: Adapters | None = None) -> "PolicyModel":
        lm = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation=ATTENTION, trust_remote_code=trust_remote_code, **load_options(adapters)
        )
        check_packable(lm)
        if adapters is not None:
            adapters.attach(lm)
        return cls(lm)

    def forward(self, packed: Packed, temperature: float, entropy: Entropy = "gradient") -> tuple[Tensor, Tensor]:
        """logprobs [M] (differentiable) and entropy [M], float32, of softmax(logits / temperature)."""
        inputs = packed.model_inputs()
        if any(getattr(self.lm.config, key, None) for key in SCALED):
            logits = self.lm(**inputs, use_cache=False, logits_to_keep=packed.before).logits[0]
            return choose(logits, packed.targets, temperature, entropy)
        hidden = self.lm.base_model(**inputs, use_cache=False).last_hidden_state[0, packed.before]
        return self._score(hidden, packed.targets, temperature, entropy)

    def _score(self, hidden: Tensor, targets: Tensor, temperature: float, entropy: Entropy) -> tuple[Tensor, Tensor]:
        """`choose`, in chunks inside of a single call of the output layer.

        Under ZeRO-3 every call is a collective, and the ranks have different numbers of tokens: a call a chunk would
        leave some of them waiting for ever.
        """
        layer = self.lm.get_output_embeddings()
        project = layer.forward
        size = max(1, self.logits_at_once // self.lm.config.vocab_size)

        def one(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return choose(project(hidden), targets, temperature, entropy)

        def chunks(hidden: Tensor) -> tuple[Tensor, Tensor]:
            if len(hidden) <= size:
                return one(hidden, targets)
            pairs = zip(hidden.split(size), targets.split(size), strict=True)
            parts = zip(*[checkpoint(one, h, t, use_reentrant=False) for h, t in pairs], strict=True)
            return tuple(map(torch.cat, parts))  # type: ignore[return-value]

        layer.forward = chunks
        try:
            return layer(hidden)
        finally:
            del layer.forward


def choose(logits: Tensor, targets: Tensor, temperature: float, entropy: Entropy = "gradient") -> tuple[Tensor, Tensor]:
    """log p(target) and entropy H = logsumexp(z) - sum softmax(z) z of z = logits / temperature. [M, V] -> [M], [M]."""
    z = logits.float() / temperature
    normalizer = z.logsumexp(-1)
    logprobs = z.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    if entropy == "none":
        return logprobs, torch.zeros_like(logprobs)
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy == "gradient"):
        return logprobs, normalizer - ((z - normalizer[:, None]).exp() * z).sum(-1)

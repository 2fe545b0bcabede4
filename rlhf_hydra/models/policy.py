"""The policy (and the reference): a causal language model that gives log-probabilities of response tokens."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.models.lora import Adapters, load_options
from rlhf_hydra.models.packed import Packed, check_packable
from rlhf_hydra.models.vision import Vision, load_lm, reads_images

Entropy = Literal["none", "value", "gradient"]
"""What is computed of it: nothing (zeros), the number, or the number with its gradient, which costs as many logits."""

LOGITS_AT_ONCE = 2**28
"""Logits (tokens x vocabulary) that are held at a time; 1 GiB in float32."""


Compute = Callable[..., tuple[Tensor, ...]]
"""(logits [m, V], other tensors [m, ...]) -> tensors [m]."""

SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of models that change the logits after the output layer: theirs are made whole."""


class NoExperts(Failure, ValueError):
    """A router loss is asked for, and the model has no routers."""


class Outputs(NamedTuple):
    """What a forward says about M response tokens, float32."""

    logprobs: Tensor
    """[M], differentiable."""
    entropy: Tensor
    """[M], of the choice."""
    router: Tensor
    """[], differentiable: how unevenly the experts are loaded by all tokens of the micro-batch; 0 where nobody asks."""


class PolicyModel(nn.Module):
    """`forward` gives the log-probability of each response token, and the entropy of the choice.

    Only the positions before response tokens pass the output layer. Where their logits are many, they are made in
    chunks that the backward pass makes again, so that they are never all in memory.
    """

    vision: Vision | None = None
    """Of a model that reads images."""

    def __init__(self, lm: nn.Module, logits_at_once: int = LOGITS_AT_ONCE, router: bool = False) -> None:
        super().__init__()
        self.lm: Any = lm
        self.logits_at_once = logits_at_once
        self.balance = balance_of(lm) if router else None

    @classmethod
    def load(
        cls,
        folder: str,
        trust_remote_code: bool = False,
        router: bool = False,
        adapters: Adapters | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """`router`: also compute the router loss. NoExperts if the model has none."""
        lm = load_lm(folder, packed=True, trust_remote_code=trust_remote_code, **load_options(adapters, dtype))
        check_packable(lm)
        if adapters is not None:
            adapters.attach(lm)
        model = cls(lm, router=router)
        model.vision = Vision(folder, lm.config) if reads_images(lm.config) else None
        return model

    def forward(self, packed: Packed, temperature: float, entropy: Entropy = "gradient") -> Outputs:
        """Of softmax(logits / temperature)."""

        def compute(logits: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            return choose(logits, targets, temperature, entropy)

        (logprobs, spread), router = self.read(packed, compute, packed.targets)
        return Outputs(logprobs, spread, router)

    def read(self, packed: Packed, compute: Compute, *others: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """`compute` on the logits [M, V] at `packed.before` and on `others` [M, ...], which gives tensors [M]; and the
        router loss, `Outputs.router`."""
        look = None if self.vision is None else partial(self.vision.packed, self.lm)
        inputs = {**packed.model_inputs(look), "use_cache": False}
        if self.balance is not None:
            inputs["output_router_logits"] = True
        if scales_logits(self.lm):
            found = self.lm(**inputs, logits_to_keep=packed.before)
            results = compute(found.logits[0], *others)
        else:
            found = self.lm.base_model(**inputs)
            results = self._project(found.last_hidden_state[0, packed.before], compute, *others)
        return results, results[0].new_zeros(()) if self.balance is None else self.balance(found.router_logits).float()

    def _project(self, hidden: Tensor, compute: Compute, *others: Tensor) -> tuple[Tensor, ...]:
        """`compute`, in chunks inside of a single call of the output layer.

        Under ZeRO-3 every call is a collective, and the ranks have different numbers of tokens: a call a chunk would
        leave some of them waiting for ever.
        """
        layer = self.lm.get_output_embeddings()
        project = layer.forward
        size = max(1, self.logits_at_once // self.lm.config.get_text_config().vocab_size)

        def one(hidden: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            return compute(project(hidden), *others)

        def chunks(hidden: Tensor) -> tuple[Tensor, ...]:
            if len(hidden) <= size:
                return one(hidden, *others)
            pieces = zip(hidden.split(size), *(other.split(size) for other in others), strict=True)
            parts = zip(*[checkpoint(one, *piece, use_reentrant=False) for piece in pieces], strict=True)
            return tuple(map(torch.cat, parts))

        layer.forward = chunks
        try:
            return layer(hidden)
        finally:
            del layer.forward


def scales_logits(lm: Any) -> bool:
    """Whether the model changes the logits after its output layer."""
    return any(getattr(lm.config, key, None) for key in SCALED)


def balance_of(lm: Any) -> Callable[[tuple[Tensor, ...]], Tensor]:
    """The load-balancing loss of the model's own family, a function of each layer's router logits [N, E] -> [].

    E * sum over experts e of (choices of e per token) * (mean probability of e), means over all layers and tokens;
    where they are even this is the number of experts per token. Source: Switch (arXiv 2101.03961, equations 4 to 6).
    """
    loss = vars(sys.modules[type(lm).__module__]).get("load_balancing_loss_func")
    if loss is None:
        kind = lm.config.model_type
        raise NoExperts(f"policy.router_coef: transformers balances no experts in models of type `{kind}`; set it to 0")
    return lambda logits: loss(logits, *experts_of(lm))


def experts_of(lm: Any) -> tuple[int, int]:
    """How many there are, and how many of them read a token; classifiers leave that to their config."""
    if hasattr(lm, "num_experts"):
        return lm.num_experts, lm.num_experts_per_tok
    config = lm.config.get_text_config()
    return getattr(config, "num_experts", 0) or config.num_local_experts, config.num_experts_per_tok


def choose(logits: Tensor, targets: Tensor, temperature: float, entropy: Entropy = "gradient") -> tuple[Tensor, Tensor]:
    """log p(target) and entropy H = logsumexp(z) - sum softmax(z) z of z = logits / temperature. [M, V] -> [M], [M]."""
    z = logits.float() if temperature == 1 else logits.float() / temperature  # a copy of all logits
    normalizer = z.logsumexp(-1)
    logprobs = z.gather(-1, targets[:, None]).squeeze(-1) - normalizer
    if entropy == "none":
        return logprobs, torch.zeros_like(logprobs)
    with torch.set_grad_enabled(torch.is_grad_enabled() and entropy == "gradient"):
        return logprobs, normalizer - ((z - normalizer[:, None]).exp() * z).sum(-1)

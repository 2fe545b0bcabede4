"""A language model that learns from what another one would have chosen."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rlhf_hydra.algos.divergence import divergence
from rlhf_hydra.config.schema import KD
from rlhf_hydra.models.packed import Packed
from rlhf_hydra.models.policy import PolicyModel, choose, scales_logits


class Teacher(PolicyModel):
    """`forward` gives what `logits` needs to know about the choice of each token to learn."""

    def __init__(self, lm: nn.Module, router: bool = False) -> None:
        super().__init__(lm)
        layer = None if scales_logits(lm) else self.lm.get_output_embeddings()
        # A copy, whole on every rank: students ask for chunks of logits again in their backward pass.
        self.head = None if layer is None else [t.detach().clone() for t in (layer.weight, layer.bias) if t is not None]

    def forward(self, packed: Packed) -> Tensor:  # type: ignore[override]
        """[M, hidden], or [M, V] of a model that changes the logits after its output layer."""
        inputs = packed.model_inputs()
        if self.head is None:
            return self.lm(**inputs, use_cache=False, logits_to_keep=packed.before).logits[0]
        return self.lm.base_model(**inputs, use_cache=False).last_hidden_state[0, packed.before]

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """[m, V] of m rows of what `forward` gave."""
        if self.head is None:
            return states
        self.head = [tensor.to(states) for tensor in self.head]
        return nn.functional.linear(states, *self.head)


class Student(PolicyModel):
    """`forward` gives logprobs at temperature 1, and the divergence from a teacher."""

    def forward(  # type: ignore[override]
        self, packed: Packed, teach: Callable[[Tensor], Tensor], states: Tensor, cfg: KD
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[M] each, float32, and the router loss. `states`: what the teacher's `forward` gave for the same rows;
        `teach`: its `logits`.

        Models of a family may pad their vocabularies differently: tokens that one of them lacks are left out.
        """

        def compute(logits: Tensor, targets: Tensor, states: Tensor) -> tuple[Tensor, ...]:
            wanted = teach(states)
            size = min(logits.shape[-1], wanted.shape[-1])
            distance = divergence(logits[:, :size], wanted[:, :size], cfg.temperature, cfg.direction, cfg.top_k)
            return choose(logits, targets, 1.0, "none")[0], distance

        (logprobs, distance), router = self.read(packed, compute, packed.targets, states)
        return logprobs, distance, router

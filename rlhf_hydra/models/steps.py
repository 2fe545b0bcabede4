"""A language model that judges the steps of a text by one of two tokens."""

from torch import Tensor

from rlhf_hydra.models.packed import Packed
from rlhf_hydra.models.policy import PolicyModel


class StepModel(PolicyModel):
    """`forward` gives the odds that the next token at each of `packed.before` is the one for good."""

    def forward(self, packed: Packed, good: int, bad: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """z_good - z_bad of the two tokens' logits, [M] float32, and the router loss."""

        def compute(logits: Tensor) -> tuple[Tensor, ...]:
            return (logits[:, good].float() - logits[:, bad].float(),)

        (odds,), router = self.read(packed, compute)
        return odds, router

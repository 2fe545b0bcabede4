"""A language model with a scalar head: critics and reward models, saved as sequence classifiers with one output."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.models.lora import Adapters, load_options
from rlhf_hydra.models.packed import ATTENTION, Packed, check_packable

HEAD = "score"
"""The head's name in a sequence classifier."""


class NoScorer(Failure, ValueError):
    """A folder that holds no model with one scalar output."""


class ValueModel(nn.Module):
    """`forward` gives a number per response token: the state's value before the token is chosen."""

    def __init__(self, classifier: nn.Module, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.classifier: Any = classifier
        self.mean, self.std = mean, std

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        seed: int | None = None,
        trust_remote_code: bool = False,
        mean: float = 0.0,
        std: float = 1.0,
        adapters: Adapters | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "ValueModel":
        """From a reward model, or from a language model with a new head, N(0, 1 / (hidden + 1)), drawn with `seed`.

        What a reward model's head says is brought onto the scale of its normalised rewards, (output - `mean`) / `std`.

        Without `seed` the head must be in the folder (NoScorer otherwise): a random scorer is never what one wants.
        With `adapters` the head learns beside them.
        """
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        has_head = any("SequenceClassification" in name for name in config.architectures or [])
        if not has_head and seed is None:
            raise NoScorer(f"{folder} has no scalar head ({config.architectures}): it is no reward model")
        if has_head and config.num_labels != 1:
            raise NoScorer(f"{folder} has {config.num_labels} outputs; a reward model has one")
        config.num_labels = 1
        classifier = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            attn_implementation=ATTENTION,
            trust_remote_code=trust_remote_code,
            **load_options(adapters, dtype),
        )
        check_packable(classifier)
        if not has_head:
            generator = torch.Generator().manual_seed(seed or 0)
            weight = classifier.score.weight.data
            weight.copy_(torch.randn(weight.shape, generator=generator) * (weight.shape[1] + 1) ** -0.5)
        if adapters is not None:
            adapters.attach(classifier, head=HEAD)
        return cls(classifier, mean, std) if has_head else cls(classifier)

    def forward(self, packed: Packed) -> Tensor:
        """[M] float32"""
        return self.score(packed, packed.before)

    def score(self, packed: Packed, positions: Tensor) -> Tensor:
        """The head's output at these positions of the packed row; [k] float32."""
        hidden = self.classifier.base_model(**packed.model_inputs(), use_cache=False).last_hidden_state[0, positions]
        return (self.classifier.score(hidden).squeeze(-1).float() - self.mean) / self.std

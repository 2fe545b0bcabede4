"""A language model with a scalar head: critics and reward models, saved as sequence classifiers with one output."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, AutoModelForSequenceClassification

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.models.hub import all_there
from rlhf_hydra.models.lora import Adapters, load_options
from rlhf_hydra.models.packed import ATTENTION, Packed, check_packable
from rlhf_hydra.models.policy import balance_of

KIND = "AutoModelForSequenceClassification"
HEAD = "score"
"""The head's name in a sequence classifier."""


class NoScorer(Failure, ValueError):
    """A folder that holds no model with one scalar output."""


def check_classifies(config: Any) -> None:
    """NoScorer unless transformers, or the folder's own code, has a sequence classifier for models of this config."""
    own = getattr(config, "auto_map", None) or {}
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and KIND not in own:
        says = "so they can be neither reward model nor critic; take another model"
        raise NoScorer(f"transformers has no sequence classifier of type `{config.model_type}`, {says}")


class ValueModel(nn.Module):
    """`forward` gives a number per response token: the state's value before the token is chosen."""

    def __init__(self, classifier: nn.Module, mean: float = 0.0, std: float = 1.0, router: bool = False) -> None:
        super().__init__()
        self.classifier: Any = classifier
        self.mean, self.std = mean, std
        self.balance = balance_of(classifier) if router else None

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        seed: int | None = None,
        trust_remote_code: bool = False,
        mean: float = 0.0,
        std: float = 1.0,
        router: bool = False,
        adapters: Adapters | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """From a reward model, or from a language model with a new head, N(0, 1 / (hidden + 1)), drawn with `seed`.

        What a reward model's head says is brought onto the scale of its normalised rewards, (output - `mean`) / `std`.

        Without `seed` the head must be in the folder (NoScorer otherwise): a random scorer is never what one wants.
        Incomplete if anything else is missing.
        With `adapters` the head learns beside them. `router`: also compute the router loss; NoExperts if it has none.
        """
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        check_classifies(config)
        has_head = any("SequenceClassification" in name for name in config.architectures or [])
        if not has_head and seed is None:
            raise NoScorer(f"{folder} has no scalar head ({config.architectures}): it is no reward model")
        if has_head and config.num_labels != 1:
            raise NoScorer(f"{folder} has {config.num_labels} outputs; a reward model has one")
        config.num_labels = 1
        loaded = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            attn_implementation=ATTENTION,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **load_options(adapters, dtype),
        )
        classifier = all_there(folder, loaded, new=() if has_head else [f"{HEAD}.weight"])
        check_packable(classifier)
        if not has_head:
            generator = torch.Generator().manual_seed(seed or 0)
            weight = classifier.score.weight.data
            weight.copy_(torch.randn(weight.shape, generator=generator) * (weight.shape[1] + 1) ** -0.5)
        if adapters is not None:
            adapters.attach(classifier, head=HEAD)
        return cls(classifier, mean, std, router) if has_head else cls(classifier, router=router)

    def forward(self, packed: Packed) -> Tensor:
        """[M] float32"""
        return self.score(packed, packed.before)

    def score(self, packed: Packed, positions: Tensor) -> Tensor:
        """The head's output at these positions of the packed row; [k] float32."""
        return self.read(packed, positions)[0]

    def read(self, packed: Packed, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`score`, and the router loss: 0 where nobody asks."""
        asked = {} if self.balance is None else {"output_router_logits": True}
        found = self.classifier.base_model(**packed.model_inputs(), use_cache=False, **asked)
        output = self.classifier.score(found.last_hidden_state[0, positions]).squeeze(-1).float()
        router = output.new_zeros(()) if self.balance is None else self.balance(found.router_logits).float()
        return (output - self.mean) / self.std, router


def pad_apart(config: Any, tokenizer: Any) -> None:
    """Let a classifier's config and its tokenizer pad with a token that no text ends with; where the tokenizer has
    none, with none at all, so that nobody pads.

    transformers reads the score at the last token that is not padding. Many tokenizers pad with the token that ends a
    text, and the score would be that of a text without its end.
    """
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = [tokenizer.pad_token, tokenizer.bos_token, tokenizer.unk_token, *(t for t in special if "pad" in t)]
    tokenizer.pad_token = next((token for token in found if token not in (None, tokenizer.eos_token)), None)
    config.get_text_config().pad_token_id = tokenizer.pad_token_id


class Scorer(ValueModel):
    """`forward` gives a number per row."""

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """What the head says at the end of each row, [b] float32, and the router loss."""
        ends = torch.tensor(packed.lengths, device=packed.before.device).cumsum(0) - 1
        return self.read(packed, ends)

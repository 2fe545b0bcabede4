"""Forward passes without padding: rows are laid end to end, attention stays inside each row.

A packed micro-batch is one row of N = sum of lengths tokens. Registered as an attention implementation of transformers,
`packed_attention` works with every model that takes its attention from there; others are refused, since their rows
would see each other, or their scores would be wrong, without an error. Cost is sum(length^2), not N^2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.failure import Failure

ATTENTION = "rlhf_hydra_packed"

LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers that need only this attention; states and convolutions would run on from row to row."""

ABSENT = ("softcap", "s_aux", "position_bias")
"""Arguments by which a model asks for scores that `packed_attention` does not compute."""


class NotPackable(Failure):
    """A model that cannot be run packed; the message names its type and the reason."""

    @classmethod
    def because(cls, config: Any, reason: str) -> "NotPackable":
        return cls(f"model.path: models of type `{config.model_type}` cannot be trained without padding: {reason}")


class NoImages(Failure, ValueError):
    """A model or a part of a run that cannot do with images; the message says which."""


@dataclass(frozen=True)
class Packed:
    """The tokens of b rows, end to end, and where their M response tokens came from."""

    input_ids: Tensor
    """[1, N]"""
    position_ids: Tensor
    """[1, N]: starts again at 0 in every row."""
    lengths: tuple[int, ...]
    before: Tensor
    """[M]: positions whose output speaks about the next token, which is a response token."""
    targets: Tensor
    """[M]: those response tokens."""
    where: tuple[Tensor, Tensor]
    """Row and column of each target in the batch."""
    shape: tuple[int, int]
    """[b, T] of the batch."""
    images: tuple[bytes, ...] = ()
    """Files of the images of all rows."""

    def model_inputs(self, look: "Callable[[Packed], dict[str, Any]] | None" = None) -> dict[str, Any]:
        """`look`: what a model that reads images is told about them. NoImages if there are some and it is missing."""
        inputs = {"input_ids": self.input_ids, "position_ids": self.position_ids, "sequence_lengths": self.lengths}
        if not self.images:
            return inputs
        if look is None:
            raise NoImages("there are images (data.images_column) for a model that reads none")
        return inputs | look(self)

    def unpack(self, values: Tensor) -> Tensor:
        """[M] -> [b, T], 0 where there is no response token."""
        return values.new_zeros(self.shape).index_put(self.where, values)


def pack(batch: RolloutBatch) -> Packed:
    """Lay the rows of `batch` end to end. Sort rows by length first: equal neighbours attend in one call."""
    width = batch.tokens.shape[1]
    columns = torch.arange(width, device=batch.tokens.device)
    real = columns < batch.lengths[:, None]
    starts = batch.lengths.cumsum(0) - batch.lengths
    rows, places = batch.response_mask.nonzero(as_tuple=True)
    return Packed(
        input_ids=batch.tokens[real][None],
        position_ids=columns.expand_as(real)[real][None],
        lengths=tuple(batch.lengths.tolist()),
        before=starts[rows] + places - 1,
        targets=batch.tokens[rows, places],
        where=(rows, places),
        shape=(len(batch), width),
        images=tuple(image for row in batch.images or () for image in row),
    )


def check_packable(model: Any) -> None:
    """NotPackable unless tokens of the transformers model meet in its attention alone, and that can be replaced."""
    others = set(getattr(model.config.get_text_config(), "layer_types", None) or ()) - LAYERS
    if not model._supports_attention_backend:
        raise NotPackable.because(model.config, "their attention cannot be replaced")
    if others:
        raise NotPackable.because(model.config, f"they have layers of kind {', '.join(sorted(others))}")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    sequence_lengths: Sequence[int] = (),
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each row. query: [1, heads, N, d]; key, value: [1, kv_heads, N, d] -> [1, N, heads, d].

    NotPackable for what it does not compute: soft caps, sinks, position biases, attention to later tokens.
    """
    absent = [name for name in ABSENT if others.get(name) is not None]
    if absent or not sequence_lengths or not getattr(module, "is_causal", True):
        reason = f"their attention takes `{absent[0]}`" if absent else "it is not causal, or not told where rows end"
        raise NotPackable.because(module.config, reason)
    window = sliding_window if sliding_window is not None and max(sequence_lengths) > sliding_window else None
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _varlen(query, key, value, sequence_lengths, scaling, window), None
    outputs = []
    for start, count, length in runs(sequence_lengths):
        q, k, v = (x[0, :, start : start + count * length].unflatten(1, (count, length)) for x in (query, key, value))
        mask = None if window is None else _band(length, window, query.device)
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask, dropout_p=dropout,
            is_causal=mask is None, scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None], None


def runs(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Neighbours of equal length, as (first token, rows, length): `[3, 3, 2]` -> (0, 2, 3), (6, 1, 2)."""
    start = 0
    for length, rows in groupby(lengths):
        count = sum(1 for _ in rows)
        yield start, count, length
        start += count * length


def _band(length: int, window: int, device: torch.device) -> Tensor:
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


def _varlen(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scale: float | None, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends = F.pad(torch.tensor(lengths, device=q.device, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))
    size = (-1, 0) if window is None else (window - 1, 0)
    longest, shared = max(lengths), q.shape[1] != k.shape[1]
    out = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, window_size=size, enable_gqa=shared)
    assert isinstance(out, Tensor)  # a tuple only where more is asked for
    return out[None]


AttentionInterface.register(ATTENTION, packed_attention)

"""What the workers that hold a model share: a shard of rows, and one pass over its micro-batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.data.packing import Bins


@dataclass(frozen=True)
class Shard:
    """One worker's rows, and how they are packed. An empty micro-batch keeps the ranks in step."""

    batch: RolloutBatch
    microbatches: Bins

    def __iter__(self) -> Iterator[RolloutBatch]:
        """The micro-batches; an empty one becomes one row whose response mask is empty."""
        for rows in self.microbatches:
            if rows:
                yield self.batch[rows]
            else:
                row = self.batch[[0]]
                yield row.replace(response_mask=torch.zeros_like(row.response_mask))


def forward_rows(shard: Shard, device: torch.device, compute: Callable[[RolloutBatch], Tensor]) -> Tensor:
    """`compute` on every micro-batch; its [b, T] results in the order of the shard's rows, on the CPU."""
    result = torch.zeros(shard.batch.tokens.shape, dtype=torch.float32)
    for rows, batch in zip(shard.microbatches, shard, strict=True):
        values = compute(batch.to(device)).float().cpu()
        if rows:
            result[rows, : values.shape[1]] = values
    return result


def add(total: dict[str, float], metrics: dict[str, Tensor]) -> None:
    for name, value in metrics.items():
        total[name] = total.get(name, 0.0) + float(value)

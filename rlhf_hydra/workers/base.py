"""What the workers that hold a model share: a shard of rows, and one pass over its micro-batches."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.data.packing import Bins
from rlhf_hydra.models.lora import Adapters, merged
from rlhf_hydra.models.value import HEAD, pad_apart
from rlhf_hydra.models.vision import chat_template
from rlhf_hydra.strategy.base import Trainer, contagious, dtype_of


@dataclass(frozen=True)
class Shard:
    """One worker's rows, and how they are packed. An empty micro-batch keeps the ranks in step."""

    batch: RolloutBatch
    microbatches: Bins
    unit: int = 1
    """Rows that belong together: 2 for pairs."""

    def __iter__(self) -> Iterator[RolloutBatch]:
        """The micro-batches; an empty one becomes one unit of rows whose response masks are empty."""
        for rows in self.microbatches:
            if rows:
                yield self.batch[rows]
            else:
                idle = self.batch[: self.unit]
                yield idle.replace(response_mask=torch.zeros_like(idle.response_mask))


def forward_rows(shard: Shard, device: torch.device, compute: Callable[[RolloutBatch], Tensor]) -> Tensor:
    """`compute` on every micro-batch; its [b, T] results in the order of the shard's rows, on the CPU."""
    result = torch.zeros(shard.batch.tokens.shape, dtype=torch.float32)
    for rows, batch in zip(shard.microbatches, shard, strict=True):
        values = compute(batch.to(device)).float().cpu()
        if rows:
            result[rows, : values.shape[1]] = values
    return result


Share = Callable[[RolloutBatch], tuple[Tensor, dict[str, Tensor]]]
"""A micro-batch's share of the step's loss, and of metrics."""


def update(trainer: Trainer, role: str, seed: int, *parts: tuple[Shard, Share]) -> dict[str, float]:
    """One optimizer step on the rows of all `parts`, each with its own loss.

    `seed`: the run's, from which each step draws its dropout. The metrics are this rank's summands, but for what the
    trainer says, which is named after the role.
    """
    torch.manual_seed(derive(seed, "dropout", role, trainer.steps))
    metrics: dict[str, float] = {}
    work = [(batch, share) for shard, share in parts for batch in shard]
    for i, (batch, share) in enumerate(work):
        loss, summands = share(batch.to(trainer.device))
        trainer.backward(contagious(loss), last=i == len(work) - 1)
        add(metrics, summands)
    return metrics | {f"{role}/{name}": value for name, value in trainer.step().items()}


PROCESSOR = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Files that say how images become pixels, of models that read some."""


def write_model(
    model: Any,
    weights: Callable[[], Iterator[tuple[str, Tensor]]],
    dtype: str,
    tokenizer: str | None,
    folder: Path,
    adapters: Adapters | None = None,
) -> None:
    """The transformers `model` with these `weights` as a Hugging Face folder, and the tokenizer of another folder, with
    what it knows of images; and, or instead, its adapters.

    All ranks must come here, since the weights may be sharded; those without a `tokenizer` write nothing.
    """
    words = None if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer)
    if words is not None and hasattr(model, HEAD):
        pad_apart(model.config, words)
    writes = words is not None
    if adapters is not None:
        adapters.export(folder, model, weights(), write=writes)
    if adapters is None or adapters.cfg.export == "merged":
        state = {name: tensor.to(dtype_of(dtype)).cpu() for name, tensor in merged(model, weights())}
        if writes:
            model.save_pretrained(folder, state_dict=state)
    if tokenizer is not None and words is not None:
        words.chat_template = chat_template(tokenizer) or words.chat_template
        words.save_pretrained(folder)
        for name in PROCESSOR:
            if (Path(tokenizer) / name).exists():
                shutil.copy(Path(tokenizer) / name, folder)


def add(total: dict[str, float], metrics: dict[str, Tensor]) -> None:
    for name, value in metrics.items():
        total[name] = total.get(name, 0.0) + float(value)

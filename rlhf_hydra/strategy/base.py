"""How a model is sharded and stepped: the few verbs that workers use, whoever implements them."""

import ctypes
import math
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rlhf_hydra.config.schema import Optim, Strategy


@dataclass(frozen=True)
class Rank:
    """This worker's place among the workers of its role."""

    index: int = 0
    size: int = 1


class Trainer(Protocol):
    """A model in its sharded form, with its optimizer. Gradients add up over calls of `backward` and over ranks."""

    device: torch.device

    def forward(self, *args: Any, train: bool) -> Any:
        """Call the model."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of `loss`, this rank's summand of the step's loss; `last`: no more before `step`."""

    def step(self) -> dict[str, float]:
        """Clip, step, advance the schedule; `grad_norm` before clipping, `lr`, and `skipped`.

        Where the gradient norm over all ranks is not finite, every rank leaves the step out: `skipped` is 1.
        """

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter, whole. All ranks must iterate."""

    def blend(self, weights: Iterable[tuple[str, Tensor]], keep: float) -> None:
        """Each named parameter <- keep * itself + (1 - keep) * the tensor. All ranks must call it."""

    def averages(self) -> Iterator[tuple[str, Tensor]]:
        """The moving average of every parameter, whole; nothing where none is kept. All ranks must iterate."""

    def save(self, folder: Path) -> None:
        """Weights, their average and the optimizer, exactly; all ranks must call it."""

    def load(self, folder: Path) -> None:
        """What `save` wrote."""


def build_trainer(
    cfg: Strategy, model: nn.Module, optim: Optim | None, total_steps: int, rank: Rank, ema: float = 0.0
) -> Trainer:
    """`optim` None: the model is only read. `ema`: decay of the moving average of its weights; 0: there is none."""
    if not torch.cuda.is_available():
        keep_freed_memory()
    if cfg.name == "deepspeed":
        from rlhf_hydra.strategy.deepspeed import DeepSpeedTrainer

        return DeepSpeedTrainer(cfg, model, optim, total_steps, rank, ema)
    from rlhf_hydra.strategy.single import SingleTrainer

    return SingleTrainer(cfg, model, optim, total_steps, rank, ema)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: the next step wants as much again, and the kernel would clear every page anew.

    Without it that takes about a tenth of the CPU time of a small model's steps. Other C libraries stay as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: bytes, an int
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mappings of their own for large tensors, which go back at once


def contagious(loss: Tensor) -> Tensor:
    """`loss`, whose gradients are all NaN where it is not finite itself: so that every rank finds out."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def learning_rate(step: int, total_steps: int, optim: Optim) -> float:
    """Rate of optimizer step number `step` (from 0) of `total_steps`.

    Warm-up over W = ceil(warmup_ratio * total) steps: lr (s + 1) / W. Then with progress p = (s - W) / (total - W):
    constant: lr; linear: lr (1 - (1 - r) p); cosine: lr (r + (1 - r) (1 + cos(pi p)) / 2), r = min_lr_ratio,
    which the rate reaches one step after the last.
    """
    warmup = math.ceil(optim.warmup_ratio * total_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    shape = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[optim.schedule]
    return optim.lr * (shape if optim.schedule == "constant" else optim.min_lr_ratio + (1 - optim.min_lr_ratio) * shape)


def parameter_groups(model: nn.Module, optim: Optim) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases and norms."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    # Under ZeRO-3 a parameter is an empty shell that knows its real shape.
    decayed = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) > 1]
    plain = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def dtype_of(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]

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

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import Optim, Strategy


class OtherWeights(Failure, ValueError):
    """A checkpoint of another model, or of other adapters."""


@dataclass(frozen=True)
class Rank:
    """This worker's place among the workers of its role."""

    index: int = 0
    size: int = 1


class Trainer(Protocol):
    """A model in its sharded form, with its optimizer. Gradients add up over calls of `backward` and over ranks."""

    device: torch.device
    steps: int
    """Optimizer steps so far."""

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
        """What has learned, its average and the optimizer, exactly; all ranks must call it."""

    def load(self, folder: Path) -> None:
        """What `save` wrote."""


def build_trainer(
    cfg: Strategy, model: nn.Module, optim: Optim | None, total_steps: int, rank: Rank, ema: float = 0.0
) -> Trainer:
    """`optim` None: the model is only read; otherwise its parameters learn unless they are frozen already.

    `ema`: decay of the moving average of its weights; 0: there is none.
    """
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

    Warm-up over W = ceil(warmup_ratio * total) steps: lr (s + 1) / W. Then with progress p = (s - W) / (total - W) and
    r = min_lr_ratio, reached one step after the last: lr (r + (1 - r) shape(p)), where the shape falls from 1 to 0:

        linear                1 - p
        polynomial            (1 - p)^power
        cosine                (1 + cos(pi p)) / 2
        cosine_with_restarts  the cosine of p restarts mod 1
        warmup_stable_decay   1, and in the last D = ceil(decay_ratio * total) steps the cosine of their progress

    constant: lr. inverse_sqrt: lr sqrt(W / s), with 10,000 for W where there is no warm-up.
    """
    warmup = math.ceil(optim.warmup_ratio * total_steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    if optim.schedule in ("constant", "constant_with_warmup"):
        return optim.lr
    if optim.schedule == "inverse_sqrt":
        scale = warmup or 10_000
        return optim.lr / math.sqrt((step - warmup + scale) / scale)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    decay = min(math.ceil(optim.decay_ratio * total_steps), total_steps - warmup)
    shape = {
        "linear": 1 - progress,
        "polynomial": (1 - progress) ** optim.power,
        "cosine_with_restarts": cosine(optim.restarts * progress % 1 if progress < 1 else 1.0),
        "warmup_stable_decay": cosine(max(0.0, min(1.0, (step - total_steps + decay) / max(1, decay)))),
    }.get(optim.schedule, cosine(progress))
    return optim.lr * (optim.min_lr_ratio + (1 - optim.min_lr_ratio) * shape)


def cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def parameter_groups(parameters: Iterable[nn.Parameter], optim: Optim) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for biases and norms; of parameters that learn."""
    trainable = [p for p in parameters if p.requires_grad]
    # Under ZeRO-3 a parameter is an empty shell that knows its real shape.
    decayed = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) > 1]
    plain = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizers(model: nn.Module, optim: Optim) -> list[torch.optim.Optimizer]:
    """AdamW, behind Muon for the parameters that are its own."""
    inner = set(inner_matrices(model)) if optim.name == "muon" else set()
    rest = parameter_groups((p for p in model.parameters() if p not in inner), optim)
    found: list[torch.optim.Optimizer] = []
    if inner:
        found.append(
            torch.optim.Muon(
                [p for p in model.parameters() if p in inner],
                lr=optim.lr,
                weight_decay=optim.weight_decay,
                momentum=optim.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if rest:
        betas = (optim.beta1, optim.beta2)
        found.append(torch.optim.AdamW(rest, lr=optim.lr, betas=betas, eps=optim.eps))
    return found


def inner_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Matrices that learn, but for embeddings and for layers that give the model's outputs."""
    outer: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or name.rpartition(".")[2] in OUTPUT_LAYERS:
            outer.update(module.parameters())
    return [p for p in model.parameters() if p.requires_grad and p.dim() == 2 and p not in outer]


OUTPUT_LAYERS = ("lm_head", "embed_out", "output", "score")
"""Names of layers that give logits or scores."""


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model without its frozen parameters, which are those that it was loaded with."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def load_learned(model: nn.Module, state: dict[str, Tensor]) -> None:
    """The inverse; OtherWeights if anything else is missing, or does not belong here."""
    model.load_state_dict(state, strict=False)
    if odd := learned_state(model).keys() ^ state.keys():
        fix = "go on with the model and the adapters that it began with, or start a new run"
        raise OtherWeights(f"cannot resume: the saved weights are not those of this model, such as {min(odd)}; {fix}")


def loaded_as(cfg: Strategy) -> torch.dtype:
    """The type in which a trainer wants the weights of its model.

    DeepSpeed computes in one type and keeps float32 copies of what learns by itself. Weights that are loaded in the
    type of their file are the file, mapped: the workers of a node then hold it in memory once, however many they are.
    """
    return dtype_of(cfg.dtype) if cfg.name == "deepspeed" else torch.float32


def dtype_of(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]

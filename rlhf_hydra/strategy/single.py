"""One plain process: torch's optimizers on float32 parameters, the forward in the configured type.

In float16 the loss is scaled up, so that small gradients are not lost; a step whose gradients overflow is left out.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_hydra.config.schema import Optim, Strategy
from rlhf_hydra.strategy.average import Average
from rlhf_hydra.strategy.base import Rank, build_optimizers, dtype_of, learned_state, learning_rate, load_learned


class SingleTrainer:
    def __init__(
        self, cfg: Strategy, model: nn.Module, optim: Optim | None, total_steps: int, rank: Rank, ema: float = 0.0
    ) -> None:
        if rank.size > 1 and optim is not None:
            raise ValueError(
                f"strategy.name=single trains with one worker, not {rank.size}; take strategy.name=deepspeed"
            )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)
        if optim is None:
            self.model.requires_grad_(False)
        self.optim, self.total_steps, self.steps = optim, total_steps, 0
        self.average = Average(self.model, ema) if ema else None
        self.dtype = dtype_of(cfg.dtype)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self.optimizers = build_optimizers(model, optim) if optim is not None else []

    def forward(self, *args: Any, train: bool) -> Any:
        self.model.train(train)
        half = self.dtype != torch.float32
        with torch.set_grad_enabled(train), torch.autocast(self.device.type, self.dtype, enabled=half):
            return self.model(*args)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.scaler.scale(loss).backward()

    def step(self) -> dict[str, float]:
        assert self.optim is not None, "this model is only read"
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        limit = self.optim.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        lr = learning_rate(self.steps, self.total_steps, self.optim)
        finite = bool(norm.isfinite())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            if finite:
                self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        self.steps += 1
        if self.average is not None and finite:
            self.average.update()
        return {"grad_norm": float(norm), "lr": lr, "skipped": float(not finite)}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    @torch.no_grad()
    def blend(self, weights: Iterable[tuple[str, Tensor]], keep: float) -> None:
        parameters = dict(self.model.named_parameters())
        for name, tensor in weights:
            parameters[name].mul_(keep).add_(tensor.to(parameters[name]), alpha=1 - keep)

    def averages(self) -> Iterator[tuple[str, Tensor]]:
        if self.average is not None:
            yield from self.average.weights()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "model": learned_state(self.model),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "steps": self.steps,
            "average": self.average.state() if self.average is not None else [],
        }
        torch.save(state, folder / "trainer.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "trainer.pt", map_location=self.device, weights_only=True)
        load_learned(self.model, state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.scaler.load_state_dict(state["scaler"])
        self.steps = state["steps"]
        if self.average is not None:
            self.average.load_state(state["average"])

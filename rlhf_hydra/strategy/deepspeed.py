"""Data parallel with ZeRO, through DeepSpeed; NCCL between GPUs, gloo between CPUs."""

import fcntl
import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_hydra.config.schema import Optim, Strategy
from rlhf_hydra.strategy.average import Average
from rlhf_hydra.strategy.base import Rank, learning_rate, parameter_groups

TAG = "state"


class DeepSpeedTrainer:
    """Expects MASTER_ADDR and MASTER_PORT in the environment when the role has several workers."""

    def __init__(
        self, cfg: Strategy, model: nn.Module, optim: Optim | None, total_steps: int, rank: Rank, ema: float = 0.0
    ) -> None:
        compile_ops(cfg)
        import deepspeed

        self.deepspeed, self.rank = deepspeed, rank
        self.optim, self.total_steps, self.steps = optim, total_steps, 0
        _join(rank)
        if optim is None:
            model.requires_grad_(False)
        arguments: dict[str, Any] = {"model": model, "config": _config(cfg, optim)}
        if optim is not None:
            arguments["optimizer"] = self._optimizer(cfg, model, optim)
        self.engine, *_ = deepspeed.initialize(**arguments)
        if optim is not None and cfg.zero_stage == 0 and cfg.dtype != "float32":
            self.engine.optimizer.optimizer.state.clear()  # of a step on zeros, which Adam would count as its first
        self.device = self.engine.device
        self.average = Average(self.engine.module, ema) if ema else None

    def _optimizer(self, cfg: Strategy, model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
        options: dict[str, Any] = {"lr": optim.lr, "betas": (optim.beta1, optim.beta2), "eps": optim.eps}
        if cfg.offload_optimizer:
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            return DeepSpeedCPUAdam(parameter_groups(model.parameters(), optim), adamw_mode=True, **options)
        return torch.optim.AdamW(parameter_groups(model.parameters(), optim), **options)

    def forward(self, *args: Any, train: bool) -> Any:
        self.engine.train(train)
        with torch.set_grad_enabled(train):
            return self.engine(*args)

    def backward(self, loss: Tensor, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.rank.size)  # DeepSpeed averages over ranks

    def step(self) -> dict[str, float]:
        assert self.optim is not None, "this model is only read"
        lr = learning_rate(self.steps, self.total_steps, self.optim)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        plain = self._plain_norm()
        self.steps += 1
        if self.engine.zero_optimization_stage() == 0 and not math.isfinite(plain):
            self.engine.zero_grad()
            return {"grad_norm": plain, "lr": lr, "skipped": 1.0}
        self.engine.step()  # with sharded states it checks the norm itself
        skipped = not self.engine.was_step_applied()
        if self.average is not None and not skipped:
            self.average.update()
        norm = self.engine.get_global_grad_norm()
        return {"grad_norm": plain if norm is None else float(norm), "lr": lr, "skipped": float(skipped)}

    def _plain_norm(self) -> float:
        """Where nothing is sharded and torch's optimizer steps, DeepSpeed keeps no norm, and the gradients are here."""
        if self.engine.zero_optimization_stage() > 0:
            return float("nan")
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.engine.module.named_parameters():
            if hasattr(parameter, "ds_id"):
                with self.deepspeed.zero.GatheredParameters([parameter]):
                    whole = parameter.detach().clone()  # gone again when the context ends
                yield name, whole
            else:
                yield name, parameter.detach()

    @torch.no_grad()
    def blend(self, weights: Iterable[tuple[str, Tensor]], keep: float) -> None:
        parameters = dict(self.engine.module.named_parameters())
        for name, tensor in weights:
            parameter = parameters[name]
            shared = [parameter] if hasattr(parameter, "ds_id") else []
            with self.deepspeed.zero.GatheredParameters(shared, modifier_rank=0, enabled=bool(shared)):
                if not shared or self.rank.index == 0:
                    parameter.mul_(keep).add_(tensor.to(parameter), alpha=1 - keep)

    def averages(self) -> Iterator[tuple[str, Tensor]]:
        if self.average is not None:
            yield from self.average.weights()

    def save(self, folder: Path) -> None:
        self.engine.save_checkpoint(
            str(folder),
            tag=TAG,
            client_state={"steps": self.steps},
            save_latest=False,
            exclude_frozen_parameters=True,  # they are those that the model was loaded with
        )
        if self.average is not None:
            torch.save(self.average.state(), self._average_file(folder))

    def load(self, folder: Path) -> None:
        path, client = self.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
        if path is None:
            raise FileNotFoundError(f"{folder} holds no DeepSpeed state of {self.rank.size} workers")
        self.steps = client["steps"]
        if self.average is not None:
            self.average.load_state(torch.load(self._average_file(folder), weights_only=True))

    def _average_file(self, folder: Path) -> Path:
        return folder / TAG / f"average-{self.rank.index}.pt"


def compile_ops(cfg: Strategy) -> None:
    """Load the C++ operators that the strategy needs; those that setup has not compiled here are compiled now.

    torch guards a build by a file that stays behind when a process is killed, and for which all others then wait for
    ever. The kernel releases our lock with the process that holds it; under it any such file is a dead one's.
    """
    scripts, folder = Path(sys.prefix) / "bin", Path(sys.prefix) / "torch_extensions"
    if str(scripts) not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([str(scripts), os.environ.get("PATH", "")])  # where ninja is
    folder = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    from deepspeed.accelerator import get_accelerator

    on_cpu = not torch.cuda.is_available()
    ops = ["ShareMemCommBuilder"] * on_cpu + ["CPUAdamBuilder"] * cfg.offload_optimizer
    with (folder / "rlhf_hydra.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for dead in folder.glob("*/lock"):
            dead.unlink()
        for op in ops:
            get_accelerator().create_op_builder(op).load(verbose=False)


def _join(rank: Rank) -> None:
    """Enter the process group of this role; a lone worker makes one of its own on a free port of this machine."""
    import torch.distributed as dist
    from deepspeed import comm

    cuda = torch.cuda.is_available()
    if dist.is_initialized():
        if dist.get_world_size() != rank.size:
            raise RuntimeError(f"this process is in a group of {dist.get_world_size()}, not {rank.size}")
    elif rank.size == 1:
        dist.init_process_group("nccl" if cuda else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    os.environ.update(RANK=str(rank.index), WORLD_SIZE=str(rank.size), LOCAL_RANK="0")
    comm.init_distributed(dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False)


def _config(cfg: Strategy, optim: Optim | None) -> dict[str, Any]:
    """A model that is only read is sharded where the trained ones are (stage 3), and whole otherwise."""
    stage = cfg.zero_stage if optim is not None else 3 * (cfg.zero_stage == 3)
    zero: dict[str, Any] = {"stage": stage}
    if cfg.offload_optimizer and optim is not None:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": optim.max_grad_norm if optim is not None else 0.0,
        "bf16": {"enabled": cfg.dtype == "bfloat16"},
        "fp16": {"enabled": cfg.dtype == "float16"},
        "steps_per_print": 10**9,
    }

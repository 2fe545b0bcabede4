"""The policy, which learns, and the reference, which does not."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rlhf_hydra.algos.losses import StepTotals, imitation, router_share
from rlhf_hydra.algos.table import algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.arithmetic import updates_per_step, warmup_steps
from rlhf_hydra.config.schema import Optim, RunConfig
from rlhf_hydra.models.lora import Adapters, merged, switched_off
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.strategy.base import Rank, build_trainer, dtype_of, loaded_as
from rlhf_hydra.workers.base import Shard, forward_rows, update, write_model
from rlhf_hydra.workers.weights import Bucket, buckets


class ReferenceWorker:
    """A language model that says how likely it finds responses."""

    optim: Optim | None = None
    total_updates = 0
    ema = 0.0
    router_coef = 0.0
    adapters: Adapters | None = None

    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.run, self.folder, self.rank = run, folder, rank
        trust, router = run.model.trust_remote_code, self.router_coef > 0
        model = PolicyModel.load(folder, trust, router, self.adapters, loaded_as(run.strategy))
        if self.optim is not None and run.strategy.gradient_checkpointing:
            model.lm.gradient_checkpointing_enable({"use_reentrant": False})
        self.lm = model.lm
        self.trainer = build_trainer(run.strategy, model, self.optim, self.total_updates, rank, self.ema)

    def logprobs(self, shard: Shard, temperature: float) -> Tensor:
        """[b, T] of the shard's rows, at this temperature."""

        def compute(batch: RolloutBatch) -> Tensor:
            packed = pack(batch)
            return packed.unpack(self.trainer.forward(packed, temperature, "none", train=False).logprobs)

        return forward_rows(shard, self.trainer.device, compute)

    def follow(self, weights: Iterable[tuple[str, Tensor]], keep: float) -> None:
        """Each named parameter <- keep * itself + (1 - keep) * the tensor; all ranks must call it."""
        self.trainer.blend(((f"lm.{name}", tensor) for name, tensor in weights), keep)

    def save(self, folder: Path) -> None:
        state = {name.removeprefix("lm."): tensor.cpu().clone() for name, tensor in self.trainer.weights()}
        if self.rank.index == 0:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / "reference.pt")

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "reference.pt", weights_only=True)
        self.follow(state.items(), keep=0.0)


class StartWorker(ReferenceWorker):
    """The policy as it begins, in the types of its frozen weights where it is to learn with adapters."""

    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.adapters = Adapters.of(run.policy.lora, run, folder)
        super().__init__(run, folder, rank)


class PolicyWorker(ReferenceWorker):
    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.optim, self.ema, self.router_coef = run.policy.optim, run.policy.ema, run.policy.router_coef
        self.adapters = Adapters.of(run.policy.lora, run, folder)
        steps = max(1, run.steps - warmup_steps(run))
        self.total_updates = steps * updates_per_step(run, run.policy.samples_per_update)
        self.algorithm = algorithm(run.rl, run.rollout)
        super().__init__(run, folder, rank)

    def step(
        self,
        shard: Shard,
        totals: StepTotals,
        kl_coef: float,
        texts: Shard | None = None,
        text_totals: StepTotals | None = None,
    ) -> dict[str, float]:
        """One optimizer step on this rank's rows, and on its given texts where the algorithm mixes some in; metrics are
        its summands, but for what the trainer says."""
        parts = [(shard, partial(self._learn, totals=totals, kl_coef=kl_coef))]
        if texts is not None and text_totals is not None:
            parts.append((texts, partial(self._imitate, totals=text_totals)))
        return update(self.trainer, "policy", self.run.seed, *parts)

    def _learn(self, batch: RolloutBatch, totals: StepTotals, kl_coef: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The algorithm's share of the step's loss, and the routers'."""
        packed = pack(batch)
        wanted = "gradient" if self.run.rl.loss.entropy_coef > 0 else "value"
        found = self.trainer.forward(packed, self.run.rollout.temperature, wanted, train=True)
        logprobs, entropy = packed.unpack(found.logprobs), packed.unpack(found.entropy)
        loss, summands = self.algorithm.policy_loss(logprobs, entropy, batch, totals, kl_coef)
        if self.router_coef == 0:
            return loss, summands
        router = router_share(found.router, batch.response_mask, totals)
        return loss + self.router_coef * router, {**summands, "policy/router_loss": router.detach()}

    def _imitate(self, batch: RolloutBatch, totals: StepTotals) -> tuple[Tensor, dict[str, Tensor]]:
        """algo.ptx.coef * the share of the texts' loss, at temperature 1, and of their routers'."""
        packed = pack(batch)
        found = self.trainer.forward(packed, 1.0, "none", train=True)
        loss = imitation(packed.unpack(found.logprobs), batch.response_mask, totals)
        router = router_share(found.router, batch.response_mask, totals)
        return self.run.rl.ptx.coef * (loss + self.router_coef * router), {"policy/ptx_loss": loss.detach()}

    def base_logprobs(self, shard: Shard, temperature: float) -> Tensor:
        """`logprobs` of the model without its adapters: those of the policy as it began."""
        with switched_off(self.lm):
            return self.logprobs(shard, temperature)

    def weights(self, dtype_name: str | None = None) -> Iterator[tuple[str, Tensor]]:
        """Every parameter under its Hugging Face name, in the engine's type or another; all ranks must iterate.

        Adapters are merged into the layers that they belong to.
        """
        dtype = dtype_of(dtype_name or self.run.engine.dtype)
        for name, tensor in merged(self.lm, bare(self.trainer.weights())):
            yield name, tensor.to(dtype)

    def weight_buckets(self, max_bytes: int, dtype_name: str | None = None) -> Iterator[Bucket]:
        """`weights` on their way to engines in other processes; rank 0 sends, the others only take part."""
        for bucket in buckets(self.weights(dtype_name), max_bytes):
            if self.rank.index == 0:
                yield bucket

    def export(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder, and its moving average beside it as `FOLDER-ema` where there is one
        (rank 0 writes, all ranks must call it)."""
        self._export(folder, self.trainer.weights)
        if self.ema:
            self._export(folder.with_name(f"{folder.name}-ema"), self.trainer.averages)

    def _export(self, folder: Path, weights: Callable[[], Iterator[tuple[str, Tensor]]]) -> None:
        tokenizer = self.folder if self.rank.index == 0 else None
        write_model(self.lm, lambda: bare(weights()), self.run.strategy.dtype, tokenizer, folder, self.adapters)

    def save(self, folder: Path) -> None:
        self.trainer.save(folder)

    def load(self, folder: Path) -> None:
        self.trainer.load(folder)


def bare(weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Named as in the language model, without what it is wrapped in."""
    return ((name.removeprefix("lm."), tensor) for name, tensor in weights)

"""The policy, which learns, and the reference, which does not."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.algos.table import algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.arithmetic import updates_per_step, warmup_steps
from rlhf_hydra.config.schema import Optim, RunConfig
from rlhf_hydra.models.lora import Adapters, merged, switched_off
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.strategy.base import Rank, build_trainer, contagious, dtype_of
from rlhf_hydra.workers.base import Shard, add, forward_rows
from rlhf_hydra.workers.weights import Bucket, buckets


class ReferenceWorker:
    """A language model that says how likely it finds responses."""

    optim: Optim | None = None
    total_updates = 0
    ema = 0.0
    adapters: Adapters | None = None

    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.run, self.folder, self.rank = run, folder, rank
        model = PolicyModel.load(folder, run.model.trust_remote_code, self.adapters)
        if self.optim is not None and run.strategy.gradient_checkpointing:
            model.lm.gradient_checkpointing_enable({"use_reentrant": False})
        self.lm = model.lm
        self.trainer = build_trainer(run.strategy, model, self.optim, self.total_updates, rank, self.ema)

    def logprobs(self, shard: Shard, temperature: float) -> Tensor:
        """[b, T] of the shard's rows, at this temperature."""

        def compute(batch: RolloutBatch) -> Tensor:
            packed = pack(batch)
            return packed.unpack(self.trainer.forward(packed, temperature, "none", train=False)[0])

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


class PolicyWorker(ReferenceWorker):
    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.optim, self.ema = run.policy.optim, run.policy.ema
        self.adapters = Adapters.of(run.policy.lora, run, folder)
        steps = max(1, run.steps - warmup_steps(run))
        self.total_updates = steps * updates_per_step(run, run.policy.samples_per_update)
        self.algorithm = algorithm(run.rl, run.rollout)
        super().__init__(run, folder, rank)

    def step(self, shard: Shard, totals: StepTotals, kl_coef: float) -> dict[str, float]:
        """One optimizer step on this rank's rows; metrics are its summands, but for what the trainer says."""
        metrics: dict[str, float] = {}
        temperature, count = self.run.rollout.temperature, len(shard.microbatches)
        wanted = "gradient" if self.run.rl.loss.entropy_coef > 0 else "value"
        for i, batch in enumerate(shard):
            batch = batch.to(self.trainer.device)
            packed = pack(batch)
            outputs = self.trainer.forward(packed, temperature, wanted, train=True)
            logprobs, entropy = map(packed.unpack, outputs)
            loss, summands = self.algorithm.policy_loss(logprobs, entropy, batch, totals, kl_coef)
            self.trainer.backward(contagious(loss), last=i == count - 1)
            add(metrics, summands)
        return metrics | {f"policy/{name}": value for name, value in self.trainer.step().items()}

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
        writes = self.rank.index == 0
        if self.adapters is not None:
            self.adapters.export(folder, self.lm, bare(weights()), write=writes)
        if self.adapters is None or self.adapters.cfg.export == "merged":
            dtype = dtype_of(self.run.strategy.dtype)
            state = {name: tensor.to(dtype).cpu() for name, tensor in merged(self.lm, bare(weights()))}
            if writes:
                self.lm.save_pretrained(folder, state_dict=state)
        if writes:
            AutoTokenizer.from_pretrained(self.folder).save_pretrained(folder)

    def save(self, folder: Path) -> None:
        self.trainer.save(folder)

    def load(self, folder: Path) -> None:
        self.trainer.load(folder)


def bare(weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Named as in the language model, without what it is wrapped in."""
    return ((name.removeprefix("lm."), tensor) for name, tensor in weights)

"""The critic: values of the states between response tokens."""

from pathlib import Path

from torch import Tensor

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.algos.table import algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.arithmetic import updates_per_step
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.models.lora import Adapters
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.value import ValueModel
from rlhf_hydra.strategy.base import Rank, build_trainer, contagious
from rlhf_hydra.workers.base import Shard, add, forward_rows


class CriticWorker:
    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.run, self.rank = run, rank
        model = ValueModel.load(
            folder,
            seed=derive(run.seed, "critic head"),
            trust_remote_code=run.model.trust_remote_code,
            adapters=Adapters.of(run.critic.lora, run, folder),
        )
        if run.strategy.gradient_checkpointing:
            model.classifier.gradient_checkpointing_enable({"use_reentrant": False})
        self.algorithm = algorithm(run.rl, run.rollout)
        updates = run.steps * updates_per_step(run, run.critic.samples_per_update)
        self.trainer = build_trainer(run.strategy, model, run.critic.optim, updates, rank)

    def values(self, shard: Shard) -> Tensor:
        """[b, T] of the shard's rows."""

        def compute(batch: RolloutBatch) -> Tensor:
            packed = pack(batch)
            return packed.unpack(self.trainer.forward(packed, train=False))

        return forward_rows(shard, self.trainer.device, compute)

    def step(self, shard: Shard, totals: StepTotals) -> dict[str, float]:
        """One optimizer step on this rank's rows; metrics are its summands, but for what the trainer says."""
        metrics: dict[str, float] = {}
        count = len(shard.microbatches)
        for i, batch in enumerate(shard):
            batch = batch.to(self.trainer.device)
            packed = pack(batch)
            values = packed.unpack(self.trainer.forward(packed, train=True))
            loss, summands = self.algorithm.value_loss(values, batch, totals)
            self.trainer.backward(contagious(loss), last=i == count - 1)
            add(metrics, summands)
        return metrics | {f"critic/{name}": value for name, value in self.trainer.step().items()}

    def save(self, folder: Path) -> None:
        self.trainer.save(folder)

    def load(self, folder: Path) -> None:
        self.trainer.load(folder)

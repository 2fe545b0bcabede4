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
from rlhf_hydra.strategy.base import Rank, build_trainer, loaded_as
from rlhf_hydra.workers.base import Shard, forward_rows, update


class CriticWorker:
    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.run, self.rank = run, rank
        shaping, seed = run.rl.shaping, derive(run.seed, "critic head")
        mean, std = (shaping.mean, shaping.std) if shaping.normalize == "stored" else (0.0, 1.0)
        model = ValueModel.load(
            folder,
            seed=seed,
            trust_remote_code=run.model.trust_remote_code,
            mean=mean,
            std=std,
            adapters=Adapters.of(run.critic.lora, run, folder),
            dtype=loaded_as(run.strategy),
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

        def compute(batch: RolloutBatch) -> tuple[Tensor, dict[str, Tensor]]:
            packed = pack(batch)
            values = packed.unpack(self.trainer.forward(packed, train=True))
            return self.algorithm.value_loss(values, batch, totals)

        return update(self.trainer, "critic", self.run.seed, (shard, compute))

    def save(self, folder: Path) -> None:
        self.trainer.save(folder)

    def load(self, folder: Path) -> None:
        self.trainer.load(folder)

"""The worker of supervised runs: one for all objectives."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from rlhf_hydra.algos.losses import router_share
from rlhf_hydra.algos.objectives import Metrics, Totals, objective
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import KD, RunConfig
from rlhf_hydra.config.seeds import derive
from rlhf_hydra.models.distill import Student, Teacher, check_vocabulary
from rlhf_hydra.models.hub import resolve
from rlhf_hydra.models.lora import Adapters
from rlhf_hydra.models.packed import Packed, pack
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.models.steps import StepModel
from rlhf_hydra.models.value import ValueModel
from rlhf_hydra.strategy.base import Rank, build_trainer
from rlhf_hydra.workers.base import Shard, add, forward_rows, update, write_model


class NoStepToken(Failure, ValueError):
    """What stands for a good or a bad step is not one token of this model."""


class LearnerWorker:
    """Trains the model that the objective reads. `run.steps` counts optimizer steps: the learning rate follows them."""

    def __init__(self, run: RunConfig, folder: str, rank: Rank) -> None:
        self.run, self.folder, self.rank = run, folder, rank
        self.objective, self.router_coef = objective(run.supervised), run.policy.router_coef
        self.adapters = Adapters.of(run.policy.lora, run, folder)
        model = self._load()
        self.inner, self.prefix = inner(model)
        if run.strategy.gradient_checkpointing:
            self.inner.gradient_checkpointing_enable({"use_reentrant": False})
        self.trainer = build_trainer(run.strategy, model, run.policy.optim, run.steps, rank, run.policy.ema)
        if isinstance(run.algo, KD):
            self.teacher = load_teacher(run.algo, folder)
            self.teaching = build_trainer(run.strategy, self.teacher, None, 0, rank)

    def _load(self) -> PolicyModel | ValueModel:
        trust, router = self.run.model.trust_remote_code, self.router_coef > 0
        match self.objective.output:
            case "scores":
                seed = derive(self.run.seed, "head")
                return ValueModel.load(self.folder, seed=seed, trust_remote_code=trust, adapters=self.adapters)
            case "choices":
                self.step_tokens = step_tokens(self.folder, self.run.data.step_tokens)
                return StepModel.load(self.folder, trust, router, self.adapters)
            case "divergence":
                return Student.load(self.folder, trust, router, self.adapters)
        return PolicyModel.load(self.folder, trust, router, self.adapters)

    def step(self, shard: Shard, totals: Totals) -> dict[str, float]:
        """One optimizer step on this rank's rows; metrics are its summands, but for what the trainer says."""
        return update(self.trainer, "policy", (shard, lambda batch: self._share(batch, totals, train=True)))

    def evaluate(self, shard: Shard, totals: Totals) -> dict[str, float]:
        """This rank's summands of the metrics of an evaluation."""
        metrics: dict[str, float] = {}
        for batch in shard:
            _, summands = self._share(batch.to(self.trainer.device), totals, train=False)
            add(metrics, summands)
        return metrics

    def logprobs(self, shard: Shard, temperature: float) -> Tensor:
        """[b, T] of the shard's rows."""

        def compute(batch: RolloutBatch) -> Tensor:
            packed = pack(batch)
            return packed.unpack(self.trainer.forward(packed, temperature, "none", train=False).logprobs)

        return forward_rows(shard, self.trainer.device, compute)

    def _share(self, batch: RolloutBatch, totals: Totals, train: bool) -> tuple[Tensor, Metrics]:
        """A micro-batch's share of the loss, and of the metrics, which are named after what they are for."""
        outputs, router = self._read(pack(batch), train)
        loss, metrics = self.objective.loss(outputs, batch, totals, self.run.algo)
        if self.router_coef > 0 and router is not None:
            metrics["router_loss"] = router_share(router, batch.response_mask, totals)
            loss = loss + self.router_coef * metrics["router_loss"]
        kind = "train" if train else "eval"
        return loss, {f"{kind}/{name}": value.detach() for name, value in metrics.items()}

    def _read(self, packed: Packed, train: bool) -> tuple[Any, Tensor | None]:
        """What the objective reads of the model, and the router loss."""
        match self.objective.output:
            case "scores":
                ends = torch.tensor(packed.lengths, device=packed.before.device).cumsum(0) - 1
                return self.trainer.forward(replace(packed, before=ends), train=train), None
            case "choices":
                here = replace(packed, before=packed.before + 1)
                odds, router = self.trainer.forward(here, *self.step_tokens, train=train)
                return packed.unpack(odds), router
            case "divergence":
                states = self.teaching.forward(packed, train=False)
                *outputs, router = self.trainer.forward(packed, self.teacher.logits, states, self.run.algo, train=train)
                return tuple(map(packed.unpack, outputs)), router
        found = self.trainer.forward(packed, 1.0, "none", train=train)
        return packed.unpack(found.logprobs), found.router

    def export(self, folder: Path, facts: Mapping[str, float]) -> None:
        """Write the model as a Hugging Face folder with `facts` in its config, and its moving average beside it as
        `FOLDER-ema` where there is one (rank 0 writes, all ranks must call it)."""
        for name, value in facts.items():
            setattr(self.inner.config, name, value)
        self._export(folder, self.trainer.weights)
        if self.run.policy.ema:
            self._export(folder.with_name(f"{folder.name}-ema"), self.trainer.averages)

    def _export(self, folder: Path, weights: Callable[[], Iterator[tuple[str, Tensor]]]) -> None:
        def bare() -> Iterator[tuple[str, Tensor]]:
            return ((name.removeprefix(self.prefix), tensor) for name, tensor in weights())

        tokenizer = self.folder if self.rank.index == 0 else None
        write_model(self.inner, bare, self.run.strategy.dtype, tokenizer, folder, self.adapters)

    def save(self, folder: Path) -> None:
        self.trainer.save(folder)

    def load(self, folder: Path) -> None:
        self.trainer.load(folder)


def inner(model: PolicyModel | ValueModel) -> tuple[Any, str]:
    """The transformers model inside, and what stands before the names of its weights."""
    return (model.classifier, "classifier.") if isinstance(model, ValueModel) else (model.lm, "lm.")


def load_teacher(cfg: KD, student: str) -> Teacher:
    folder = resolve(cfg.teacher.path, cfg.teacher.hub, cfg.teacher.revision, "algo.teacher.path")
    check_vocabulary(folder, student)
    return Teacher.load(folder)  # type: ignore[return-value]


def step_tokens(folder: str, words: list[str]) -> list[int]:
    """The tokens that stand for a good and for a bad step."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    for word, tokens in zip(words, found, strict=True):
        if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
            raise NoStepToken(f"data.step_tokens: {word!r} is not one token of this model; take words that are")
    return [tokens[0] for tokens in found]

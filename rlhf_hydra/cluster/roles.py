"""The roles as the driver sees them: batches in, tensors and metrics out; sharding stays in here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path

import torch
from torch import Tensor

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.algos.objectives import Totals
from rlhf_hydra.batch import Images, RolloutBatch
from rlhf_hydra.cluster.group import Group, Pending
from rlhf_hydra.data.packing import partition
from rlhf_hydra.rewards.base import Sample, Scores
from rlhf_hydra.workers.base import Shard
from rlhf_hydra.workers.engine.base import Response, Sampling

NOT_SUMMED = ("/lr", "/grad_norm", "/skipped")


class Scattered:
    """What the workers say about the rows that they were dealt, put back in the batch's order."""

    def __init__(self, pending: Pending, rows: list[list[int]], shape: tuple[int, ...]) -> None:
        self.pending, self.rows, self.shape = pending, rows, shape

    def get(self) -> Tensor:
        result = torch.zeros(self.shape)
        for rows, part in zip(self.rows, self.pending.get(), strict=True):
            if rows:
                result[rows, : part.shape[1]] = part
        return result


class Summed:
    """Metrics of all ranks: summands are added; what every rank knows is taken from the first."""

    def __init__(self, pending: Pending) -> None:
        self.pending = pending

    def get(self) -> dict[str, float]:
        ranks = self.pending.get()
        return {k: v if k.endswith(NOT_SUMMED) else sum(rank[k] for rank in ranks) for k, v in ranks[0].items()}


def shards(batch: RolloutBatch, size: int, max_tokens: int, unit: int = 1) -> tuple[list[Shard], list[list[int]]]:
    """One shard per worker, and the batch's rows that each holds; a worker without rows gets the first, to skip.

    `unit` rows after each other stay together.
    """
    result, rows_of = [], []
    for items in partition(batch.lengths.view(-1, unit).sum(1).tolist(), size, max_tokens):
        bins = [[item * unit + i for item in bin_ for i in range(unit)] for bin_ in items]
        rows = [row for bin_ in bins for row in bin_]
        local = iter(range(len(rows)))
        shard = Shard(batch[rows or list(range(unit))], [[next(local) for _ in bin_] for bin_ in bins], unit)
        result.append(shard)
        rows_of.append(rows)
    return result, rows_of


class TokenModel:
    """A role whose workers hold a model: policy, reference, critic."""

    def __init__(self, group: Group, max_tokens: int) -> None:
        self.group, self.max_tokens = group, max_tokens

    def logprobs(self, batch: RolloutBatch, temperature: float) -> Scattered:
        return self._rows("logprobs", batch, temperature)

    def values(self, batch: RolloutBatch) -> Scattered:
        return self._rows("values", batch)

    def step(self, batch: RolloutBatch, *args: object, beside: RolloutBatch | None = None) -> Summed:
        """One optimizer step over all rows of `batch`, and of what is `beside` it, which has totals of its own."""
        calls = [(*part, *args) for part in self._dealt(batch)]
        if beside is not None:
            calls = [(*call, *part) for call, part in zip(calls, self._dealt(beside), strict=True)]
        return Summed(self.group.each("step", calls))

    def _dealt(self, batch: RolloutBatch) -> list[tuple[Shard, StepTotals]]:
        parts, _ = shards(batch, self.group.size, self.max_tokens)
        return [(part, StepTotals.of(batch)) for part in parts]

    def _rows(self, method: str, batch: RolloutBatch, *args: object) -> Scattered:
        parts, rows = shards(batch.only(), self.group.size, self.max_tokens)
        return Scattered(self.group.each(method, [(part, *args) for part in parts]), rows, tuple(batch.tokens.shape))


class Learner(TokenModel):
    """The policy of a supervised run: whatever model its objective trains."""

    def __init__(self, group: Group, max_tokens: int, unit: int) -> None:
        super().__init__(group, max_tokens)
        self.unit = unit
        self.facts: dict[str, float] = {}
        """Numbers that go into the config of the exported model."""

    def learn(self, batch: RolloutBatch, totals: Totals) -> Summed:
        """One optimizer step over all rows of `batch`."""
        return self._shares("step", batch, totals)

    def evaluate(self, batch: RolloutBatch, totals: Totals) -> Summed:
        """The share of these rows in an evaluation that counts `totals`."""
        return self._shares("evaluate", batch, totals)

    def _shares(self, method: str, batch: RolloutBatch, totals: Totals) -> Summed:
        parts, _ = shards(batch, self.group.size, self.max_tokens, self.unit)
        return Summed(self.group.each(method, [(part, totals) for part in parts]))

    def save(self, folder: Path) -> None:
        self.group.all("save", folder / "policy").get()

    def load(self, folder: Path) -> None:
        self.group.all("load", folder / "policy").get()

    def export(self, folder: Path) -> None:
        """The model as a Hugging Face folder."""
        self.group.all("export", folder, self.facts).get()


class Unadapted(TokenModel):
    """A policy as it was before its adapters learned: its own reference."""

    def logprobs(self, batch: RolloutBatch, temperature: float) -> Scattered:
        return self._rows("base_logprobs", batch, temperature)


class Engines:
    """The engine role. Neighbours go to the same engine, which reads what they have in common once: a prompt that is
    to be answered several times."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def generate(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling, images: Images = ()
    ) -> list[Response]:
        ends = [len(prompts) * i // self.group.size for i in range(self.group.size + 1)]
        parts = [slice(*span) for span in pairwise(ends)]
        calls = [(list(prompts[part]), list(seeds[part]), sampling, images[part]) for part in parts]
        return list(chain.from_iterable(self.group.each("generate", calls).get()))

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Holding GPU memory; engines that share GPUs with training roles give it back afterwards.

        An error or a stop in here ends the run, and is not kept waiting by what the engines may still be at.
        """
        self.group.all("wake").get()
        yield
        self.group.all("sleep").get()

    def logprobs(self, sequences: list[list[int]], images: Images = ()) -> list[list[list[float]]]:
        """Of every engine: log p of each token of each sequence, at temperature 1."""
        return self.group.all("logprobs", sequences, images).get()


class Rewards:
    """The reward role: whole groups go to one worker, so that a reward can compare the answers to a prompt."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def score(self, samples: list[Sample]) -> "ScoredRows":
        return self._rows("score", samples)

    def evaluate(self, samples: list[Sample]) -> "ScoredRows":
        """By the reward of evaluations."""
        return self._rows("evaluate", samples)

    def _rows(self, method: str, samples: list[Sample]) -> "ScoredRows":
        n = self.group.size
        rows = [[i for i, s in enumerate(samples) if s.group % n == worker] for worker in range(n)]
        return ScoredRows(self.group.each(method, [([samples[i] for i in part],) for part in rows]), rows)


class ScoredRows:
    def __init__(self, pending: Pending, rows: list[list[int]]) -> None:
        self.pending, self.rows = pending, rows

    def get(self) -> Scores:
        order = [row for rows in self.rows for row in rows]
        return Scores.cat(self.pending.get())[sorted(range(len(order)), key=order.__getitem__)]

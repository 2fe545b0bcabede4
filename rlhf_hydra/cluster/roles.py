"""The roles as the driver sees them: batches in, tensors and metrics out; sharding stays in here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.group import Group, Pending
from rlhf_hydra.data.packing import partition
from rlhf_hydra.rewards.base import Sample, Scores
from rlhf_hydra.workers.base import Shard
from rlhf_hydra.workers.engine.base import Response, Sampling

NOT_SUMMED = ("/lr", "/grad_norm", "/skipped")


class Scattered:
    """Results of `scatter`ed rows, put back in the batch's order."""

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


def shards(batch: RolloutBatch, size: int, max_tokens: int) -> tuple[list[Shard], list[list[int]]]:
    """One shard per worker, and the batch's rows that each holds; a worker without rows gets row 0, to skip."""
    result, rows_of = [], []
    for bins in partition(batch.lengths.tolist(), size, max_tokens):
        rows = [row for bin_ in bins for row in bin_]
        local = iter(range(len(rows)))
        result.append(Shard(batch[rows or [0]], [[next(local) for _ in bin_] for bin_ in bins]))
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

    def step(self, batch: RolloutBatch, *args: object) -> Summed:
        """One optimizer step over all rows of `batch`."""
        parts, _ = shards(batch, self.group.size, self.max_tokens)
        totals = StepTotals.of(batch)
        return Summed(self.group.each("step", [(part, totals, *args) for part in parts]))

    def _rows(self, method: str, batch: RolloutBatch, *args: object) -> Scattered:
        parts, rows = shards(batch.only(), self.group.size, self.max_tokens)
        return Scattered(self.group.each(method, [(part, *args) for part in parts]), rows, tuple(batch.tokens.shape))


class Unadapted(TokenModel):
    """A policy as it was before its adapters learned: its own reference."""

    def logprobs(self, batch: RolloutBatch, temperature: float) -> Scattered:
        return self._rows("base_logprobs", batch, temperature)


class Engines:
    """The engine role: prompts are dealt to the engines in turn."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def generate(self, prompts: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling) -> list[Response]:
        n = self.group.size
        calls = [(list(prompts[i::n]), list(seeds[i::n]), sampling) for i in range(n)]
        responses: list[Response] = [None] * len(prompts)  # type: ignore[list-item]
        for i, part in enumerate(self.group.each("generate", calls).get()):
            responses[i::n] = part
        return responses

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Holding GPU memory; engines that share GPUs with training roles give it back afterwards."""
        self.group.all("wake").get()
        try:
            yield
        finally:
            self.group.all("sleep").get()

    def logprobs(self, sequences: list[list[int]]) -> list[list[list[float]]]:
        """Of every engine: log p of each token of each sequence, at temperature 1."""
        return self.group.all("logprobs", sequences).get()


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
        results: list[Scores] = self.pending.get()
        count = sum(map(len, self.rows))
        total = [0.0] * count
        parts = {name: [0.0] * count for scores in results for name in scores.parts}
        for rows, scores in zip(self.rows, results, strict=True):
            for local, row in enumerate(rows):
                total[row] = scores.total[local]
                for name, values in scores.parts.items():
                    parts[name][row] = values[local]
        return Scores(total=total, parts=parts)

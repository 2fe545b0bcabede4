"""Sharding: small workers that compute on what they are given, so that a misplaced row shows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.group import Done, LocalGroup, WorkerFailed
from rlhf_hydra.cluster.roles import Engines, Rewards, TokenModel, shards
from rlhf_hydra.rewards.base import Sample, Scores
from rlhf_hydra.workers.base import forward_rows
from rlhf_hydra.workers.engine.base import Response, Sampling

SIZES = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=9)
WORKERS = st.integers(1, 3)
BUDGET = st.integers(1, 40)


class Doubler:
    """Says 2 * token for each response token, and counts what it reads."""

    def __init__(self, rank):
        self.rank = rank

    def logprobs(self, shard, temperature):
        def compute(batch):
            return temperature * batch.tokens * batch.response_mask

        return forward_rows(shard, torch.device("cpu"), compute)

    def step(self, shard, totals, scale):
        tokens = sum(int(batch.response_mask.sum()) for batch in shard)
        assert tokens == sum(int(shard.batch[rows].response_mask.sum()) for rows in shard.microbatches if rows)
        return {
            "policy/loss": scale * tokens / max(totals.tokens, 1),
            "policy/lr": 0.5,
            "policy/grad_norm": 2.0,
        }


def batch_of(sizes):
    tokens = iter(range(1, 10_000))
    rows = [([next(tokens) for _ in range(p)], [next(tokens) for _ in range(r)]) for p, r in sizes]
    return RolloutBatch.from_sequences(*zip(*rows, strict=True), group=range(len(rows)))


@given(SIZES, WORKERS, BUDGET)
def test_scattered_rows_come_back_in_order(sizes, workers, budget):
    batch = batch_of(sizes)
    found = TokenModel(LocalGroup("policy", Doubler, workers), budget).logprobs(batch, 2.0).get()
    assert torch.equal(found, 2.0 * batch.tokens * batch.response_mask)


@given(SIZES, WORKERS, BUDGET)
def test_a_step_counts_each_response_token_once(sizes, workers, budget):
    batch = batch_of(sizes)
    metrics = TokenModel(LocalGroup("policy", Doubler, workers), budget).step(batch, 3.0).get()
    assert metrics["policy/loss"] == pytest.approx(3.0 if batch.response_mask.any() else 0.0)
    assert (metrics["policy/lr"], metrics["policy/grad_norm"]) == (0.5, 2.0)


@given(SIZES, WORKERS, BUDGET)
def test_shards_hold_each_row_once(sizes, workers, budget):
    batch = batch_of(sizes)
    parts, rows_of = shards(batch, workers, budget)
    assert sorted(row for rows in rows_of for row in rows) == list(range(len(batch)))
    assert len({len(part.microbatches) for part in parts}) == 1
    for part, rows in zip(parts, rows_of, strict=True):
        local = [i for bin_ in part.microbatches for i in bin_]
        assert local == list(range(len(rows)))
        assert len(part.batch) == max(1, len(rows))
        width = part.batch.tokens.shape[1]
        assert torch.equal(part.batch.tokens, batch.tokens[rows or [0], :width])


class Echo:
    """An engine that answers with the prompt and its seed."""

    def __init__(self, rank):
        self.rank, self.awake, self.calls = rank, False, []

    def generate(self, prompts, seeds, sampling, images):
        assert self.awake
        self.calls.append(prompts)
        return [Response([*p, s], [0.0] * (len(p) + 1), truncated=False) for p, s in zip(prompts, seeds, strict=True)]

    def logprobs(self, sequences, images):
        return [[float(self.rank.index)] * len(s) for s in sequences]

    def wake(self):
        self.awake = True

    def sleep(self):
        self.awake = False


@given(st.integers(0, 7), WORKERS)
def test_engines_answer_in_the_order_of_the_prompts(count, workers):
    engines = Engines(LocalGroup("engine", Echo, workers))
    prompts = [[i] * (i + 1) for i in range(count)]
    with engines.awake():
        found = engines.generate(prompts, list(range(100, 100 + count)), Sampling())
    assert [r.tokens for r in found] == [[*p, 100 + i] for i, p in enumerate(prompts)]


def test_answers_to_one_prompt_are_sampled_side_by_side():
    engines = Engines(LocalGroup("engine", Echo, 2))
    with engines.awake():
        engines.generate([[1], [1], [2], [2], [3], [3]], range(6), Sampling())
    assert engines.group.all("calls").get() == [[[[1], [1], [2]]], [[[2], [3], [3]]]]


class Busy:
    """Engines that have died, or are in the middle of a long answer."""

    def all(self, method, *args):
        assert method == "wake", f"waited for `{method}`"
        return Done([None])


def test_an_error_is_not_kept_waiting_by_the_engines():
    with pytest.raises(WorkerFailed, match="in `generate`"), Engines(Busy()).awake():
        raise WorkerFailed("engine worker 0 failed in `generate`")


def test_engines_sleep_after_their_work():
    engines = Engines(LocalGroup("engine", Echo, 2))
    with engines.awake():
        assert all(engines.group.all("awake").get())
    assert not any(engines.group.all("awake").get())


def test_logprobs_are_asked_of_every_engine():
    engines = Engines(LocalGroup("engine", Echo, 2))
    assert engines.logprobs([[1, 2], [3]]) == [[[0.0, 0.0], [0.0]], [[1.0, 1.0], [1.0]]]


class Rank1:
    """A reward that compares the answers to one prompt: 1 for the longest, and how many it saw."""

    def __init__(self, rank):
        self.rank = rank

    def score(self, samples):
        longest = {}
        for s in samples:
            longest[s.group] = max(longest.get(s.group, 0), len(s.response))
        total = [float(len(s.response) == longest[s.group]) for s in samples]
        size = [float(sum(other.group == s.group for other in samples)) for s in samples]
        return Scores(total=total, parts={"group_size": size})


@given(st.lists(st.tuples(st.integers(0, 4), st.text("ab", max_size=4)), min_size=1, max_size=12), WORKERS)
def test_a_group_is_scored_by_one_worker(answers, workers):
    """With fewer groups than workers too: then some score nothing."""
    samples = [Sample("p", response, group=group) for group, response in answers]
    found = Rewards(LocalGroup("reward", Rank1, workers)).score(samples).get()
    whole = Rank1(None).score(samples)
    assert found.total == whole.total and found.parts == whole.parts

"""Dynamic sampling: which prompts a step keeps, and that a run with it repeats and resumes."""

import json
import math
from dataclasses import fields

import pytest
import torch
from driving import SMALL, run
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import Filter
from rlhf_hydra.data.prompts import Prompt
from rlhf_hydra.filtering import choose, criterion
from rlhf_hydra.rewards.base import RewardError, Sample, Scores, Step
from rlhf_hydra.sampling import Known, Reserve, Sampled, laid_out, waves
from rlhf_hydra.workers.engine.base import Response

REWARDS = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.2, 0.4]  # four prompts: hopeless, mixed, solved, mixed


def accepted(cfg):
    batch = RolloutBatch.from_sequences([[3]] * 8, [[4]] * 8, group=[5, 5, 6, 6, 9, 9, 7, 7])
    samples = [Sample("c", "c", group=g) for g in batch.group.tolist()]
    return criterion(cfg)(batch, samples, REWARDS)


def test_criteria_by_hand():
    assert criterion(Filter()) is None
    assert accepted(Filter(by="mean")) == [False, True, False, True]  # means 0, 0.5, 1, 0.3
    assert accepted(Filter(by="mean", low=0.4)) == [False, True, False, False]
    assert accepted(Filter(by="std", low=0.2)) == [False, True, False, False]  # deviations 0, 0.71, 0, 0.14


def test_a_function_judges_prompt_by_prompt(tmp_path):
    file = tmp_path / "keep.py"
    file.write_text("def best(samples, rewards):\n    return len(samples) == 2 and max(rewards) == 1\n")
    assert accepted(Filter(by="function", path=f"{file}:best")) == [False, True, True, False]
    file.write_text("def broken(samples, rewards):\n    return samples[9]\n")
    with pytest.raises(RewardError, match="failed on prompt 0: IndexError: .*keep.py, line 2"):
        accepted(Filter(by="function", path=f"{file}:broken"))
    file = tmp_path / "vague.py"
    file.write_text("def maybe(samples, rewards):\n    return None\n")
    with pytest.raises(RewardError, match="algo.filter.path=.*maybe returned None"):
        accepted(Filter(by="function", path=f"{file}:maybe"))


def test_what_is_missing_is_filled_up_with_the_most_varied():
    # Deviations of the rejected: 0, 0.71, 0.14; the accepted one comes first whatever its own.
    assert choose([False, False, True, False], [0, 0, 1, 0, 1, 1, 0.2, 0.4], 3) == [2, 1, 3]
    assert choose([True, False], [0, 0, 1, 0], 1) == [0]
    assert choose([False, True, True], [0, 1, 0, 0.1, 0, 1], 1) == [1]  # of the accepted, the one sampled first


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), st.data())
def test_accepted_prompts_are_never_thrown_away(prompts, data):
    wanted = data.draw(st.integers(1, len(prompts)))
    accepted = [p[0] for p in prompts]
    found = choose(accepted, [x for p in prompts for x in p[1:]], wanted)
    assert len(set(found)) == wanted
    assert sum(accepted[i] for i in found) == min(wanted, sum(accepted))


def test_a_filtered_run_samples_until_the_batch_is_full(tmp_path):
    rows = run(tmp_path, *SMALL, "algo=grpo", "algo.filter.by=mean", "algo.filter.max_rounds=3", "steps=3")
    for row in rows:
        assert 1 <= row["sampling/rounds"] <= 3 and 0 <= row["sampling/pass_rate"] <= 1
        assert row["sampling/filled_up"] == 0 or row["sampling/rounds"] == 3
    assert any(row["sampling/rounds"] > 1 for row in rows)


@given(st.integers(1, 40), st.floats(1, 4), st.integers(1, 40))
def test_waves_ask_for_no_more_than_a_round_and_stop_no_earlier_than_a_full_step(missing, factor, capacity):
    sizes = list(waves(missing, factor, capacity))
    assert sum(sizes) == math.ceil(factor * missing)
    assert sizes[0] == min(sum(sizes), max(missing, capacity)) and all(size <= sizes[0] for size in sizes)
    assert factor > 1 or len(sizes) == 1  # where every prompt of a round is needed, nothing is gained by waiting


def test_what_is_accepted_beyond_a_step_begins_the_next_one(tmp_path):
    """Accepted in a step, and kept from the last one = learned from + kept for the next one. 8 prompts a step; the
    engine holds 8 of them: a round of 16 stops after the first wave if that is enough."""
    options = ["algo.filter.by=mean", "algo.filter.oversample=2", "algo.correction.weight=token"]
    sizes = ["engine.max_sequences=16", "algo.filter.max_rounds=9", "steps=8"]
    rows, kept = run(tmp_path, *SMALL, "algo=grpo", *options, *sizes), 0.0
    for row in rows:
        accepted = row["sampling/pass_rate"] * row["sampling/prompts"]
        assert kept + accepted == pytest.approx(8 - row["sampling/filled_up"] + row["sampling/reserve"])
        assert row["sampling/prompts"] <= 2 * 8 * row["sampling/rounds"]
        kept = row["sampling/reserve"]
    assert any(row["sampling/reserve"] > 0 for row in rows)
    assert any(row["sampling/prompts"] % 16 for row in rows)  # a wave, and no more


def test_the_reserve_is_the_same_after_a_resume(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    prompts = [Prompt([3 + i], "abc"[i], label=i, row=i + 1, metadata={"x": i}) for i in range(3)]
    responses = [Response([5, 6], [-0.5, -0.25], False), Response([7], [-1.5], True)] * 2
    batch, samples = laid_out(prompts[:0:-1], responses, tokenizer, first_group=7)
    scores = Scores([0.1, 0.2, 0.3, 0.4], {"a": [1.0] * 4}, [[Step(1, 0.5)], [], [], []])
    reserve, resumed = Reserve(prompts, tokenizer), Reserve(prompts, tokenizer)
    reserve.keep(Sampled(prompts[:0:-1], batch, samples, Known(scores), Known(Scores([0.5, 0.6]))))
    resumed.load_state(json.loads(json.dumps(reserve.state())))
    (one,), (other,) = reserve.take(), resumed.take()
    assert one.samples == other.samples and [s.group for s in one.samples] == [0, 0, 1, 1]
    assert one.prompts == other.prompts and one.scores == other.scores and one.greedy == other.greedy
    for f in fields(RolloutBatch):
        a, b = getattr(one.batch, f.name), getattr(other.batch, f.name)
        assert (a is None and b is None) or torch.equal(a, b)
    assert reserve.take() == [] and reserve.state() == {}


def test_what_cannot_be_filled_is_filled_up(tmp_path):
    """Nothing is accepted: all rounds are made, the batch keeps its size, the rewards are of everything sampled."""
    reward = tmp_path / "reward.py"
    reward.write_text("def score(samples):\n    return [1.0 for _ in samples]\n")
    options = ["reward=function", f"reward.path={reward}:score", "algo.filter.by=mean", "algo.filter.max_rounds=2"]
    (row,) = run(tmp_path / "run", *SMALL, "algo=grpo", *options, "steps=1")
    assert (row["sampling/rounds"], row["sampling/filled_up"], row["sampling/pass_rate"]) == (2, 8, 0)
    assert row["reward/mean"] == 1.0

"""Dynamic sampling: which prompts a step keeps, and that a run with it repeats and resumes."""

import pytest
from driving import SMALL, run
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import Filter
from rlhf_hydra.filtering import choose, criterion
from rlhf_hydra.rewards.base import RewardError, Sample

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
    file = tmp_path / "vague.py"
    file.write_text("def maybe(samples, rewards):\n    return None\n")
    with pytest.raises(RewardError, match="algo.filter.path=.*maybe returned None"):
        accepted(Filter(by="function", path=f"{file}:maybe"))


def test_what_is_missing_is_filled_up_with_the_most_varied():
    # Deviations of the rejected: 0, 0.71, 0.14; the accepted one comes first whatever its own.
    assert choose([False, False, True, False], [0, 0, 1, 0, 1, 1, 0.2, 0.4], 3) == [2, 1, 3]
    assert choose([True, False], [0, 0, 1, 0], 1) == [0]


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


def test_what_cannot_be_filled_is_filled_up(tmp_path):
    """Nothing is accepted: all rounds are made, the batch keeps its size, the rewards are of everything sampled."""
    reward = tmp_path / "reward.py"
    reward.write_text("def score(samples):\n    return [1.0 for _ in samples]\n")
    options = ["reward=function", f"reward.path={reward}:score", "algo.filter.by=mean", "algo.filter.max_rounds=2"]
    (row,) = run(tmp_path / "run", *SMALL, "algo=grpo", *options, "steps=1")
    assert (row["sampling/rounds"], row["sampling/filled_up"], row["sampling/pass_rate"]) == (2, 8, 0)
    assert row["reward/mean"] == 1.0

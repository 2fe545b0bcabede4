import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.batch import RolloutBatch

ROWS = st.lists(
    st.tuples(st.lists(st.integers(1, 99), max_size=5), st.lists(st.integers(1, 99), max_size=5)),
    min_size=1,
    max_size=6,
)


def batch_of(rows: list[tuple[list[int], list[int]]]) -> RolloutBatch:
    prompts, responses = zip(*rows, strict=True)
    logprobs = [[-0.5 * t for t in response] for response in responses]
    return RolloutBatch.from_sequences(prompts, responses, group=range(len(rows)), logprobs=logprobs)


def read(batch: RolloutBatch) -> list[tuple[list[int], list[int]]]:
    """The inverse of `batch_of`."""
    rows = []
    for tokens, mask, length in zip(batch.tokens, batch.response_mask, batch.lengths, strict=True):
        count = length - mask.sum()
        rows.append((tokens[:count].tolist(), tokens[mask].tolist()))
    return rows


def test_rows_are_right_padded_and_column_t_speaks_about_token_t():
    batch = RolloutBatch.from_sequences(
        [[5, 6], [7]], [[8], [9, 9, 1]], group=[0, 1], logprobs=[[-1.0], [-2.0, -3.0, -4.0]], truncated=[True, False]
    )
    assert batch.tokens.tolist() == [[5, 6, 8, 0], [7, 9, 9, 1]]
    assert batch.lengths.tolist() == [3, 4]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]
    assert batch.rollout_logprobs.tolist() == [[0, 0, -1, 0], [0, -2, -3, -4]]
    assert batch.truncated.tolist() == [True, False]


@given(ROWS)
def test_sequences_come_back(rows):
    assert read(batch_of(rows)) == rows


@given(ROWS, st.integers(1, 4))
def test_split_and_cat_are_inverse(rows, size):
    batch = batch_of(rows)
    parts = batch.split(size)
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    joined = RolloutBatch.cat(parts)
    assert read(joined) == rows
    assert torch.equal(joined.rollout_logprobs, batch.rollout_logprobs)


@given(ROWS, st.randoms())
def test_rows_are_picked_and_cut_to_the_longest(rows, random):
    picked = random.choices(range(len(rows)), k=3)
    batch = batch_of(rows)[picked]
    assert read(batch) == [rows[i] for i in picked]
    assert batch.tokens.shape[1] == max(len(prompt) + len(response) for prompt, response in read(batch))


def test_no_rows_are_a_batch_too():
    empty = RolloutBatch.from_sequences([], [], group=[])
    assert len(empty) == 0 and empty.split(2) == []
    assert len(batch_of([([1], [2])])[torch.tensor([], dtype=torch.long)]) == 0


def test_a_tensor_of_flags_picks_rows():
    batch = batch_of([([1], [2]), ([3], [4, 5])])
    assert read(batch[torch.tensor([False, True])]) == [([3], [4, 5])]


def test_steps_return_copies():
    batch = batch_of([([1], [2])])
    scored = batch.replace(rewards=torch.tensor([1.0]))
    assert batch.rewards is None and scored.rewards.tolist() == [1.0]
    with pytest.raises(AttributeError):
        batch.rewards = scored.rewards


def test_cat_refuses_a_field_that_only_some_have():
    batch = batch_of([([1], [2])])
    with pytest.raises(ValueError, match=r"`rewards` is set in 1 of 2 batches"):
        RolloutBatch.cat([batch, batch.replace(rewards=torch.tensor([1.0]))])


def test_only_keeps_what_is_named():
    batch = batch_of([([1], [2])]).replace(rewards=torch.tensor([1.0]), values=torch.zeros(1, 2))
    kept = batch.only("values")
    assert kept.values is not None and kept.tokens is batch.tokens
    assert kept.rewards is None and kept.rollout_logprobs is None


def test_to_moves_what_is_there():
    moved = batch_of([([1], [2])]).to("meta")
    assert moved.tokens.device.type == "meta" and moved.rewards is None

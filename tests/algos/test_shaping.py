import pytest
import torch
from torch import tensor

from rlhf_hydra.algos.shaping import RewardNormalizer, overlong_penalty, shape, step_rewards, truncation
from rlhf_hydra.config.schema import Shaping


def test_overlong_penalty_by_hand():
    lengths = tensor([50, 80, 85, 100, 120])
    # grows from 80 = 100 - 20: 0, 0, 5/20, 20/20, and no more beyond
    assert overlong_penalty(lengths, 100, 20, 2.0).tolist() == pytest.approx([0, 0, 0.5, 2, 2])


@pytest.mark.parametrize(("coef", "expected"), [(0.0, [0, 0]), (0.5, [0.5, -1]), (1.0, [1, -2]), (-0.5, [-0.5, -0.5])])
def test_truncation_multiplies_or_replaces(coef, expected):
    assert truncation(tensor([1.0, -2.0]), coef).tolist() == expected


def test_shape_goes_through_penalties_then_the_clip():
    cfg = Shaping(overlong_share=0.5, overlong_penalty=1.0, truncated=0.5, clip=0.4)
    got = shape(tensor([1.0, 1.0, 0.3]), tensor([8, 8, 2]), tensor([True, False, False]), cfg, max_tokens=10)
    # 1 - (8 - 5) / 5 = 0.4, of which half; 0.4; 0.3
    assert got.tolist() == pytest.approx([0.2, 0.4, 0.3])
    assert shape(tensor([9.0]), tensor([1]), None, cfg, max_tokens=10).tolist() == pytest.approx([0.4])


def test_by_default_nothing_changes():
    rewards = tensor([3.0, -4.0])
    assert shape(rewards, tensor([10, 10]), tensor([True, True]), Shaping(), 10) is rewards


def test_step_rewards_land_on_the_last_response_token_of_their_step():
    mask = tensor([[False, True, True, False, True], [False, False, True, True, True]])
    scores, ends = tensor([[0.5, 0.25, 1.0], [9.0, 2.0, 7.0]]), tensor([[2, 3, 4], [1, 3, -1]])
    # row 0: column 2; column 3 is no response token, so 2 again; column 4. row 1: ends before the response; 3; unused
    assert step_rewards(scores, ends, mask).tolist() == [[0, 0, 0.75, 0, 1], [0, 0, 0, 2, 0]]


def test_stored_statistics():
    normalize = RewardNormalizer(Shaping(normalize="stored", mean=2.0, std=4.0))
    assert normalize(tensor([2.0, 6.0]), tensor([True, True])).tolist() == [0, 1]


def test_running_statistics_are_those_of_all_rewards_so_far():
    normalize = RewardNormalizer(Shaping(normalize="running"))
    chunks = torch.randn(5, 8) * 3 + 7
    for seen, chunk in enumerate(chunks, 1):
        got = normalize(chunk, torch.ones(8, dtype=torch.bool))
        everything = chunks[:seen].double()
        assert torch.allclose(got, ((chunk - everything.mean()) / everything.std(correction=0)).float(), atol=1e-5)


def test_rows_that_are_not_valid_change_no_statistic():
    first, second = (RewardNormalizer(Shaping(normalize="running")) for _ in range(2))
    first(tensor([1.0, 2.0, torch.nan]), tensor([True, True, False]))
    second(tensor([1.0, 2.0]), tensor([True, True]))
    first(tensor([5.0]), tensor([False]))
    assert first.state() == second.state()


def test_before_anything_was_seen_the_scale_is_one():
    normalize = RewardNormalizer(Shaping(normalize="running"))
    assert normalize(tensor([5.0]), tensor([False])).tolist() == [5]


def test_normalizer_state_goes_on_where_it_stopped():
    first, second = (RewardNormalizer(Shaping(normalize="running")) for _ in range(2))
    every = torch.ones(4, dtype=torch.bool)
    first(torch.randn(4), every)
    second.load_state(first.state())
    x = torch.randn(4)
    assert torch.equal(first(x, every), second(x, every))
    assert first.state() == second.state()

import pytest
import torch
from torch import tensor

from rlhf_hydra.algos.sampling import informative

REWARDS = tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.5, 0.5])
GROUP = tensor([0, 0, 1, 1, 2, 2, 3, 3])
VALID = torch.ones(8, dtype=torch.bool)


@pytest.mark.parametrize(
    ("by", "low", "high", "kept"), [("mean", 0, 1, {2, 3}), ("std", 0, 9, {2}), ("mean", 0.5, 2, {1})]
)
def test_criteria_by_hand(by, low, high, kept):
    keep = informative(REWARDS, GROUP, VALID, by, low, high)
    assert set(GROUP[keep].tolist()) == kept
    assert keep.sum() == 2 * len(kept)  # whole groups


def test_rows_that_are_not_valid_do_not_speak_for_their_group():
    valid = tensor([True] * 4 + [True, False] + [False] * 2)
    assert not informative(REWARDS, GROUP, valid, "mean", 0, 1).any()  # 2 is all 0 now; 3 has no row left


def test_nothing_sampled_is_nothing_kept():
    none = torch.zeros(0)
    assert informative(none, none.long(), none.bool(), "mean", 0, 1).shape == (0,)

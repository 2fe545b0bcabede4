import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from rlhf_hydra.algos.masked import group_stats, group_sum, masked_mean, masked_var, whiten

X = tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]])
M = tensor([[True, True, False], [True, False, False]])


def test_mean_and_variance_see_masked_entries_only():
    assert masked_mean(X, M) == 3  # (1 + 2 + 6) / 3
    assert masked_var(X, M) == pytest.approx(14 / 3)  # (4 + 1 + 9) / 3


@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
def test_what_lies_outside_the_mask_may_be_anything(junk):
    x = X.masked_fill(~M, junk)
    assert masked_mean(x, M) == 3
    assert whiten(x, M, "std").isfinite().all()


def test_an_empty_mask_gives_zero():
    none = torch.zeros_like(M)
    assert masked_mean(X, none) == 0
    assert masked_var(X, none) == 0
    assert (whiten(X, none, "std") == 0).all()
    assert masked_mean(torch.zeros(0, 0), torch.zeros(0, 0, dtype=torch.bool)) == 0


def test_whiten_by_hand():
    assert whiten(X, M, "mean").tolist() == [[-2, -1, 0], [3, 0, 0]]  # mean 3
    s = (14 / 3) ** 0.5
    assert whiten(X, M, "std")[0, :2].tolist() == pytest.approx([-2 / s, -1 / s])
    assert whiten(X, M, "none") is X


def test_whiten_per_group_uses_the_groups_own_statistics():
    x, mask = tensor([[1.0, 3.0], [5.0, 0.0], [10.0, 20.0]]), tensor([[True, True], [True, False], [True, True]])
    # group 4: 1, 3, 5 -> mean 3, var 8/3; group 2: 10, 20 -> mean 15, var 25
    white = whiten(x, mask, "std", tensor([4, 4, 2]))
    s = (8 / 3) ** 0.5
    assert white.flatten().tolist() == pytest.approx([-2 / s, 0, 2 / s, 0, -1, 1])
    assert torch.equal(whiten(x, mask, "std", tensor([7, 7, 7])), whiten(x, mask, "std"))


def test_equal_entries_whiten_to_zero():
    assert (whiten(torch.full((2, 3), 5.0), M, "std") == 0).all()


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=30))
def test_whitened_entries_have_mean_zero_and_unit_variance_or_are_all_equal(values):
    x = tensor(values)[None]
    white = whiten(x, torch.ones_like(x, dtype=torch.bool), "std")
    assert abs(float(white.mean())) < 1e-3
    if x.var(correction=0) > 1e-3:
        assert float(white.var(correction=0)) == pytest.approx(1, abs=1e-3)


def test_group_sum_takes_any_labels():
    assert group_sum(tensor([1.0, 2.0, 3.0]), tensor([70, -1, 70])).tolist() == [4, 2, 4]
    assert group_sum(torch.zeros(0), torch.zeros(0, dtype=torch.long)).tolist() == []


def test_group_stats_leave_out_rows_that_are_not_valid():
    x, group = tensor([1.0, 3.0, torch.nan, 5.0]), tensor([0, 0, 0, 1])
    n, mean, std = group_stats(x, group, tensor([True, True, False, False]))
    assert n.tolist() == [2, 2, 2, 0]
    assert mean.tolist() == [2, 2, 2, 0]  # (1 + 3) / 2; nothing
    assert std.tolist() == pytest.approx([2**0.5] * 3 + [0])  # sqrt((1 + 1) / (2 - 1))

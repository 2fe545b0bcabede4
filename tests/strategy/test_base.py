import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlhf_hydra.config.schema import Optim
from rlhf_hydra.strategy.base import learning_rate, parameter_groups

SCHEDULES = st.sampled_from(["constant", "linear", "cosine"])


def rates(optim, total):
    return [learning_rate(step, total, optim) for step in range(total)]


def test_warm_up_and_cosine_by_hand():
    # 10 steps, W = ceil(0.2 * 10) = 2: 1/2, 2/2. Then p = 0, 1/8 ... 7/8 and lr (0.1 + 0.9 (1 + cos(pi p)) / 2):
    # p = 0 -> 1, p = 1/2 -> 0.55.
    optim = Optim(lr=1.0, schedule="cosine", warmup_ratio=0.2, min_lr_ratio=0.1)
    found = rates(optim, 10)
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert found[6] == pytest.approx(0.55)
    assert learning_rate(10, 10, optim) == pytest.approx(0.1)


def test_linear_and_constant_by_hand():
    # No warm-up, 4 steps, r = 0.2: 1 - 0.8 p with p = 0, 1/4, 1/2, 3/4.
    linear = Optim(lr=1.0, schedule="linear", warmup_ratio=0.0, min_lr_ratio=0.2)
    assert rates(linear, 4) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    # W = ceil(0.03 * 4) = 1: the first step already has the full rate.
    assert rates(Optim(lr=2.0, schedule="constant", warmup_ratio=0.03), 4) == [2.0] * 4


@given(SCHEDULES, st.integers(1, 200), st.floats(0, 0.99), st.floats(0, 1))
def test_rates_rise_then_fall_within_bounds(schedule, total, warmup, floor):
    optim = Optim(lr=0.5, schedule=schedule, warmup_ratio=warmup, min_lr_ratio=floor)
    found = rates(optim, total)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[0] > 0 and max(found) <= 0.5
    assert learning_rate(total + 5, total, optim) >= 0.5 * floor * (1 - 1e-9)


def test_weight_decay_is_for_matrices_that_learn():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(4, 2), nn.Linear(2, 2, bias=False))
    model[3].requires_grad_(False)
    decayed, plain = parameter_groups(model, Optim(weight_decay=0.1))
    assert decayed["weight_decay"] == 0.1 and [p.shape for p in decayed["params"]] == [(2, 3), (4, 2)]
    assert plain["weight_decay"] == 0 and [p.shape for p in plain["params"]] == [(2,), (2,), (2,)]


def test_parameter_groups_are_never_empty():
    assert len(parameter_groups(nn.Linear(3, 2, bias=False), Optim())) == 1


def test_a_shell_of_zero_3_knows_its_shape():
    model = nn.Linear(3, 2, bias=False)
    model.weight.ds_shape = torch.Size([2, 3])
    model.weight.data = torch.empty(0)
    (group,) = parameter_groups(model, Optim(weight_decay=0.1))
    assert group["weight_decay"] == 0.1

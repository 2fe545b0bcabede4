import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import get_scheduler

from rlhf_hydra.config.schema import SCHEDULES, Optim
from rlhf_hydra.strategy.base import build_optimizers, inner_matrices, learning_rate, parameter_groups

FALLING = st.sampled_from([name for name in SCHEDULES if name != "cosine_with_restarts"])


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


@given(FALLING, st.integers(1, 200), st.floats(0, 0.99), st.floats(0, 1))
def test_rates_rise_then_fall_within_bounds(schedule, total, warmup, floor):
    optim = Optim(lr=0.5, schedule=schedule, warmup_ratio=warmup, min_lr_ratio=floor)
    found = rates(optim, total)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    assert found[0] > 0 and max(found) <= 0.5
    assert learning_rate(total + 5, total, optim) >= (0 if schedule == "inverse_sqrt" else 0.5 * floor * (1 - 1e-9))


OTHERS = {  # what transformers calls the same, and with which settings; W = 10 of 100 steps, 20 at the end fall
    "constant": ("constant_with_warmup", {}, {}),
    "constant_with_warmup": ("constant_with_warmup", {}, {}),
    "linear": ("linear", {"min_lr_ratio": 0.0}, {}),
    "cosine": ("cosine", {"min_lr_ratio": 0.0}, {}),
    "cosine_with_min_lr": ("cosine_with_min_lr", {"min_lr_ratio": 0.2}, {"min_lr_rate": 0.2}),
    "cosine_with_restarts": ("cosine_with_restarts", {"min_lr_ratio": 0.0, "restarts": 3}, {"num_cycles": 3}),
    "polynomial": ("polynomial", {"min_lr_ratio": 0.1, "power": 2.0}, {"lr_end": 0.05, "power": 2.0}),
    "inverse_sqrt": ("inverse_sqrt", {}, {}),
    "warmup_stable_decay": (
        "warmup_stable_decay",
        {"min_lr_ratio": 0.3, "decay_ratio": 0.2},
        {"min_lr_ratio": 0.3, "num_decay_steps": 20},
    ),
}


@pytest.mark.parametrize("schedule", OTHERS)
def test_schedules_are_those_of_transformers(schedule):
    """After the warm-up, whose first step has a rate here: the rate of step s is theirs of step s + 1."""
    name, ours, theirs = OTHERS[schedule]
    optim = Optim(lr=0.5, schedule=schedule, warmup_ratio=0.1, **ours)
    dummy = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=optim.lr)
    factor = get_scheduler(name, dummy, 10, 100, scheduler_specific_kwargs=theirs).lr_lambdas[0]
    found = [learning_rate(step, 100, optim) for step in range(101)]
    assert found[10:] == pytest.approx([0.5 * factor(step) for step in range(10, 101)])
    if name != "warmup_stable_decay":  # theirs rises from the last rate, not from 0
        assert found[:9] == pytest.approx([0.5 * factor(step) for step in range(1, 10)])


def test_another_name_of_the_cosine():
    one, other = (Optim(schedule=name) for name in ("cosine", "cosine_warmup_with_min_lr"))
    assert rates(one, 50) == rates(other, 50)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.norm = nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.lm_head = nn.Linear(4, 5)


def test_muon_takes_the_matrices_inside():
    model = Small()
    assert inner_matrices(model) == [model.inner.weight]
    muon, adamw = build_optimizers(model, Optim(name="muon", lr=0.1, momentum=0.9, weight_decay=0.01))
    assert [group["params"] for group in muon.param_groups] == [[model.inner.weight]]
    assert muon.defaults["momentum"] == 0.9 and muon.defaults["weight_decay"] == 0.01
    rest = [p for group in adamw.param_groups for p in group["params"]]
    assert len(rest) == 1 + 1 + 2 + 2  # embedding, bias, norm, output layer


def test_a_step_of_muon_by_hand():
    # One gradient: momentum keeps 0.1 of it and Nesterov another part; orthogonalized, only its direction counts. A
    # diagonal gradient's direction is the identity, up to Newton and Schulz: singular values within 0.7 to 1.2.
    # The step is lr 0.2 sqrt(max(4, 4)) = 0.4 lr.
    model = Small()
    before = model.inner.weight.detach().clone()
    muon, _ = build_optimizers(model, Optim(name="muon", lr=0.1, weight_decay=0.0))
    model.inner.weight.grad = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    muon.step()
    moved = (before - model.inner.weight.detach()) / 0.04
    assert ((moved.diagonal() > 0.6) & (moved.diagonal() < 1.3)).all()
    assert (moved - moved.diagonal().diag()).abs().max() < 0.05


def test_weight_decay_is_for_matrices_that_learn():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.Embedding(4, 2), nn.Linear(2, 2, bias=False))
    model[3].requires_grad_(False)
    decayed, plain = parameter_groups(model.parameters(), Optim(weight_decay=0.1))
    assert decayed["weight_decay"] == 0.1 and [p.shape for p in decayed["params"]] == [(2, 3), (4, 2)]
    assert plain["weight_decay"] == 0 and [p.shape for p in plain["params"]] == [(2,), (2,), (2,)]


def test_parameter_groups_are_never_empty():
    assert len(parameter_groups(nn.Linear(3, 2, bias=False).parameters(), Optim())) == 1


def test_a_shell_of_zero_3_knows_its_shape():
    model = nn.Linear(3, 2, bias=False)
    model.weight.ds_shape = torch.Size([2, 3])
    model.weight.data = torch.empty(0)
    (group,) = parameter_groups(model.parameters(), Optim(weight_decay=0.1))
    assert group["weight_decay"] == 0.1

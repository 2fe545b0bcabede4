import pytest
import torch
from torch import tensor

from rlhf_hydra.algos.correction import correction_weights, importance
from rlhf_hydra.config.schema import Correction

OLD = tensor([[0.0, -1.0, -1.0], [0.0, -1.0, -1.0]])
MASK = tensor([[False, True, True], [False, True, False]])


def rollout(*ratios):
    """Engine logprobs such that u = old / rollout has these values."""
    u = torch.ones(2, 3)
    u[MASK] = tensor(ratios)
    return OLD - u.log()


def test_importance_by_hand():
    engine = rollout(2.0, 8.0, 0.5)
    assert importance(OLD, engine, MASK, "token").flatten().tolist() == pytest.approx([1, 2, 8, 1, 0.5, 1])
    assert importance(OLD, engine, MASK, "sequence")[:, 0].tolist() == pytest.approx([16, 0.5])
    assert importance(OLD, engine, MASK, "geometric")[:, 0].tolist() == pytest.approx([4, 0.5])  # sqrt(2 * 8)


@pytest.mark.parametrize(
    ("cfg", "expected"),
    [
        (Correction(), [1, 1, 1]),
        (Correction(weight="token", weight_high=4), [2, 4, 0.5]),  # TIS
        (Correction(weight="token", weight_low=0.6, weight_high=4), [2, 4, 0.6]),
        (Correction(weight="token", mask="token", weight_high=4, mask_high=4), [2, 0, 0.5]),  # IcePop
        (Correction(weight="sequence", weight_high=10), [10, 10, 0.5]),
        (Correction(mask="geometric", mask_low=0.9, mask_high=5), [1, 1, 0]),
        (Correction(mask="sequence", mask_low=0.1, mask_high=5), [0, 0, 1]),
        (Correction(weight="token", weight_high=5, mask="geometric", mask_high=5), [2, 5, 0.5]),  # kept, and cut to 5
    ],
)
def test_weights_by_hand(cfg, expected):
    weights = correction_weights(OLD, rollout(2.0, 8.0, 0.5), MASK, cfg)
    assert weights[MASK].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("weight", ["token", "sequence"])
@pytest.mark.parametrize("mask", ["none", "token", "sequence", "geometric"])
def test_an_engine_that_agrees_changes_nothing(weight, mask):
    assert torch.equal(correction_weights(OLD, OLD, MASK, Correction(weight=weight, mask=mask)), torch.ones(2, 3))


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_extremes_stay_finite_and_rows_without_tokens_weigh_one(level):
    old = torch.full((2, 50), -1e4)
    mask = torch.ones(2, 50, dtype=torch.bool)
    mask[1] = False
    for engine in (torch.zeros(2, 50), old * 2):
        u = importance(old, engine, mask, level)
        assert u.isfinite().all()
        assert (u[1] == 1).all()


def test_weights_carry_no_gradient():
    old = OLD.clone().requires_grad_()
    assert not correction_weights(old, OLD, MASK, Correction(weight="token", mask="sequence")).requires_grad


def test_renormalised_logprobs_of_an_engine_would_look_like_a_mismatch():
    """p = 0.5, 0.3, 0.15, 0.05 and top-k 2 leave q = 5/8, 3/8: u = p / q = 0.8 for both, although nobody disagrees.
    Over the whole vocabulary on both sides it is 1."""
    p, mask = tensor([[0.5, 0.3]]), torch.ones(1, 2, dtype=torch.bool)
    assert importance(p.log(), (p / 0.8).log(), mask, "token").tolist() == [pytest.approx([0.8, 0.8])]
    assert importance(p.log(), p.log(), mask, "token").tolist() == [[1, 1]]

import math

import pytest
import torch
from torch import tensor

from rlhf_hydra.algos.correction import correction_weights, filtered_logprobs, importance
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


def test_filtered_logprobs_by_hand():
    logits = tensor([0.5, 0.3, 0.15, 0.05]).log()
    token = tensor(1)

    def p(top_p, top_k, temperature=1.0, token=token):
        return float(filtered_logprobs(logits, token, temperature, top_p, top_k).exp())

    assert p(1.0, 0) == pytest.approx(0.3)
    assert p(1.0, 2) == pytest.approx(0.3 / 0.8)
    assert p(0.9, 0) == pytest.approx(0.3 / 0.95)  # 0.5 + 0.3 < 0.9 <= 0.95
    assert p(0.8, 3) == pytest.approx(0.3 / 0.8)  # of 0.5, 0.3, 0.15: 0.8 / 0.95 >= 0.8
    assert p(1.0, 0, temperature=0.5) == pytest.approx(0.09 / (0.25 + 0.09 + 0.0225 + 0.0025))
    assert p(0.5, 0) == pytest.approx(0.3 / 0.8)  # the sampled token is kept besides the first
    assert p(0.5, 0, token=tensor(0)) == pytest.approx(1)


def test_filtered_logprobs_keep_leading_shapes_and_stay_finite():
    got = filtered_logprobs(torch.randn(2, 3, 11) * 100, torch.randint(11, (2, 3)), 0.7, 0.9, 5)
    assert got.shape == (2, 3)
    assert got.isfinite().all()
    assert (got <= 1e-6).all()
    assert math.isfinite(float(got.sum()))

import math

import pytest
import torch
from torch import tensor

from rlhf_hydra.algos.losses import StepTotals, imitation, loss_weights, router_share, value_loss
from rlhf_hydra.algos.table import POLICY_LOSSES
from rlhf_hydra.config.schema import PolicyLoss

MASK = tensor([[False, True, True, True], [False, True, False, False], [False] * 4])
AGGREGATIONS = ["token_mean", "sequence_mean", "sequence_sum"]


def per_token(kind, ratio, advantages, **options):
    """Loss and clipped tokens of one row of given ratios; old logprobs are -1."""
    r = tensor([ratio])
    mask = torch.ones_like(r, dtype=torch.bool)
    loss, clipped = POLICY_LOSSES[kind](
        r.log() - 1, torch.full_like(r, -1.0), tensor([advantages]), mask, PolicyLoss(kind=kind, **options)
    )
    return loss[0].tolist(), clipped[0].tolist()


# ------------------------------------------------------------------------------------------------------- weights


def test_totals_count_tokens_and_rows_that_have_any():
    assert StepTotals.of(MASK) == StepTotals(tokens=4, rows=2)
    assert StepTotals.of(torch.zeros(0, 3, dtype=torch.bool)) == StepTotals(tokens=0, rows=0)


def test_weights_by_hand():
    totals = StepTotals.of(MASK)
    rows = {a: loss_weights(MASK, a, totals, max_response_tokens=5)[:, 1:].tolist() for a in AGGREGATIONS}
    assert rows["token_mean"] == [[0.25] * 3, [0.25, 0, 0], [0] * 3]  # 1 / 4
    assert rows["sequence_mean"][0] == pytest.approx([1 / 6] * 3)  # 1 / (3 tokens * 2 rows)
    assert rows["sequence_mean"][1:] == [[0.5, 0, 0], [0] * 3]  # 1 / (1 token * 2 rows)
    assert rows["sequence_sum"][0] == pytest.approx([0.1] * 3)  # 1 / (2 rows * 5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_of_shards_are_shards_of_the_weights(aggregation):
    totals = StepTotals.of(MASK)
    whole = loss_weights(MASK, aggregation, totals, 5)
    parts = [loss_weights(MASK[i : i + 1], aggregation, totals, 5) for i in range(3)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_an_empty_mask_weighs_nothing(aggregation):
    none = torch.zeros_like(MASK)
    assert (loss_weights(none, aggregation, StepTotals.of(none), 5) == 0).all()


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_means_of_a_constant_are_the_constant(aggregation):
    assert float(loss_weights(MASK, aggregation, StepTotals.of(MASK), 5).sum()) == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------- policy loss


def test_clip_by_hand():
    loss, clipped = per_token("clip", [1.5, 1.5, 0.5, 0.5, 1.1], [2.0, -2.0, 2.0, -2.0, 2.0])
    # -min(3, 1.2 * 2), -min(-3, -2.4), -min(1, 1.6), -min(-1, -1.6), -min(2.2, 2.2)
    assert loss == pytest.approx([-2.4, 3.0, -1.0, 1.6, -2.2])
    assert clipped == [True, False, False, True, False]


def test_clip_higher_leaves_more_room_above():
    loss, clipped = per_token("clip", [1.25, 1.5], [1.0, 1.0], clip_low=0.2, clip_high=0.28)
    assert loss == pytest.approx([-1.25, -1.28])
    assert clipped == [False, True]


def test_dual_clip_bounds_the_loss_of_negative_advantages():
    loss, clipped = per_token("clip", [5.0, 2.0, 5.0], [-1.0, -1.0, 1.0], dual_clip=3.0)
    # 5 is cut to 3 * |A|; 2 stays; a positive advantage knows the upper bound 1.2 only
    assert loss == pytest.approx([3.0, 2.0, -1.2])
    assert clipped == [True, False, True]


def test_sequence_clip_uses_one_ratio_per_response():
    logprobs, old = tensor([[-1.0, -2.0, 7.0], [-1.0, -1.0, -1.0]]), tensor([[-1.1, -2.3, 0.0], [-1.0, -1.0, -1.0]])
    mask = tensor([[True, True, False], [True, True, True]])
    advantages = torch.ones(2, 3)
    loss, clipped = POLICY_LOSSES["sequence_clip"](logprobs, old, advantages, mask, PolicyLoss(clip_high=0.3))
    s = math.exp(0.2)  # mean of 0.1 and 0.3; the 7 is masked
    assert loss[0].tolist() == pytest.approx([-s] * 3)
    assert loss[1].tolist() == [-1] * 3
    tight = PolicyLoss(clip_low=3e-4, clip_high=4e-4)
    loss, clipped = POLICY_LOSSES["sequence_clip"](logprobs, old, advantages, mask, tight)
    assert loss[0, 0] == pytest.approx(-1.0004)
    assert clipped.tolist() == [[True] * 3, [False] * 3]


def test_detached_clip_keeps_the_gradient_of_clipped_tokens():
    logprobs = tensor([[math.log(3.0), math.log(1.1)]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss, clipped = POLICY_LOSSES["detached_clip"](
        logprobs, torch.zeros(1, 2), tensor([[2.0, 2.0]]), mask, PolicyLoss(clip_low=1, clip_high=0.5)
    )
    loss.sum().backward()
    assert logprobs.grad[0].tolist() == pytest.approx([-3.0, -2.2])  # -clip(ratio) * A = -1.5 * 2, -1.1 * 2
    assert clipped.tolist() == [[True, False]]


def test_reinforce_by_hand():
    loss, clipped = per_token("reinforce", [math.e, 1.0], [2.0, -3.0])
    assert loss == pytest.approx([0.0, -3.0], abs=1e-6)  # -2 * (1 - 1), 3 * (0 - 1)
    assert clipped == [False, False]


@pytest.mark.parametrize("kind", POLICY_LOSSES)
def test_at_ratio_one_the_gradient_is_the_plain_policy_gradient(kind):
    g = torch.Generator().manual_seed(0)
    logprobs = (-torch.rand(2, 3, generator=g)).requires_grad_()
    per_row = torch.randn(2, 1, generator=g).expand(2, 3)  # sequence ratios spread a row's gradient evenly
    mask = torch.ones(2, 3, dtype=torch.bool)
    loss, clipped = POLICY_LOSSES[kind](logprobs, logprobs.detach(), per_row, mask, PolicyLoss(kind=kind))
    loss.sum().backward()
    assert torch.allclose(logprobs.grad, -per_row, atol=1e-6)
    assert not clipped.any()


@pytest.mark.parametrize("kind", POLICY_LOSSES)
@pytest.mark.parametrize("extreme", [-1e30, -1e3, 1e3, 1e30])
def test_extreme_logprobs_give_finite_losses_and_gradients(kind, extreme):
    logprobs = tensor([[extreme, -1.0, -2.0]], requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    for sign in (1.0, -1.0):
        loss, _ = POLICY_LOSSES[kind](
            logprobs, tensor([[-1.0, -1.5, -2.0]]), torch.full((1, 3), sign), mask, PolicyLoss(kind=kind)
        )
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logprobs.grad.isfinite().all()


# ----------------------------------------------------------------------------------------------------- value loss


def test_value_loss_by_hand():
    values, old, returns = tensor([[1.0, 2.0, 0.5]]), tensor([[1.1, 1.0, 1.0]]), tensor([[2.0, 1.5, 0.0]])
    # (1 - 2)^2 / 2, near the old value; max((1.2 - 1.5)^2, (2 - 1.5)^2) / 2; max(0.8^2, 0.5^2) / 2
    assert value_loss(values, old, returns, clip=0.2)[0].tolist() == pytest.approx([0.5, 0.125, 0.32])


def test_value_loss_at_the_old_value_is_half_the_squared_error():
    v, returns = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.allclose(value_loss(v, v, returns, 0.2), (v - returns).square() / 2)


def test_imitation_by_hand_and_in_shares():
    """Three tokens to learn: -(-1 - 2 - 3) / 3 = 2; what lies outside the mask changes nothing."""
    logprobs, mask = tensor([[-9.0, -1, -2], [-torch.inf, -3, -9]]), tensor([[False, True, True], [False, True, False]])
    totals = StepTotals.of(mask)
    assert float(imitation(logprobs, mask, totals)) == 2
    assert float(imitation(logprobs[:1], mask[:1], totals) + imitation(logprobs[1:], mask[1:], totals)) == 2
    assert float(imitation(logprobs, mask & False, StepTotals.of(mask & False))) == 0


def test_router_shares_are_weighted_by_response_tokens():
    """Two micro-batches with 2 and 1 of 3 tokens: 2/3 * 1.5 + 1/3 * 3 = 2; one without tokens adds nothing."""
    mask = tensor([[False, True, True], [False, True, False], [False] * 3])
    totals = StepTotals.of(mask)
    shares = [router_share(tensor(loss), mask[[i]], totals) for i, loss in enumerate([1.5, 3.0, 99.0])]
    assert [float(share) for share in shares] == pytest.approx([1, 1, 0])

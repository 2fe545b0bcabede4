import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from rlhf_hydra.algos.advantages import (
    discounted_sum,
    gae,
    greedy_advantages,
    group_advantages,
    reward_to_go,
    token_rewards,
)

ALL = torch.ones(1, 4, dtype=torch.bool)
GAP = tensor([[True, True, False, False, True, True]])
GROUPING = [(b, s) for b in ("mean", "leave_one_out") for s in ("none", "std")]


def approx(values):
    return pytest.approx(values, abs=1e-6)


# ------------------------------------------------------------------------------------------------ token rewards


def test_the_score_lands_on_the_last_response_token_and_kl_on_all():
    mask = tensor([[False, True, True, False], [False, True, False, True], [False] * 4])
    kl = torch.full((3, 4), 2.0)
    r = token_rewards(tensor([1.0, 3.0, 5.0]), mask, kl, kl_coef=0.1)
    # row 0: -0.2, 1 - 0.2; row 1: -0.2, a gap, 3 - 0.2; row 2 has no response token and gets nothing
    assert r.flatten().tolist() == approx([0, -0.2, 0.8, 0, 0, -0.2, 0, 2.8, 0, 0, 0, 0])


def test_without_kl_only_the_score():
    assert token_rewards(tensor([2.0]), ALL, None, kl_coef=9).tolist() == [[0, 0, 0, 2]]


# -------------------------------------------------------------------------------------------------- gae, returns


def test_gae_golden_values():
    a, g = gae(tensor([[0.0, 0, 0, 1]]), torch.full((1, 4), 0.5), ALL, gamma=1, lam=0.95)
    # A4 = 1 - 0.5; then A_t = 0.95 * A_{t+1}, as delta_t = 0.5 - 0.5
    assert a[0].tolist() == approx([0.5 * 0.95**3, 0.5 * 0.95**2, 0.5 * 0.95, 0.5])
    assert a[0].tolist() == pytest.approx([0.429, 0.451, 0.475, 0.5], abs=5e-4)
    assert torch.allclose(g, a + 0.5)


def test_environment_tokens_do_not_decay():
    r, v = tensor([[0.0, 0, 7, 7, 0, 1]]), tensor([[0.5, 0.5, 9, 9, 0.5, 0.5]])  # 7 and 9 must not be read
    a, g = gae(r, v, GAP, gamma=1, lam=0.95)
    assert a[0].tolist() == pytest.approx([0.429, 0.451, 0, 0, 0.475, 0.5], abs=5e-4)
    assert g[0].tolist() == pytest.approx([0.929, 0.951, 0, 0, 0.975, 1], abs=5e-4)


def test_counting_environment_tokens_as_steps_of_value_zero_would_decay():
    """Golden values of the gap: delta_2 = 0 - 0.5, delta_4 = 0.5, A_2 = -0.5 + 0.95 * (0.95 * (0.5 + 0.95 * 0.475)),
    A_1 = 0.95 * A_2: what `gae` gives when it is told that the policy made these tokens."""
    r, v = tensor([[0.0, 0, 0, 0, 0, 1]]), tensor([[0.5, 0.5, 0, 0, 0.5, 0.5]])
    a, _ = gae(r, v, torch.ones(1, 6, dtype=torch.bool), gamma=1, lam=0.95)
    assert a[0, [0, 1, 4, 5]].tolist() == pytest.approx([0.341, 0.359, 0.475, 0.5], abs=5e-4)


def test_gae_by_hand_with_discount():
    a, _ = gae(tensor([[1.0, 2.0]]), tensor([[3.0, 4.0]]), ALL[:, :2], gamma=0.5, lam=0.5)
    # delta_2 = 2 - 4 = -2; delta_1 = 1 + 0.5 * 4 - 3 = 0; A_1 = 0 + 0.25 * -2
    assert a.tolist() == [[-0.5, -2.0]]


@given(st.integers(0, 9), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_the_recursion_written_as_a_loop(seed, gamma, lam):
    g = torch.Generator().manual_seed(seed)
    r, v = torch.randn(2, 3, 9, generator=g).unbind(0)
    mask = torch.rand(3, 9, generator=g) < 0.6
    advantages, _ = gae(r, v, mask, gamma, lam)
    for i in range(3):
        following, next_value = 0.0, 0.0
        for t in reversed(mask[i].nonzero().flatten().tolist()):
            following = float(r[i, t]) + gamma * next_value - float(v[i, t]) + gamma * lam * following
            next_value = float(v[i, t])
            assert float(advantages[i, t]) == pytest.approx(following, abs=1e-4)


def test_lambda_one_is_return_minus_value_and_lambda_zero_one_step():
    r, v = torch.randn(2, 2, 6).unbind(0)
    mask = torch.ones(2, 6, dtype=torch.bool)
    full, _ = gae(r, v, mask, gamma=0.9, lam=1)
    assert torch.allclose(full, reward_to_go(r, mask, 0.9) - v, atol=1e-5)
    one, _ = gae(r, v, mask, gamma=0.9, lam=0)
    assert torch.allclose(one, r + 0.9 * torch.nn.functional.pad(v[:, 1:], (0, 1)) - v, atol=1e-6)


def test_reward_to_go_by_hand_skips_gaps():
    # 1 + 0.5 * (2 + 0.5 * (0 + 0.5 * 4)) = 2.5, 3, gap, gap, 2, 4
    assert reward_to_go(tensor([[1.0, 2, 99, 99, 0, 4]]), GAP, 0.5).tolist() == [[2.5, 3, 0, 0, 2, 4]]


def test_rows_without_response_tokens_stay_zero():
    none = torch.zeros(2, 3, dtype=torch.bool)
    a, g = gae(torch.ones(2, 3), torch.ones(2, 3), none, 1, 1)
    assert (a == 0).all()
    assert (g == 0).all()
    assert (reward_to_go(torch.ones(2, 3), none, 1) == 0).all()


def test_more_padding_changes_nothing():
    r, v, mask = torch.randn(3, 5), torch.randn(3, 5), torch.rand(3, 5) < 0.7
    wide = [torch.nn.functional.pad(x, (0, 11)) for x in (r, v, mask)]
    for narrow, padded in zip(gae(r, v, mask, 0.9, 0.8), gae(*wide, gamma=0.9, lam=0.8), strict=True):
        assert torch.equal(padded[:, :5], narrow)


@pytest.mark.parametrize("width", [0, 1, 2, 5, 8])
def test_discounted_sum_at_the_ends_of_its_range(width):
    x = torch.randn(2, width)
    assert torch.equal(discounted_sum(x, 0.0), x)
    assert torch.allclose(discounted_sum(x, 1.0), x.flip(1).cumsum(1).flip(1), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- group


def test_group_baselines_by_hand():
    rewards, group, valid = tensor([1.0, 0.0, 0.0, 5.0, 7.0]), tensor([3, 3, 3, 1, 1]), torch.ones(5, dtype=torch.bool)
    mean = group_advantages(rewards, group, valid, "mean", "none")
    assert mean.tolist() == approx([2 / 3, -1 / 3, -1 / 3, -1, 1])  # means 1/3 and 6
    others = group_advantages(rewards, group, valid, "leave_one_out", "none")
    assert others.tolist() == approx([1, -0.5, -0.5, -2, 2])  # 1 - 0, 0 - 1/2, 5 - 7
    z = group_advantages(rewards, group, valid, "mean", "std")
    s = (1 / 3) ** 0.5  # sqrt((4/9 + 1/9 + 1/9) / 2); the second group's is sqrt(2)
    assert z.tolist() == approx([2 / 3 / s, -1 / 3 / s, -1 / 3 / s, -(0.5**0.5), 0.5**0.5])


@pytest.mark.parametrize(("baseline", "scale"), GROUPING)
def test_rows_without_trainable_tokens_count_in_no_statistic(baseline, scale):
    rewards, group = tensor([1.0, 0.0, 100.0, 2.0, -9.0]), tensor([0, 0, 0, 1, 1])
    got = group_advantages(rewards, group, tensor([True, True, False, True, False]), baseline, scale)
    alone = group_advantages(rewards[:2], group[:2], tensor([True, True]), baseline, scale)
    assert got.tolist() == [*alone.tolist(), 0, 0, 0]  # row 3 is alone among the valid ones: nothing to compare with


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, -7.3, 1e6])
@pytest.mark.parametrize("n", [2, 3, 7])
@pytest.mark.parametrize(("baseline", "scale"), GROUPING)
def test_equal_rewards_give_nothing(value, n, baseline, scale):
    got = group_advantages(
        torch.full((n,), value), torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.bool), baseline, scale
    )
    assert got.abs().max() < 1e-6


rewards_strategy = st.lists(st.integers(-8, 8).map(lambda i: i / 4), min_size=4, max_size=12)


@given(rewards_strategy, st.integers(-20, 20))
def test_shifting_rewards_changes_no_group_advantage(values, shift):
    rewards, group, valid = _grouped(values)
    for baseline, scale in GROUPING:
        before = group_advantages(rewards, group, valid, baseline, scale)
        assert torch.allclose(group_advantages(rewards + shift, group, valid, baseline, scale), before, atol=1e-5)


@given(rewards_strategy, st.floats(0.01, 100))
def test_scaling_rewards_changes_no_z_score(values, factor):
    rewards, group, valid = _grouped(values)
    before = group_advantages(rewards, group, valid, "mean", "std")
    assert torch.allclose(group_advantages(rewards * factor, group, valid, "mean", "std"), before, atol=1e-4)


@given(rewards_strategy, st.randoms(use_true_random=False))
def test_permuting_rows_permutes_the_advantages(values, random):
    rewards, group, valid = _grouped(values)
    order = tensor(random.sample(range(len(values)), len(values)))
    for baseline, scale in GROUPING:
        before = group_advantages(rewards, group, valid, baseline, scale)
        after = group_advantages(rewards[order], group[order], valid[order], baseline, scale)
        assert torch.allclose(after, before[order], atol=1e-6)


@given(rewards_strategy)
def test_advantages_of_a_group_sum_to_zero(values):
    rewards, group, valid = _grouped(values)
    for baseline, scale in GROUPING:
        assert abs(float(group_advantages(rewards, group, valid, baseline, scale)[group == 0].sum())) < 1e-4


def _grouped(values):
    return tensor(values), torch.arange(len(values)) % 2, torch.ones(len(values), dtype=torch.bool)


def test_greedy_baseline():
    got = greedy_advantages(tensor([1.0, 0.0, 5.0]), tensor([0.5, 0.5, 0.5]), tensor([True, True, False]))
    assert got.tolist() == [0.5, -0.5, 0]

import math

import pytest
import torch
from torch import tensor

from rlhf_hydra.algos.kl import ESTIMATORS, KLController, kl_estimate
from rlhf_hydra.config.schema import KL


@pytest.mark.parametrize(
    ("estimator", "d", "expected"),
    [
        ("k1", -0.5, -0.5),
        ("k2", -0.5, 0.125),  # 0.25 / 2
        ("k3", -0.5, math.exp(0.5) - 1.5),
        ("k3", 0.5, math.exp(-0.5) - 0.5),
        ("abs", -0.5, 0.5),
        ("k1", 30.0, 10.0),  # clamped
        ("k1", -30.0, -10.0),
        ("k2", 30.0, 10.0),
        ("k3", -30.0, 10.0),
    ],
)
def test_estimators_by_hand(estimator, d, expected):
    assert float(kl_estimate(tensor(d - 1), tensor(-1.0), estimator, clamp=10)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_logprobs_are_at_distance_zero(estimator):
    x = torch.randn(3, 4)
    assert (kl_estimate(x, x, estimator, 10) == 0).all()


def test_k1_and_k3_are_unbiased():
    p, q = tensor([0.5, 0.3, 0.2]), tensor([0.2, 0.2, 0.6])
    exact = (p * (p / q).log()).sum()
    for estimator in ("k1", "k3"):  # the expectation under p, in closed form
        assert torch.isclose((p * kl_estimate(p.log(), q.log(), estimator, 10)).sum(), exact)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("extreme", [-1e30, -1e4, -200.0, 200.0, 1e4, 1e30, -math.inf])
def test_extreme_logprobs_give_finite_values_and_gradients(estimator, extreme):
    logprobs = tensor([extreme, -1.0], requires_grad=True)
    kl = kl_estimate(logprobs, tensor([-1.0, -1.1]), estimator, 10)
    kl.sum().backward()
    assert kl.isfinite().all()
    assert logprobs.grad.isfinite().all()


def test_k2_as_a_loss_pulls_like_k1_in_the_reward():
    """d/dlogp of k2 is d itself: the weight that k1 in the reward gives to the score function."""
    logprobs = tensor([-1.0, -2.0], requires_grad=True)
    kl_estimate(logprobs, tensor([-1.5, -1.2]), "k2", 10).sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([0.5, -0.8])


def test_a_fixed_coefficient_stays():
    controller = KLController(KL(coef=0.01))
    controller.update(measured=5.0, num_samples=10**6)
    assert controller.coef == 0.01


def test_adaptive_controller_golden_value():
    controller = KLController(KL(coef=0.01, controller="adaptive", target=0.1, horizon=10_000))
    controller.update(measured=1.0, num_samples=1024)
    assert controller.coef == pytest.approx(0.0102048)  # e = clip(9) = 0.2; 0.01 * (1 + 0.2 * 1024 / 10000)


def test_adaptive_controller_moves_both_ways_and_never_turns_negative():
    controller = KLController(KL(coef=0.01, controller="adaptive", target=0.1, horizon=10))
    controller.update(measured=0.09, num_samples=5)
    assert controller.coef == pytest.approx(0.0095)  # e = -0.1; 0.01 * (1 - 0.1 * 5 / 10)
    for _ in range(50):
        controller.update(measured=-3.0, num_samples=10**6)
    assert controller.coef > 0
    before = controller.coef
    controller.update(measured=math.nan, num_samples=10)
    assert controller.coef == before


def test_controller_state_goes_on_where_it_stopped():
    cfg = KL(coef=0.01, controller="adaptive")
    first, second = KLController(cfg), KLController(cfg)
    first.update(1.0, 512)
    second.load_state(first.state())
    first.update(0.01, 512)
    second.update(0.01, 512)
    assert first.coef == second.coef

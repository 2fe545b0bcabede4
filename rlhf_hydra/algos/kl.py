"""How far the policy is from the reference, and how much that costs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rlhf_hydra.config.schema import KL

ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.exp(-d.clamp(min=-20)) - 1 + d,
    "abs": lambda d: d.abs(),
}


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str, clamp: float) -> Tensor:
    """Per-token estimate of KL(policy || reference) from d = logp - ref_logp, for tokens sampled by the policy.

    k1: d, unbiased, may be negative. k2: d^2 / 2. k3: exp(-d) - 1 + d, unbiased and never negative. abs: |d|.
    Source: Schulman, "Approximating KL divergence" (2020). Any shape -> the same shape. The result is clamped to
    [-clamp, clamp] and carries no gradient beyond; d itself is held in [-1e4, 1e4], so that gradients stay finite.
    """
    d = (logprobs - ref_logprobs).clamp(-1e4, 1e4)
    return ESTIMATORS[estimator](d).clamp(-clamp, clamp)


class KLController:
    """The KL coefficient: fixed, or moved towards a target KL (Ziegler et al., arXiv 1909.08593, section 2.2).

    e = clip(measured / target - 1, -0.2, 0.2);  coef <- coef * (1 + e * min(1, num_samples / horizon))

    The `min` is ours: with more samples in a step than five horizons the factor could turn negative. A measurement
    that is not finite moves nothing.
    """

    def __init__(self, cfg: KL) -> None:
        self.cfg = cfg
        self.coef = cfg.coef

    def update(self, measured: float, num_samples: int) -> None:
        """Once per step, with the step's mean KL per token and its number of responses."""
        if self.cfg.controller == "fixed" or not math.isfinite(measured):
            return
        error = min(max(measured / self.cfg.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * min(1.0, num_samples / self.cfg.horizon)

    def state(self) -> dict[str, float]:
        return {"coef": self.coef}

    def load_state(self, state: dict[str, float]) -> None:
        self.coef = state["coef"]

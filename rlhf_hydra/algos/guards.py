"""When a run must not just go on."""

import math
from collections.abc import Iterator, Mapping

from rlhf_hydra.config.schema import Guard


class Watch:
    """Reads a run's metrics step by step, and says what is wrong with them. Its state belongs to the run.

    Optimizer steps that were skipped since loss or gradient was not finite are counted in a row: over a whole step of
    the run they add up, and a step in which some were taken begins anew with those that were not.
    """

    def __init__(self, cfg: Guard) -> None:
        self.cfg = cfg
        self.skips, self.best = 0, -math.inf

    def skipped_too_often(self, metrics: Mapping[str, float]) -> str | None:
        """Once a step: what to say when `max_skips` is reached."""
        skipped = int(metrics.get("policy/skipped", 0))
        whole = 0 < skipped == metrics.get("policy/updates")
        self.skips = self.skips + skipped if whole else skipped
        if self.skips < self.cfg.max_skips:
            return None
        return f"{self.skips} optimizer steps in a row had a loss or gradient that is not finite (guard.max_skips)"

    def limits(self, metrics: Mapping[str, float]) -> Iterator[str]:
        """Once a step: the limits that it breaks. Metrics that a step lacks break none."""
        kl, entropy = metrics.get("policy/kl", 0.0), metrics.get("policy/entropy", math.inf)
        reward = metrics.get("reward/mean", math.inf)
        if self.cfg.kl_max is not None and kl > self.cfg.kl_max:
            yield f"policy/kl is {kl:.3g}, above guard.kl_max={self.cfg.kl_max:g}"
        if self.cfg.entropy_min is not None and entropy < self.cfg.entropy_min:
            yield f"policy/entropy is {entropy:.3g}, below guard.entropy_min={self.cfg.entropy_min:g}"
        if self.cfg.reward_drop is not None and reward < self.best - self.cfg.reward_drop:
            drop = f"guard.reward_drop={self.cfg.reward_drop:g}"
            yield f"reward/mean is {reward:.3g}, more than {drop} below its best, {self.best:.3g}"
        if math.isfinite(reward):
            self.best = max(self.best, reward)

    def state(self) -> dict[str, float | None]:
        return {"skips": self.skips, "best": self.best if math.isfinite(self.best) else None}

    def load_state(self, state: dict[str, float | None]) -> None:
        best = state["best"]
        self.skips, self.best = int(state["skips"] or 0), -math.inf if best is None else best

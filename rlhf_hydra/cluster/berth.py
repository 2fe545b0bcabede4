"""Berths: places on a Ray cluster that trials of a sweep pass on, with the engines that the first of them has loaded.

A berth is a placement group which the sweep's process has reserved and names to a trial in its environment. The trial's
workers take their seats in it; when the trial ends all leave but the engines. The group ends with the sweep's process,
however that ends, and with the group every actor in it.
"""

from dataclasses import dataclass, replace

from rlhf_hydra.config.layout import RoleLayout, layout
from rlhf_hydra.config.schema import Engine, RunConfig

VARIABLE = "RLHF_HYDRA_BERTH"
"""Environment variable of a trial: the name of its berth."""

ENGINE = "engine"
"""The role that stays."""


@dataclass(frozen=True)
class EngineSpec:
    """All that decides an engine but its weights and its seat. What else `rollout` says goes with each request."""

    path: str
    hub: str
    revision: str | None
    trust_remote_code: bool
    settings: Engine
    room_tokens: int
    """Longest sequence: what a prompt and its response may take, the model's context at most."""

    @staticmethod
    def of(run: RunConfig) -> "EngineSpec":
        model, asked = run.model, run.rollout.max_prompt_tokens + run.rollout.max_response_tokens
        return EngineSpec(
            model.path,
            model.hub,
            model.revision,
            model.trust_remote_code,
            replace(run.engine, parity_tolerance=None),  # the driver's, which compares
            min(model.context_tokens, asked),
        )


@dataclass(frozen=True)
class Fit:
    """What two runs must have in common for one to follow the other in a berth."""

    engine: EngineSpec
    seats: dict[str, RoleLayout]
    cpus_per_worker: float

    @staticmethod
    def of(run: RunConfig) -> "Fit | None":
        """None: the run has no engine that could stay."""
        seats = layout(run)
        if run.cluster.backend != "ray" or ENGINE not in seats:
            return None
        return Fit(EngineSpec.of(run), seats, run.cluster.cpus_per_worker)

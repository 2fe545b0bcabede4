"""Which roles a run has, how many workers each, on which GPUs. Pure: read by the checks and the placement."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from rlhf_hydra.config.schema import (
    GAE,
    RL,
    CompositeReward,
    Data,
    ModelReward,
    Reward,
    RuleReward,
    RunConfig,
    Seat,
    Trained,
)

TRAINED = ("policy", "critic")

UNREAD = (
    *("rollout", "engine", "critic", "reward"),
    *(f"guard.{name}" for name in ("kl_max", "entropy_min", "reward_drop", "action")),
    *(f"eval.{name}" for name in ("reward", "source_column", "samples_per_prompt", "temperature", "top_p")),
    *(f"eval.{name}" for name in ("k", "correct_at")),
    *(f"cluster.placement.{name}" for name in ("critic", "reference", "reward", "engine")),
)
"""What supervised runs do not read: they have one role, and neither sample nor score."""


@dataclass(frozen=True)
class RoleLayout:
    workers: int
    gpus: tuple[tuple[int, ...], ...]
    """GPUs of each worker, numbered over the whole cluster; empty tuples on a CPU."""

    @property
    def all_gpus(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(self.gpus))


def needs_critic(run: RunConfig) -> bool:
    return isinstance(run.algo, RL) and isinstance(run.algo.advantage, GAE)


def needs_reference(run: RunConfig) -> bool:
    return isinstance(run.algo, RL) and run.algo.kl.coef > 0


def unread_parts(run: RunConfig) -> tuple[str, ...]:
    """Sections and keys that the run does not read."""
    if isinstance(run.algo, RL):
        return () if needs_critic(run) else ("critic",)
    return UNREAD


def is_own_reference(run: RunConfig) -> bool:
    """A policy with adapters is the reference too, once they are off; not of a reference that moves or is another."""
    reference = run.reference
    moves = reference.refresh_every > 0 or reference.ema is not None
    return needs_reference(run) and run.policy.lora.rank > 0 and reference.path is None and not moves


def reward_parts(reward: Reward) -> Iterator[Reward]:
    """The rewards that are computed: a composite's parts, or the reward itself."""
    if isinstance(reward, CompositeReward):
        for part in reward.parts.values():
            yield from reward_parts(part)
    else:
        yield reward


def eval_data(run: RunConfig) -> Data:
    """Where the prompts of an evaluation come from."""
    data = run.eval.data or run.data
    return replace(data, limit=run.eval.limit or data.limit)


def eval_reward(run: RunConfig) -> Reward:
    """What judges an evaluation; a training rule that is the data's own gives way to that of `eval.data`."""
    if run.eval.reward is not None:
        return run.eval.reward
    if run.eval.data is not None and isinstance(run.reward, RuleReward) and run.reward.rule == run.data.rule:
        return replace(run.reward, rule=run.eval.data.rule)
    return run.reward


def has_reward_model(run: RunConfig) -> bool:
    rewards = [run.reward, eval_reward(run)] if run.eval.every else [run.reward]
    return any(isinstance(part, ModelReward) for reward in rewards for part in reward_parts(reward))


def roles(run: RunConfig) -> list[str]:
    """The roles that this run uses, in the order in which the loop meets them."""
    if not isinstance(run.algo, RL):
        return ["policy"]
    optional = {"critic": needs_critic(run), "reference": needs_reference(run) and not is_own_reference(run)}
    return [role for role in ("engine", "reward", "reference", "critic", "policy") if optional.get(role, True)]


def seat(run: RunConfig, role: str) -> Seat:
    placement = run.cluster.placement
    seats = {"policy": placement.policy, "critic": placement.critic, "reference": placement.reference}
    return {**seats, "reward": placement.reward, "engine": placement.engine}[role]


def trained(run: RunConfig, role: str) -> Trained:
    """The section of a role of `TRAINED`."""
    return run.policy if role == "policy" else run.critic


def gpu_numbers(text: str | None) -> tuple[int, ...]:
    """`0-2` -> (0, 1, 2); `0,2,4-5` -> (0, 2, 4, 5); null -> ().

    Raises:
        ValueError: another form, a range that runs backwards, or a GPU named twice.
    """
    if text is None:
        return ()
    numbers: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", item)
        if match is None:
            raise ValueError(f"'{text}' is not a list of GPUs such as 0-7 or 0,2,4-5")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {first}-{last} runs backwards")
        numbers.extend(range(first, last + 1))
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"'{text}' names a GPU twice")
    return tuple(numbers)


def role_layout(run: RunConfig, role: str) -> RoleLayout:
    """One worker per GPU; `engine.tensor_parallel` of them per engine; rewards that are no model need none."""
    place = seat(run, role)
    gpus = gpu_numbers(place.gpus) if role != "reward" or has_reward_model(run) else ()
    size = run.engine.tensor_parallel if role == "engine" else 1
    if not gpus:
        return RoleLayout(place.workers, ((),) * place.workers)
    if size < 1 or len(gpus) % size:
        raise ValueError(f"engine.tensor_parallel={size} does not divide the {len(gpus)} GPUs of the engine")
    groups = tuple(gpus[start : start + size] for start in range(0, len(gpus), size))
    return RoleLayout(len(groups), groups)


def layout(run: RunConfig) -> dict[str, RoleLayout]:
    """Every role that the run uses.

    Raises:
        ValueError: a seat cannot be read, or the engine's GPUs cannot be shared out; `check` says so first.
    """
    return {role: role_layout(run, role) for role in roles(run)}

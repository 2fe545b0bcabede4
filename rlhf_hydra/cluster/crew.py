"""All roles of a run: who is there, where they sit, and how they are started, saved and sent home."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from rlhf_hydra.algos.table import Algorithm
from rlhf_hydra.cluster.berth import ENGINE, EngineSpec
from rlhf_hydra.cluster.group import Factory, Group, LocalGroup
from rlhf_hydra.cluster.roles import Engines, Learner, Rewards, TokenModel, Unadapted
from rlhf_hydra.config.layout import RoleLayout, is_own_reference, layout
from rlhf_hydra.config.schema import RunConfig
from rlhf_hydra.models.hub import resolve
from rlhf_hydra.strategy.base import Rank
from rlhf_hydra.workers.critic import CriticWorker
from rlhf_hydra.workers.engine.base import EngineWorker, build_engine
from rlhf_hydra.workers.policy import PolicyWorker, ReferenceWorker, StartWorker
from rlhf_hydra.workers.reward import RewardWorker
from rlhf_hydra.workers.supervised import LearnerWorker

Note = Callable[[str], None]
"""Takes a line for people."""


@dataclass
class Crew:
    """The roles of one run. `reference` and `critic` are there when the algorithm uses them."""

    engine: Engines
    policy: TokenModel
    reward: Rewards
    reference: TokenModel | None = None
    critic: TokenModel | None = None
    critic_shares_gpus: bool = False
    reference_moves: bool = False

    def trained(self) -> dict[str, Group]:
        """The roles whose weights change."""
        moving = self.reference if self.reference_moves else None
        roles = {"policy": self.policy, "critic": self.critic, "reference": moving}
        return {name: role.group for name, role in roles.items() if role is not None}

    def save(self, folder: Path) -> None:
        """The state of every role that learns; `load` is its inverse."""
        for pending in [group.all("save", folder / name) for name, group in self.trained().items()]:
            pending.get()

    def load(self, folder: Path) -> None:
        for pending in [group.all("load", folder / name) for name, group in self.trained().items()]:
            pending.get()

    def export(self, folder: Path) -> None:
        """The policy as a Hugging Face folder."""
        self.policy.group.all("export", folder).get()


@contextmanager
def start_crew(run: RunConfig, algorithm: Algorithm, folder: str, note: Note) -> Iterator[Crew]:
    """Start all roles, and end them on every way out. `folder`: the policy's model; `note` hears how far it is."""
    with started(run, recipes(run, algorithm, folder), note) as groups:
        yield assemble(run, groups)


@contextmanager
def start_learner(run: RunConfig, unit: int, folder: str, note: Note) -> Iterator[Learner]:
    """The only role of a supervised run. `unit`: rows that stay together; `folder`: the model to start from."""
    with started(run, {"policy": partial(LearnerWorker, run, folder)}, note) as groups:
        yield Learner(groups["policy"], run.policy.tokens_per_microbatch, unit)


@contextmanager
def start_reference(run: RunConfig, folder: str, note: Note) -> Iterator[TokenModel]:
    """A model that is only read, on the policy's seats, before the policy takes them."""
    kind = ReferenceWorker if run.reference.path else StartWorker
    with started(run, {"policy": partial(kind, run, folder)}, note) as groups:
        yield TokenModel(groups["policy"], run.policy.tokens_per_microbatch)


@contextmanager
def started(run: RunConfig, factories: dict[str, Factory], note: Note) -> Iterator[dict[str, Group]]:
    """The groups of these roles, in this process or over Ray, ended on every way out."""
    if run.cluster.backend == "ray":
        with ray_groups(run, factories, note) as over_ray:
            yield over_ray
        return
    seats = layout(run)
    groups: dict[str, Group] = {role: LocalGroup(role, make, seats[role].workers) for role, make in factories.items()}
    try:
        yield groups
    finally:
        for group in groups.values():
            group.close()


def recipes(run: RunConfig, algorithm: Algorithm, folder: str) -> dict[str, Factory]:
    """How to make a worker of each role; roles that nothing uses are not there."""
    roles: dict[str, Factory] = {
        ENGINE: partial(make_engine, EngineSpec.of(run), folder),
        "policy": partial(PolicyWorker, run, folder),
        "reward": partial(RewardWorker, run, folder),
    }
    if algorithm.needs_reference and not is_own_reference(run):
        other = resolve(run.reference.path, run.model.hub, key="reference.path") if run.reference.path else folder
        roles["reference"] = partial(ReferenceWorker, run, other)
    if algorithm.needs_critic:
        start = resolve(run.critic.path, run.model.hub, key="critic.path") if run.critic.path else folder
        roles["critic"] = partial(CriticWorker, run, start)
    return roles


def make_engine(spec: EngineSpec, folder: str, rank: Rank) -> EngineWorker:
    """From nothing but `spec`: engines of equal specs stand in for each other."""
    device, trust = "cuda" if torch.cuda.is_available() else "cpu", spec.trust_remote_code
    return build_engine(folder, spec.settings, spec.room_tokens, device=device, trust_remote_code=trust)


def assemble(run: RunConfig, groups: dict[str, Group]) -> Crew:
    def model(role: str, budget: int) -> TokenModel | None:
        return TokenModel(groups[role], budget) if role in groups else None

    budget = run.policy.tokens_per_microbatch
    own = Unadapted(groups["policy"], budget) if is_own_reference(run) else None
    return Crew(
        engine=Engines(groups["engine"]),
        policy=TokenModel(groups["policy"], budget),
        reward=Rewards(groups["reward"]),
        reference=own or model("reference", budget),
        critic=model("critic", run.critic.tokens_per_microbatch),
        critic_shares_gpus="critic" in groups and overlap(layout(run), "critic", "policy"),
        reference_moves=run.reference.refresh_every > 0 or run.reference.ema is not None,
    )


def overlap(seats: dict[str, RoleLayout], one: str, other: str) -> bool:
    """Whether two roles sit on a GPU together."""
    return bool(set(seats[one].all_gpus) & set(seats[other].all_gpus))


@contextmanager
def ray_groups(run: RunConfig, factories: dict[str, Factory], note: Note) -> Iterator[dict[str, Group]]:
    """All roles as actors of one placement group; they load side by side."""
    from rlhf_hydra.cluster.ray_group import Bundles, RayGroup, connected

    with connected(run), closing(Bundles(run)) as bundles, ExitStack() as started:
        note(f"starting {', '.join(factories)}")
        start, groups = time.monotonic(), {}
        for role, make in factories.items():
            groups[role] = RayGroup(role, make, layout(run)[role], bundles)
            started.callback(groups[role].close)
        for role, group in groups.items():
            stayed, took = all(group.ready.get()), time.monotonic() - start
            note(f"{role} taken over, ready after {took:.1f} s" if stayed else f"{role} ready after {took:.0f} s")
        yield dict(groups)

"""The models that are read, beside the policy's own."""

from collections.abc import Iterator

from omegaconf import MISSING

from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.rules.files import is_absent, no_such_file
from rlhf_hydra.config.rules.reward import named_rewards
from rlhf_hydra.config.schema import DPO, KD, KTO, ModelReward, RunConfig


def model_folder(run: RunConfig) -> Iterator[Problem]:
    rewards = [(key, part.path) for key, part in named_rewards(run) if isinstance(part, ModelReward)]
    for key, path in [
        ("model", run.model.path),
        ("critic", run.critic.path),
        ("reference", run.reference.path),
        *rewards,
    ]:
        if path and path != MISSING and is_absent(run, path):
            yield no_such_file(f"{key}.path", path)


def teacher(run: RunConfig) -> Iterator[Problem]:
    if isinstance(run.algo, KD) and is_absent(run, run.algo.teacher.path):
        yield no_such_file("algo.teacher.path", run.algo.teacher.path)


def fixed_reference(run: RunConfig) -> Iterator[Problem]:
    """A reference is asked once, before the first step; most objectives have none."""
    path = run.reference.path
    if path is not None and not isinstance(run.algo, DPO | KTO):
        yield Problem("", "reference.path", f"algo={run.algo.name} has no reference", "Drop it.")
    elif path is not None and is_absent(run, path):
        yield no_such_file("reference.path", path)
    for name, used in (("ema", run.reference.ema is not None), ("refresh_every", run.reference.refresh_every > 0)):
        if used:
            yield Problem("", f"reference.{name}", "without sampling, the reference never changes", "Drop it.")

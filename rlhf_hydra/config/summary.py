"""A sound run in a few lines: its choices, how its batches come about, and who sits where."""

from rlhf_hydra.config.arithmetic import samples_per_step, updates_per_step
from rlhf_hydra.config.layout import TRAINED, RoleLayout, layout
from rlhf_hydra.config.schema import RL, RunConfig, Supervised


def summary(run: RunConfig) -> str:
    choices = f"algo={run.algo.name} model={run.model.name} cluster={run.cluster.name} data={run.data.name}"
    if isinstance(run.algo, RL):
        choices += f" reward={run.reward.name}"
    lines = [f"ok  {choices}", f"    {batches(run)}"]
    lines += [f"    {role:<9} {describe(run, role, place)}" for role, place in layout(run).items()]
    return "\n".join(lines)


def batches(run: RunConfig) -> str:
    if isinstance(run.algo, Supervised):
        epochs = run.algo.epochs
        how_long = f"{run.steps} steps" if run.steps else f"{epochs} pass{'es' * (epochs > 1)} over the data in steps"
        return f"{how_long} of {run.policy.samples_per_update} examples"
    prompts, samples = run.rollout.prompts_per_step, run.rollout.samples_per_prompt
    return f"{run.steps} steps of {prompts} prompts x {samples} samples = {samples_per_step(run)} responses"


def describe(run: RunConfig, role: str, place: RoleLayout) -> str:
    """Workers and devices of a role, and the updates of one that learns."""
    gpus = place.all_gpus
    where = f"on GPUs {min(gpus)}-{max(gpus)}" if gpus else "on the CPU"
    if gpus and len(gpus) > place.workers:
        where += f", {len(gpus) // place.workers} each"
    words = f"{place.workers} worker{'s' * (place.workers > 1)} {where}"
    if role == "engine":
        return f"{words} ({run.engine.name}, {run.engine.dtype})"
    if role not in TRAINED:
        return words
    if isinstance(run.algo, Supervised):
        return f"{words} ({run.strategy.name})"
    size = (run.policy if role == "policy" else run.critic).samples_per_update
    updates = updates_per_step(run, size)
    return f"{words} ({run.strategy.name}), {updates} update{'s' * (updates > 1)} of {size} responses a step"

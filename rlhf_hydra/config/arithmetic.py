"""What follows from a run's numbers."""

from rlhf_hydra.config.schema import GAE, RunConfig


def samples_per_step(run: RunConfig) -> int:
    """Responses of one pass of the loop: prompts_per_step * samples_per_prompt."""
    return run.rollout.prompts_per_step * run.rollout.samples_per_prompt


def updates_per_step(run: RunConfig, samples_per_update: int) -> int:
    """Optimizer steps of one pass of the loop: epochs * samples / samples_per_update."""
    return run.rl.epochs * (samples_per_step(run) // samples_per_update)


def warmup_steps(run: RunConfig) -> int:
    """First steps in which only the critic learns; none without a critic."""
    return run.critic.warmup_steps if isinstance(run.rl.advantage, GAE) else 0


def policy_learns(run: RunConfig, step: int) -> bool:
    """Whether the policy makes updates in this step, counted from 1."""
    return step > warmup_steps(run)


def texts_per_step(run: RunConfig, step: int) -> int:
    """Given texts of one pass of the loop, `algo.ptx`; 0 in the critic's warm-up and without a mix."""
    if run.rl.ptx.coef == 0 or not policy_learns(run, step):
        return 0
    return run.rl.ptx.samples_per_update * updates_per_step(run, run.policy.samples_per_update)


def parity_tolerance(run: RunConfig) -> float:
    """`engine.parity_tolerance`, or what the types of engine and policy allow."""
    exact = run.engine.dtype == run.strategy.dtype == "float32"
    return run.engine.parity_tolerance or (0.001 if exact else 0.05)

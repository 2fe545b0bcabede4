"""Batch sizes and what follows from them."""

from rlhf_hydra.config.schema import RunConfig


def samples_per_step(run: RunConfig) -> int:
    """Responses of one pass of the loop: prompts_per_step * samples_per_prompt."""
    return run.rollout.prompts_per_step * run.rollout.samples_per_prompt


def updates_per_step(run: RunConfig, samples_per_update: int) -> int:
    """Optimizer steps of one pass of the loop: epochs * samples / samples_per_update."""
    return run.algo.epochs * (samples_per_step(run) // samples_per_update)

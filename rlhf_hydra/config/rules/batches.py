"""How many responses, of how many tokens, in how many parts."""

from collections.abc import Iterator

from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.layout import TRAINED, roles, trained
from rlhf_hydra.config.rules.placement import known_layout
from rlhf_hydra.config.schema import RunConfig, Supervised


def batch_divides(run: RunConfig) -> Iterator[Problem]:
    """A step's responses fill a whole number of updates."""
    prompts, samples = run.rollout.prompts_per_step, run.rollout.samples_per_prompt
    total = prompts * samples
    for role in (role for role in TRAINED if role in roles(run)):
        if total % trained(run, role).samples_per_update:
            says = (
                f"{prompts} prompts_per_step x {samples} samples_per_prompt = {total} responses are no multiple of it"
            )
            near = nearest_divisors(total, trained(run, role).samples_per_update)
            yield Problem("", f"{role}.samples_per_update", says, f"Set it to {' or '.join(map(str, near))}.")


def nearest_divisors(total: int, size: int) -> list[int]:
    return sorted(sorted((n for n in range(1, total + 1) if total % n == 0), key=lambda n: abs(n - size))[:3])


def batch_covers_workers(run: RunConfig) -> Iterator[Problem]:
    for role, place in known_layout(run).items():
        if role in TRAINED and trained(run, role).samples_per_update < place.workers:
            says = f"leaves some of the {place.workers} workers of the {role} without a response"
            yield Problem("", f"{role}.samples_per_update", says, f"Set it to {place.workers} or a multiple.")


def context(run: RunConfig) -> Iterator[Problem]:
    prompt, response = run.rollout.max_prompt_tokens, run.rollout.max_response_tokens
    if prompt + response > run.model.context_tokens:
        total = f"{prompt} max_prompt_tokens + {response} = {prompt + response} tokens"
        says = f"{total}, and model={run.model.name} reads {run.model.context_tokens}"
        room = run.model.context_tokens - prompt
        fix = f"Set it to at most {room}." if room > 0 else "Lower rollout.max_prompt_tokens too."
        yield Problem("", "rollout.max_response_tokens", says, fix)


def response_lengths(run: RunConfig) -> Iterator[Problem]:
    if run.rollout.min_response_tokens > run.rollout.max_response_tokens:
        says = f"is more than max_response_tokens={run.rollout.max_response_tokens}"
        yield Problem("", "rollout.min_response_tokens", says, "Lower it.")


def some_steps(run: RunConfig) -> Iterator[Problem]:
    if run.steps == 0:
        yield Problem("", "steps", f"must be at least 1: algo={run.algo.name} does as many steps", "Set it above 0.")


def passes(run: RunConfig) -> Iterator[Problem]:
    """A run that learns from given texts ends after so many steps, or after so many passes."""
    if run.steps > 0 and run.supervised.epochs != Supervised.epochs:
        says = f"plays no role, since steps={run.steps} says when the run ends"
        yield Problem("", "algo.epochs", says, "Set steps=0, or drop it.")

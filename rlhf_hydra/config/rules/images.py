"""Images are read by some models only."""

from collections.abc import Iterator

from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.rules.data import named_data, named_sources, whole_data
from rlhf_hydra.config.rules.placement import known_layout
from rlhf_hydra.config.rules.reward import named_rewards
from rlhf_hydra.config.schema import GAE, KD, PRM, RL, RM, Data, ModelReward, RunConfig


def images(run: RunConfig) -> Iterator[Problem]:
    """Images are written by the chat template, for models that read them: in no run with one that reads text alone."""
    for key, data in named_data(run):
        if data.images_column is not None:
            if not data.chat:
                says = "only a chat template says how a model is shown an image"
                yield Problem("", f"{key}.images_column", says, f"Set {key}.chat=true.")
            for says, fix in blind(run):
                yield Problem("", f"{key}.images_column", says, fix)
    for key, data in whole_data(run):
        yield from mixed_images(run, key, data)


def blind(run: RunConfig) -> Iterator[tuple[str, str]]:
    """What in the run reads text alone, and the way out."""
    if run.model.path == "builtin:tiny":
        yield "model=tiny reads letters", "Take a model with eyes, such as model=qwen2.5-vl-7b."
    if isinstance(run.algo, RM | PRM | KD):
        yield f"algo={run.algo.name} learns from text alone", "Set it to null, or take algo=sft or algo=dpo."
    if isinstance(run.algo, RL) and isinstance(run.rl.advantage, GAE):
        yield (
            f"the critic of algo={run.algo.name} reads text alone",
            "Take an algorithm without one, such as algo=grpo.",
        )
    for key, part in named_rewards(run) if isinstance(run.algo, RL) else ():
        if isinstance(part, ModelReward):
            yield f"{key} is a model that reads text alone", "Take reward=rule or reward=function."


def mixed_images(run: RunConfig, key: str, data: Data) -> Iterator[Problem]:
    """Workers that shard a model run all of it side by side, the part that reads images too."""
    shown = {source.images_column is not None for _, source in named_sources(key, data)}
    place = known_layout(run).get("policy")
    if len(shown) == 2 and run.strategy.name == "deepspeed" and place is not None and place.workers > 1:
        says = "some of its sources have images and others none, so that workers would wait for each other"
        yield Problem("", f"{key}.sources", says, "Give all of them images, or train with one worker.")

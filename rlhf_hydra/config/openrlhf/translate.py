"""Command lines of OpenRLHF as command lines of this project: `task=import_openrlhf -- COMMAND`.

`flags.py` says what each option is here. This file decides what follows from several options together.
"""

import re
from collections.abc import Iterator, Sequence

from rlhf_hydra.config.errors import ConfigError, Problem
from rlhf_hydra.config.openrlhf.command import Command, read
from rlhf_hydra.config.openrlhf.data import blended, data, finished
from rlhf_hydra.config.openrlhf.flags import BY_NAME, Flag
from rlhf_hydra.config.openrlhf.quoting import shell
from rlhf_hydra.config.openrlhf.sizes import seats, sizes
from rlhf_hydra.config.overrides import quoted

ALGORITHMS = {
    "gae": "ppo", "reinforce": "reinforce_pp", "reinforce_baseline": "reinforce_pp_baseline", "rloo": "rloo",
    "group_norm": "grpo", "dr_grpo": "dr_grpo",
}  # fmt: skip

MODELS = {
    r"llama-?3.*70b": "llama3-70b", r"llama-?3.*8b": "llama3-8b", r"mistral-7b": "mistral-7b", r"qwen3-8b": "qwen3-8b",
    r"qwen2\.5-0\.5b": "qwen2.5-0.5b", r"qwen2\.5-7b": "qwen2.5-7b", r"smollm2-135m": "smollm2-135m",
    r"qwen2\.5-vl-7b": "qwen2.5-vl-7b",
}  # fmt: skip
"""What a model's path looks like -> the choice with its sizes."""

TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

GROUPS = ("algo", "model", "cluster", "data", "reward", "data@eval.data", "data@algo.ptx.data", "tracking")


def import_text(words: Sequence[str]) -> str:
    """The command here, and what is to be said about it in lines of `#`. ConfigError for what cannot be read."""
    command = read(words)
    try:
        lines = list(translate(command))
        given = dict(line.partition("=")[::2] for line in lines if not line.startswith("#"))
        overrides, file = blended(finished(given, command.kind), command)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError([Problem("import", "task=import_openrlhf", f"an option's value: {error}")]) from None
    notes = [line for line in lines if line.startswith("#")]
    order = [key for key in GROUPS if key in overrides] + [key for key in overrides if key not in GROUPS]
    words = ["python -m rlhf_hydra", *(shell(f"{key}={overrides[key]}") for key in order)]
    errors = [f"# {line}" for problem in command.problems for line in str(problem).splitlines()]
    return "\n".join([" ".join(words), *dict.fromkeys(notes), *errors, *file])


def translate(command: Command) -> Iterator[str]:
    """Overrides, and notes as lines that start with `#`."""
    yield from algorithm(command) if command.kind == "rl" else [f"algo={command.kind}"]
    yield from model(command)
    yield from seats(command)
    yield from data(command)
    yield from sizes(command)
    if command.kind == "rl":
        yield from reward(command)
    yield from adapters(command)
    yield from saved(command)
    yield from others(command)
    yield from floors(command)
    for name, values in command.given.items():
        yield from plain(command, BY_NAME[name], values)


def plain(command: Command, flag: Flag, values: list[str]) -> Iterator[str]:
    """What the table says of one option."""
    if flag.why and flag.to:
        if flag.needed:
            yield f"# --{flag.names[0]} has no equivalent: {flag.why}"
        return
    values = [TYPES.get(value, value) for value in values]
    for override in flag.to.get(command.kind, flag.to.get("", "")).split():
        key, _, value = override.partition("=")
        try:
            line = f"{key}={quoted(value.format(*values)) if '{' in value else value}"
        except IndexError:
            raise ConfigError([Problem("import", f"--{flag.names[0]}", "has too few values")]) from None
        if key.startswith("critic.") and not command.has_critic:
            yield f"# --{flag.names[0]}: this algorithm has no critic"
            continue
        yield line
        if key.startswith("policy.optim.") and flag.names[0] in command.unprefixed and command.has_critic:
            yield line.replace("policy.", "critic.", 1)


def algorithm(command: Command) -> Iterator[str]:
    estimator = command.estimator
    if estimator not in ALGORITHMS:
        says = f"there is no estimator {estimator}"
        raise ConfigError([Problem("import", "--algo.advantage.estimator", says, f"Take {', '.join(ALGORITHMS)}.")])
    yield f"algo={ALGORITHMS[estimator]}"
    yield from divergence(command)
    if estimator == "gae" and (command.is_new or "algo.advantage.lambd" in command):
        yield f"algo.advantage.lam={command.text('algo.advantage.lambd', '1.0')}"
    if estimator == "gae" and (command.is_new or "critic.value_clip" in command):
        yield f"algo.value.clip={command.text('critic.value_clip', '0.5')}"
    if estimator in ("gae", "reinforce") and "algo.advantage.gamma" in command:
        yield f"algo.advantage.gamma={command.text('algo.advantage.gamma')}"
    if estimator == "gae" and not command.is_new:
        yield "# algo.advantage.lam, algo.value.clip: 0.95 and 0.2 if not given, as up to v0.6; later 1 and 0.5"
    if "algo.advantage.no_std_norm" in command and estimator in ("gae", "reinforce", "reinforce_baseline"):
        yield "algo.advantage.whiten=mean"
    if "actor.eps_clip" in command and "actor.eps_clip_low_high" not in command:
        yield from (f"algo.loss.clip_{side}={command.text('actor.eps_clip')}" for side in ("low", "high"))
    if "critic.freezing_steps" in command and command.has_critic:  # dotted names came with steps that count from 0
        yield f"critic.warmup_steps={max(0, command.number('critic.freezing_steps') + command.is_new)}"
    if command.text("actor.policy_loss_type") == "gspo":
        yield from ("algo.loss.kind=sequence_clip", "algo.loss.aggregation=sequence_mean")
    elif estimator == "dr_grpo":
        yield "algo.loss.aggregation=token_mean"
    if "algo.advantage.is_correction_enable" in command:
        yield from correction(command)


def divergence(command: Command) -> Iterator[str]:
    coef, in_loss = command.text("algo.kl.init_coef", "0.01"), "algo.kl.use_loss" in command
    estimator = command.text("algo.kl.estimator", "k3" if "use_kl_estimator_k3" in command else "k1")
    if in_loss and estimator == "k1":
        yield "# --algo.kl.use_loss with k1 holds nothing back and is refused here; k2 is what is meant"
        estimator = "k2"
    yield f"algo.kl.coef={coef}"
    if float(coef) and (command.estimator != "gae" or in_loss or estimator != "k1"):
        yield f"algo.kl.estimator={estimator}"
        yield f"algo.kl.where={'loss' if in_loss else 'reward'}"


def correction(command: Command) -> Iterator[str]:
    if command.text("actor.policy_loss_type") == "gspo":
        yield "# --algo.advantage.is_correction_enable with gspo has no equivalent: the ratio is to the policy"
        return
    kind = command.text("algo.advantage.is_correction_type", "icepop" if "use_icepop" in command else "tis")
    mask = {"icepop": "token", "seq-mask-tis": "geometric"}.get(kind)
    bounds = command.given.get("algo.advantage.is_correction_threshold") or ["0.5", "5.0"]
    low, high = bounds[:2] if len(bounds) > 1 else ("0", bounds[0])  # at first there was an upper bound alone
    for what, value in (("weight", "token"), ("mask", mask)):
        if value is not None:
            yield f"algo.correction.{what}={value}"
            yield f"algo.correction.{what}_low={low}"
            yield f"algo.correction.{what}_high={high}"


def model(command: Command) -> Iterator[str]:
    path = command.text("actor.model_name_or_path")
    choice = next((name for pattern, name in MODELS.items() if re.search(pattern, path.lower())), None)
    if choice is None:
        choice = re.sub(r"[^\w.-]+", "-", path.rstrip("/").rpartition("/")[2].lower()).strip("-") or "NAME"
        yield f"# model={choice}: write conf/model/{choice}.yaml with its sizes, as docs/add-a-model.md shows"
    yield f"model={choice}"
    if path:
        yield f"model.path={quoted(path)}"
    if "use_ms" in command:
        yield "model.hub=modelscope"


def reward(command: Command) -> Iterator[str]:
    path, remote = command.text("reward.model_name_or_path"), command.text("reward.remote_url")
    if path and not remote:
        yield from reward_model(command, path)
    elif remote.endswith(".py"):
        yield from ("reward=function", f"reward.path={quoted(remote + ':reward_func')}")
        yield "# reward: the function is called with a whole batch here; docs/add-a-reward.md shows how"
    else:
        if remote:
            yield f"# --reward.remote_url has no equivalent: no reward is asked of a server ({remote})"
        yield "reward=function"
        yield "# reward: write what scores as a function, and name it: reward.path=FILE.py:NAME (docs/add-a-reward.md)"
    low, high = map(float, command.pair("reward.clip_range"))
    if low == -high:
        yield from (f"algo.shaping.clip={high:g}", "algo.shaping.clip_where=after")
    else:
        yield "# --reward.clip_range has no equivalent: rewards are clipped to [-algo.shaping.clip, algo.shaping.clip]"


def reward_model(command: Command, paths: str) -> Iterator[str]:
    path, *more = paths.split(",")
    yield from ("reward=model", f"reward.path={quoted(path)}")
    if "use_ms" in command:
        yield "reward.hub=modelscope"
    if more:
        yield f"# --reward.model_name_or_path: only {path} is taken; for a sum write a file like reward=composite"
    if command.has_critic and "critic.model_name_or_path" not in command:
        yield f"critic.path={quoted(path)}"
    if "reward.normalize_enable" in command:
        yield "algo.shaping.normalize=stored"
        yield "# algo.shaping: set mean and std to those in the reward model's config; without them nothing changes"


def adapters(command: Command) -> Iterator[str]:
    rank = command.number("ds.lora.rank")
    if "ds.load_in_4bit" in command and not rank:
        yield "# --ds.load_in_4bit has no equivalent without --ds.lora.rank: weights of 4 bits cannot learn"
    wanted = [name for name in command.given.get("ds.lora.target_modules", []) if name != "all-linear"]
    for role in (["policy", "critic"] if command.has_critic else ["policy"]) if rank else []:
        yield f"{role}.lora.rank={rank}"
        for name, key in (("ds.lora.alpha", "alpha"), ("ds.lora.dropout", "dropout")):
            if name in command:
                yield f"{role}.lora.{key}={command.text(name)}"
        if wanted:
            yield f"{role}.lora.targets=[{','.join(wanted)}]"
        if "ds.load_in_4bit" in command:
            yield f"{role}.lora.quantize=nf4"


def saved(command: Command) -> Iterator[str]:
    """Evaluations and checkpoints."""
    every, evaluated = command.number("eval.steps", -1), "eval.dataset" in command
    if evaluated and every > 0:
        yield f"eval.every={every}"
    elif not evaluated and command.kind == "rm":
        yield "eval.holdout=0.01"
    elif not evaluated and command.kind != "rl":
        yield "eval.every=0"
        yield "# eval: no --eval.dataset, so all rows are learned from; without eval.every=0 a part is held out"
    if command.kind == "rl" and evaluated:
        yield f"eval.temperature={command.text('eval.temperature', '0.6')}"
        yield f"eval.samples_per_prompt={command.text('eval.n_samples_per_prompt', '4')}"
        if every > 0 and command.text("ckpt.best_metric_key") != "none":
            yield "checkpoint.best=eval/pass@1"
    if command.number("ckpt.save_steps", -1) > 0:
        yield f"checkpoint.every={command.number('ckpt.save_steps')}"


def others(command: Command) -> Iterator[str]:
    for name, key in (("actor.optim", "policy"), ("critic.optim", "critic"), ("optim", "policy")):
        if command.text(name) == "muon":
            yield f"{key}.optim.name=muon"
    if "train.enable_ema" in command:
        yield f"policy.ema={command.text('train.ema_beta', '0.992')}"
    if "teacher_model" in command and "use_ms" in command:
        yield "algo.teacher.hub=modelscope"
    told = {"wandb": "logger.wandb.key", "tensorboard": "logger.tensorboard_dir"}
    trackers = [name for name, option in told.items() if option in command]
    if trackers:
        yield f"tracking={trackers[0]}" if len(trackers) == 1 else f"tracking.use=[{','.join(trackers)}]"
    if "wandb" in trackers:
        yield "# tracking: the key is read from WANDB_API_KEY, never from a command line"


FALLING = ("linear", "cosine", "cosine_with_restarts", "polynomial", "warmup_stable_decay")


def floors(command: Command) -> Iterator[str]:
    """Their learning rates fall to 0 but for schedules that are named after their floor."""
    both = ["policy", "critic"] if command.has_critic else ["policy"]
    for name, roles in (("actor.", ["policy"]), ("critic.", ["critic"]), ("", both)):
        if command.text(f"{name}lr_scheduler") in FALLING:
            yield from (f"{role}.optim.min_lr_ratio=0" for role in roles)

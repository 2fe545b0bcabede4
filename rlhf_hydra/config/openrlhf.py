"""Command lines of OpenRLHF as command lines of this project: `task=import_openrlhf -- COMMAND`.

`openrlhf_flags.py` says what each option is here. This file reads the command, launcher and all, and decides what
follows from several options together: who sits where, lengths, micro-batches, the algorithm.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from rlhf_hydra.config.errors import ConfigError, Problem, nearest
from rlhf_hydra.config.openrlhf_flags import BY_NAME, FLAGS, Flag

PROGRAMS = {
    "train_sft": "sft", "train_rm": "rm", "train_prm": "prm", "train_dpo": "dpo", "train_kto": "kto",
    "train_kd": "kd", "train_ppo": "rl", "train_ppo_ray": "rl",
}  # fmt: skip

NO_PROGRAM = {
    "serve_rm": "no reward server; a run loads its reward model itself: reward=model reward.path=...",
    "batch_inference": "no run over prompts without training",
    "lora_combiner": "policy.lora.export=merged writes the merged model at the end of a run",
    "interactive_chat": "no chat",
}

ALGORITHMS = {
    "gae": "ppo", "reinforce": "reinforce_pp", "reinforce_baseline": "reinforce_pp_baseline", "rloo": "rloo",
    "group_norm": "grpo", "dr_grpo": "dr_grpo",
}  # fmt: skip

MODELS = {
    r"llama-?3.*70b": "llama3-70b", r"llama-?3.*8b": "llama3-8b", r"mistral-7b": "mistral-7b", r"qwen3-8b": "qwen3-8b",
    r"qwen2\.5-0\.5b": "qwen2.5-0.5b", r"qwen2\.5-7b": "qwen2.5-7b", r"smollm2-135m": "smollm2-135m",
}  # fmt: skip
"""What a model's path looks like -> the choice with its sizes."""

TYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
GROUPS = ("algo", "model", "cluster", "data", "reward", "data@eval.data", "tracking")
SFT_TEMPLATE = "User: {}\nAssistant: "


@dataclass(frozen=True)
class Command:
    """A command of theirs, read."""

    kind: str
    gpus: int | None
    """That the launcher names."""
    given: Mapping[str, list[str]]
    """Newest name of each option -> its values."""
    unprefixed: frozenset[str]
    """Options in a form that holds for policy and critic alike."""
    spelled: tuple[str, ...] = ()
    """Names as they were given."""
    problems: list[Problem] = field(default_factory=list)

    def text(self, name: str, default: str = "") -> str:
        return " ".join(self.given.get(name, [])) or default

    def number(self, name: str, default: int = 0) -> int:
        return int(float(self.text(name, str(default))))

    def __contains__(self, name: str) -> bool:
        return name in self.given

    @property
    def estimator(self) -> str:
        return self.text("algo.advantage.estimator", "gae")

    @property
    def has_critic(self) -> bool:
        return self.kind == "rl" and self.estimator == "gae"

    @property
    def is_new(self) -> bool:
        """Dotted names came with other defaults."""
        return any("." in name for name in self.spelled)


def import_text(words: Sequence[str]) -> str:
    """The command here, and what is to be said about it in lines of `#`. ConfigError for what cannot be read."""
    command = read(words)
    try:
        lines = list(translate(command))
    except ValueError as error:
        raise ConfigError([Problem("import", "task=import_openrlhf", f"an option's value: {error}")]) from None
    notes = [line for line in lines if line.startswith("#")]
    overrides = dict(line.partition("=")[::2] for line in lines if not line.startswith("#"))
    order = [key for key in GROUPS if key in overrides] + [key for key in overrides if key not in GROUPS]
    words = ["python -m rlhf_hydra", *(shell(f"{key}={overrides[key]}") for key in order)]
    errors = [f"# {line}" for problem in command.problems for line in str(problem).splitlines()]
    return "\n".join([" ".join(words), *dict.fromkeys(notes), *errors])


# ------------------------------------------------------------------------------------------------------- reading


def read(words: Sequence[str]) -> Command:
    """Words as the shell gives them, or the whole command in one."""
    tokens = split(words[0]) if len(words) == 1 else list(words)
    at = next((i for i, token in enumerate(tokens) if program(token)), None)
    if at is None:
        fix = f"Give the whole command; it names one of {', '.join(PROGRAMS)}."
        raise ConfigError([Problem("import", "task=import_openrlhf", "no program of OpenRLHF in this command", fix)])
    name = program(tokens[at])
    if name not in PROGRAMS:
        says = f"{name} has no equivalent: {NO_PROGRAM[name]}"
        raise ConfigError([Problem("import", "task=import_openrlhf", says)])
    given: dict[str, list[str]] = {}
    problems, spelled, shared = [], [], set()
    for word, values in options(tokens[at + 1 :]):
        flag = BY_NAME.get(word)
        if flag is None:
            problems.append(unknown(word))
            continue
        spelled.append(word)
        given[flag.names[0]] = values
        if not word.startswith(("actor.", "critic.", "actor_", "critic_")):
            shared.add(flag.names[0])
    gpus = launched_gpus(tokens[:at])
    return Command(PROGRAMS[name], gpus, given, frozenset(shared), tuple(spelled), problems)


def split(text: str) -> list[str]:
    """A pasted command: continued lines, comments, and bash's $'...' too."""
    text = re.sub(r"\\\s*\n", " ", text)
    ansi = [m.encode().decode("unicode_escape") for m in re.findall(r"\$'((?:[^'\\]|\\.)*)'", text)]
    text = re.sub(r"\$'(?:[^'\\]|\\.)*'", "\0", text)
    found = iter(ansi)
    return [token if token != "\0" else next(found) for token in shlex.split(text, comments=True)]


def program(token: str) -> str:
    """`openrlhf.cli.train_sft`, `openrlhf/cli/train_sft.py` or `train_sft` -> `train_sft`; else ''."""
    name = re.sub(r"\.py$", "", token).replace("/", ".").rpartition(".")[2]
    return name if name in PROGRAMS or name in NO_PROGRAM else ""


def launched_gpus(tokens: Sequence[str]) -> int | None:
    """GPUs that `deepspeed --num_gpus N`, `--include HOST:0,1` or CUDA_VISIBLE_DEVICES name; None where none does."""
    text = " ".join(tokens)
    nodes = re.search(r"--num_nodes[ =](\d+)", text)
    if found := re.search(r"--num_gpus[ =](\d+)", text):
        return int(found[1]) * int(nodes[1] if nodes else 1)
    if found := re.search(r"(?:CUDA_VISIBLE_DEVICES=|--include[ =]\w+:)([\d,]+)", text):
        return len(found[1].strip(",").split(","))
    return None


def options(tokens: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """`--a 1 2 --b=3` -> (a, [1, 2]), (b, [3])."""
    name, values = "", list[str]()
    for token in tokens:
        if token.startswith("--") and len(token) > 2:
            if name:
                yield name, values
            name, found, value = token[2:].partition("=")
            name, values = name.replace("-", "_"), [value] if found else []
        elif name and token != "\\":
            values.append(token)
    if name:
        yield name, values


def unknown(word: str) -> Problem:
    near = [f"--{name}" for name in nearest(word, BY_NAME)]
    return Problem("import", f"--{word}", "is no option of OpenRLHF", f"Did you mean {' or '.join(near)}?" * bool(near))


# --------------------------------------------------------------------------------------------------- translating


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
    yield from others(command)
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
    if "algo.advantage.no_std_norm" in command and estimator in ("gae", "reinforce", "reinforce_baseline"):
        yield "algo.advantage.whiten=mean"
    if command.text("actor.policy_loss_type") == "gspo":
        yield from ("algo.loss.kind=sequence_clip", "algo.loss.aggregation=sequence_mean")
    elif estimator == "dr_grpo":
        yield "algo.loss.aggregation=token_mean"
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
    if "algo.advantage.is_correction_enable" not in command:
        return
    kind = command.text("algo.advantage.is_correction_type", "tis")
    mask = {"icepop": "token", "seq-mask-tis": "sequence"}.get(kind)
    low, high = (command.given.get("algo.advantage.is_correction_threshold") or ["0.5", "5.0"])[:2]
    for what, value in (("weight", "token"), ("mask", mask)):
        if value is not None:
            yield f"algo.correction.{what}={value}"
            yield f"algo.correction.{what}_low={low}"
            yield f"algo.correction.{what}_high={high}"


def model(command: Command) -> Iterator[str]:
    path = command.text("actor.model_name_or_path")
    choice = next((name for pattern, name in MODELS.items() if re.search(pattern, path.lower())), None)
    if choice is None:
        choice = re.sub(r"[^\w.-]", "-", path.rstrip("/").rpartition("/")[2].lower()) or "NAME"
        yield f"# model={choice}: write conf/model/{choice}.yaml with its sizes, as docs/add-a-model.md shows"
    yield f"model={choice}"
    if path:
        yield f"model.path={quoted(path)}"
    if "use_ms" in command:
        yield "model.hub=modelscope"


def seats(command: Command) -> Iterator[str]:
    """Roles one after another over the GPUs, but for those that share; A100s, since the command does not say."""
    places = rl_seats(command) if command.kind == "rl" else {"policy": (0, command.gpus or 8)}
    last = max(start + count for start, count in places.values())
    yield f"cluster={'a100x16' if 8 < last <= 16 else 'a100x8'}"
    yield "# cluster: the command does not name its GPUs; A100 80G are taken. The others: python -m rlhf_hydra --help"
    if last < 8:
        yield f"cluster.gpus_per_node={last}"
    elif last > 16:
        yield f"cluster.nodes={ceil(last / 8)}"
    for role, (start, count) in places.items() if last not in (8, 16) or len(set(places.values())) > 1 else ():
        yield f"cluster.placement.{role}.gpus={start}" + (f"-{start + count - 1}" if count > 1 else "")
    size = command.text("vllm.tensor_parallel_size")
    if size:
        yield f"engine.tensor_parallel={size}"
    if command.kind == "rl" and not any(name.startswith("vllm.") for name in command.given):
        yield "engine.memory_fraction=0.3"
        yield "# engine: theirs samples with the policy itself; here vLLM has 0.3 of each GPU beside it"


def rl_seats(command: Command) -> dict[str, tuple[int, int]]:
    """Role -> first GPU and number of GPUs."""

    def asked(role: str) -> int:
        return command.number(f"{role}.num_nodes", 1) * command.number(f"{role}.num_gpus_per_node", 8)

    sizes = {"policy": asked("actor"), "reference": asked("ref"), "critic": asked("critic"), "reward": asked("reward")}
    sizes["engine"] = command.number("vllm.num_engines", 1) * command.number("vllm.tensor_parallel_size", 1)
    used = {"critic": command.has_critic, "reward": "reward.model_name_or_path" in command}
    used["reference"] = float(command.text("algo.kl.init_coef", "0.01")) > 0
    together = {"reference": ("train.colocate_actor_ref", "policy")}
    together["reward"] = ("train.colocate_critic_reward", "critic")
    says_nothing = not any(name.endswith("num_gpus_per_node") for name in command.given)
    everywhere = "train.colocate_all" in command or (says_nothing and "vllm.num_engines" not in command)
    shared = (0, sizes["policy"] if "train.colocate_all" in command else command.gpus or 8)
    places: dict[str, tuple[int, int]] = {}
    free = 0
    for role in (role for role in sizes if used.get(role, True)):
        flag, other = together.get(role, ("", ""))
        if everywhere or (flag in command and other in places):
            places[role] = shared if everywhere else places[other]
            continue
        places[role] = (free, sizes[role])
        free += sizes[role]
    return places


def data(command: Command) -> Iterator[str]:
    source, *more = command.text("data.prompt_dataset").split(",")
    path, _, folder = source.partition("@")
    yield "data=jsonl"
    if path:
        yield f"data.path={quoted(path)}"
    if more or "data.prompt_probs" in command:
        yield f"# --data.prompt_dataset: only {path} is taken; several sources need a file in conf/data"
    if folder:
        yield f"# --data.prompt_dataset: {folder} inside of {path} is named by data.subset, if it is one"
    if "use_ms" in command:
        yield "data.hub=modelscope"
    yield from columns(command)
    template = command.text("data.input_template", SFT_TEMPLATE if command.kind in ("sft", "kd", "kto") else "")
    if template and "data.apply_chat_template" not in command and "model.pretrain_mode_enable" not in command:
        yield f"data.template={quoted(template.replace(chr(92) + 'n', chr(10)).replace('{}', '{prompt}'))}"
    tokens = command.given.get("reward_tokens", [])
    if tokens:
        yield f"data.step_tokens=[{','.join(map(quoted, tokens))}]"
    if "eval.dataset" in command:
        yield from ("data@eval.data=jsonl", f"eval.data.path={quoted(command.text('eval.dataset'))}")
        yield f"eval.data.split={command.text('eval.split', 'train')}"
        yield f"eval.data.prompt_column={command.text('data.input_key', 'input')}"
        yield f"eval.data.label_column={command.text('data.label_key', 'null')}"


def columns(command: Command) -> Iterator[str]:
    """Those that have another name by default, there or in `data=jsonl`."""
    if "data.input_key" not in command:
        yield f"data.prompt_column={'null' if command.kind in ('rm', 'dpo') else 'input'}"
    if command.kind == "rl" and "data.label_key" not in command:
        yield "data.label_column=null"
    if command.kind in ("kto", "prm") and "data.label_key" not in command:
        yield f"data.{'desirable' if command.kind == 'kto' else 'steps'}_column=label"
    if command.kind in ("kto", "kd") and "data.output_key" not in command:
        yield "data.response_column=output"


def sizes(command: Command) -> Iterator[str]:
    """Lengths, batches, micro-batches, steps."""
    longest = command.number("data.max_len", 2048 if command.kind in ("rl", "sft", "kto", "prm", "kd") else 512)
    roles = ["policy", "critic"] if command.has_critic else ["policy"]
    if command.kind == "rl":
        prompt, response = lengths(command, longest)
        longest = prompt + response
        yield from (f"rollout.max_prompt_tokens={prompt}", f"rollout.max_response_tokens={response}")
        if not {"prompt_max_len", "rollout.max_new_tokens"} & set(command.given):
            yield "# rollout: theirs divides --data.max_len per sample; here prompts and responses have half of it each"
        if "reward.overlong_buffer_len" in command:
            yield f"algo.shaping.overlong_share={command.number('reward.overlong_buffer_len') / response:.4g}"
        prompts, rows = command.number("rollout.batch_size", 1024), command.number("data.max_samples")
        if 0 < rows < 10**8:
            yield f"steps={max(1, command.number('train.num_episodes', 1) * rows // prompts)}"
        else:
            yield "# steps: passes over the prompts times their number, divided by rollout.prompts_per_step"
    else:
        yield from (f"data.max_tokens={longest}", "data.overlong=cut")
    if "train.batch_size" in command:
        yield from (f"{role}.samples_per_update={command.number('train.batch_size')}" for role in roles)
    budget = command.number("train.micro_batch_size") * longest * (2 if command.kind in ("rm", "dpo") else 1)
    if "train.dynamic_batch_enable" in command:
        budget = command.number("train.max_tokens_per_gpu", 16192)
    if budget:
        yield from (f"{role}.tokens_per_microbatch={budget}" for role in roles)


def lengths(command: Command, total: int) -> tuple[int, int]:
    """Longest prompt and response."""
    response = command.number("rollout.max_new_tokens")
    prompt = command.number("prompt_max_len")
    if prompt or response:
        return prompt or max(1, total - response), response or max(1, total - prompt)
    return total // 2, total - total // 2


def reward(command: Command) -> Iterator[str]:
    models, remote = command.text("reward.model_name_or_path"), command.text("reward.remote_url")
    path, *more = models.split(",")
    if path and not remote:
        yield from ("reward=model", f"reward.path={quoted(path)}")
        if "use_ms" in command:
            yield "reward.hub=modelscope"
        if more:
            yield f"# --reward.model_name_or_path: only {path} is taken; for a sum write a file like reward=composite"
        if command.has_critic and "critic.model_name_or_path" not in command:
            yield f"critic.path={quoted(path)}"
    elif remote.endswith(".py"):
        yield from ("reward=function", f"reward.path={quoted(remote + ':reward_func')}")
        yield "# reward: the function is called with a whole batch here; docs/add-a-reward.md shows how"
    elif remote:
        yield f"# --reward.remote_url has no equivalent: no reward is asked of a server ({remote})"
    if "reward.normalize_enable" in command:
        yield "# algo.shaping: set mean and std to those in the reward model's config; without them nothing changes"
    low, high = map(float, command.given.get("reward.clip_range", ["-10", "10"]))
    if "reward.clip_range" in command and low == -high:
        yield from (f"algo.shaping.clip={high:g}", "algo.shaping.clip_where=after")
    elif low != -high:
        yield "# --reward.clip_range has no equivalent: rewards are clipped to [-algo.shaping.clip, algo.shaping.clip]"


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


def others(command: Command) -> Iterator[str]:
    for name, key in (("actor.optim", "policy"), ("critic.optim", "critic"), ("optim", "policy")):
        if command.text(name) == "muon":
            yield f"{key}.optim.name=muon"
    for name, key in (("eval.steps", "eval.every"), ("ckpt.save_steps", "checkpoint.every")):
        if command.number(name, -1) > 0:
            yield f"{key}={command.number(name)}"
    if "train.enable_ema" in command:
        yield f"policy.ema={command.text('train.ema_beta', '0.992')}"
    if command.text("ckpt.best_metric_key") not in ("", "none"):
        yield "checkpoint.best=eval/pass@1"
    if "logger.wandb.key" in command:
        yield from ("tracking=wandb", "# tracking: the key is read from WANDB_API_KEY, never from a command line")
    elif "logger.tensorboard_dir" in command:
        yield "tracking=tensorboard"


# ------------------------------------------------------------------------------------------------------- quoting


def quoted(value: str) -> str:
    """As Hydra reads it back."""
    if re.fullmatch(r"[\w./@:-]+", value, re.ASCII):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def shell(word: str) -> str:
    """As bash reads it back, on one line."""
    if "\n" in word:
        return "$'" + word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return shlex.quote(word)


# ---------------------------------------------------------------------------------------------------------- docs

HEADER = """\
# From OpenRLHF

Written by `python -m rlhf_hydra.config.openrlhf > docs/from-openrlhf.md` from `rlhf_hydra/config/openrlhf_flags.py`.

    python -m rlhf_hydra task=import_openrlhf -- deepspeed --module openrlhf.cli.train_sft --pretrain ... --max_len 4096
    python -m rlhf_hydra task=import_openrlhf < command.sh

prints the same run as a command of this project, and in lines of `#` what it has no equivalent for and what it had to
assume. Old and new spellings of options are read, with whatever launcher stands before the program. Quote nothing anew:
the command can be pasted as it is. Check the result with `task=check` at its end.

| option | older names | here |
|---|---|---|
"""


def table() -> str:
    return HEADER + "\n".join(map(table_row, FLAGS))


def table_row(flag: Flag) -> str:
    keys = "; ".join(dict.fromkeys(f"`{line}`" for text in flag.to.values() for line in text.split()))
    here = keys or ("**none**: " * flag.needed + flag.why if flag.to else "together: " + flag.why)
    older = ", ".join(f"`--{name}`" for name in flag.names[1:])
    return f"| `--{flag.names[0]}` | {older} | {here} |"


if __name__ == "__main__":
    print(table())

"""What must hold between the keys of a run.

Each rule is a small function that yields what is wrong; its name is the name of the refusal (`check.py` fills it in).
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rlhf_hydra.config.arithmetic import samples_per_step, updates_per_step
from rlhf_hydra.config.conditions import parse_condition
from rlhf_hydra.config.errors import Problem, nearest, one_of
from rlhf_hydra.config.layout import (
    TRAINED,
    RoleLayout,
    eval_data,
    eval_reward,
    gpu_numbers,
    layout,
    reward_parts,
    roles,
    seat,
)
from rlhf_hydra.config.memory import ENGINE_WEIGHTS_SHARE, engine_weights_gib, gpu_floor, host_floor
from rlhf_hydra.config.resolve import resolve, tensor_parallel_sizes
from rlhf_hydra.config.schema import (
    DPO,
    GAE,
    KD,
    KTO,
    PAIRS,
    PRM,
    RL,
    RM,
    SFT,
    Blend,
    CompositeReward,
    Data,
    FunctionReward,
    Greedy,
    Group,
    LoRA,
    ModelReward,
    OptunaSweep,
    ProcessReward,
    Returns,
    RuleReward,
    RunConfig,
    ToyData,
    Trained,
)

Rule = Callable[[RunConfig], Iterator[Problem]]
FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


# ------------------------------------------------------------------------------------------------- algorithm, batches


def group_baseline(run: RunConfig) -> Iterator[Problem]:
    if isinstance(run.rl.advantage, Group) and run.rollout.samples_per_prompt < 2:
        says = f"algo={run.algo.name} compares the responses to one prompt and needs at least 2"
        yield Problem("", "rollout.samples_per_prompt", says, "Set rollout.samples_per_prompt=8, for example.")


def adaptive_kl(run: RunConfig) -> Iterator[Problem]:
    if run.rl.kl.controller == "adaptive" and run.rl.kl.coef == 0:
        yield Problem(
            "", "algo.kl.coef", "the adaptive controller multiplies it, so it would stay 0", "Set it above 0."
        )


def kl_as_a_loss(run: RunConfig) -> Iterator[Problem]:
    kl = run.rl.kl
    if kl.coef > 0 and kl.where == "loss" and kl.estimator == "k1":
        says = "k1 as a loss has a gradient that is zero on average, so it holds nothing back"
        yield Problem("", "algo.kl.estimator", says, "Set it to k2 or k3, or algo.kl.where=reward.")


def bounds(run: RunConfig) -> Iterator[Problem]:
    """Nothing lies between a lower bound and a smaller upper one."""
    correction, chosen = run.rl.correction, run.rl.filter
    pairs = [
        ("algo.correction.weight", correction.weight, correction.weight_low, correction.weight_high),
        ("algo.correction.mask", correction.mask, correction.mask_low, correction.mask_high),
    ]
    for key, used, low, high in pairs:
        if used != "none" and low > high:
            yield Problem("", f"{key}_low", f"is more than {key}_high={high:g}", "Lower it.")
    if chosen.by in ("mean", "std") and chosen.low >= chosen.high:
        yield Problem("", "algo.filter.low", f"leaves nothing below algo.filter.high={chosen.high:g}", "Lower it.")


def plain_policy_gradient(run: RunConfig) -> Iterator[Problem]:
    """Without a ratio, the second update on a rollout would take its samples for the policy's own."""
    updates = updates_per_step(run, run.policy.samples_per_update)
    if run.rl.loss.kind == "reinforce" and updates > 1:
        says = f"reinforce has no ratio to correct the {updates} updates on one rollout"
        every = f"policy.samples_per_update={samples_per_step(run)} algo.epochs=1"
        yield Problem("", "algo.loss.kind", says, f"Set {every}, or take algo.loss.kind=clip.")


def one_sample(run: RunConfig) -> Iterator[Problem]:
    """What compares the responses to one prompt needs at least two."""
    if run.rollout.samples_per_prompt > 1:
        return
    fix = "Set rollout.samples_per_prompt=8, for example."
    if run.rl.advantage.whiten != "none" and run.rl.advantage.whiten_over == "group":
        yield Problem("", "algo.advantage.whiten_over", "whitens over groups of one response", fix)
    if run.rl.filter.by in ("mean", "std"):
        yield Problem("", "algo.filter.by", "judges a prompt by one response", fix)


def filter_function(run: RunConfig) -> Iterator[Problem]:
    chosen = run.rl.filter
    if chosen.by != "function":
        return
    if chosen.path is None:
        fix = "Set algo.filter.path=file.py:function, a function of (samples, rewards)."
        yield Problem("", "algo.filter.path", "algo.filter.by=function needs a function", fix)
    else:
        yield from check_function("algo.filter", FunctionReward(path=chosen.path))


def oversampling(run: RunConfig) -> Iterator[Problem]:
    """What is accepted beyond a step is learned from in the next one, by a policy that did not sample it."""
    if run.rl.filter.oversample == 1:
        return
    key, says = "algo.filter.oversample", "more prompts than a step needs are of use where some are rejected"
    if run.rl.filter.by == "none":
        yield Problem("", key, says, "Set algo.filter.by=mean, for example, or drop it.")
    elif run.rl.correction.weight == "none":
        says = "prompts that are too many for one step are learned from a step later, without correction"
        yield Problem("", key, says, "Set algo.correction.weight=token.")


def pretraining_mix(run: RunConfig) -> Iterator[Problem]:
    ptx = run.rl.ptx
    if ptx.coef > 0 and ptx.data is None:
        yield Problem(
            "", "algo.ptx.data", "there are no texts to learn from", "Add data@algo.ptx.data=jsonl, for example."
        )
    if ptx.coef == 0 and ptx.data is not None:
        yield Problem(
            "", "algo.ptx.coef", "nothing would be learned from algo.ptx.data", "Set it to 0.05, for example."
        )


def greedy_baseline(run: RunConfig) -> Iterator[Problem]:
    """The greedy response's reward is taken as it comes, and so must be the others'."""
    shaping, fix = run.rl.shaping, "Turn it off, or take an algorithm with another baseline, such as algo=rloo."
    used = {
        "normalize": shaping.normalize != "none",
        "overlong_share": shaping.overlong_share > 0,
        "truncated": shaping.truncated is not None,
        "clip": shaping.clip is not None and shaping.clip_where == "before",
    }
    for name in used if isinstance(run.rl.advantage, Greedy) else ():
        if used[name]:
            says = "would change the rewards of the samples and not that of the greedy response"
            yield Problem("", f"algo.shaping.{name}", says, fix)


def step_credit(run: RunConfig) -> Iterator[Problem]:
    """Steps can be rewarded where tokens get a credit of their own."""
    if isinstance(run.rl.advantage, GAE | Returns):
        return
    for key, part in named_parts("reward", run.reward):
        if isinstance(part, ProcessReward) and part.outcome == "none":
            says = f"rewards each step, and algo={run.algo.name} compares whole responses"
            fix = f"Set {key}.outcome=min, for example, or take algo=ppo or algo=reinforce."
            yield Problem("", f"{key}.outcome", says, fix)


def step_template(run: RunConfig) -> Iterator[Problem]:
    for key, part in named_rewards(run):
        if isinstance(part, ProcessReward) and "{step}" not in part.template:
            yield Problem(
                "", f"{key}.template", "has no {step}, so that the model would see none", "Put {step} into it."
            )


def early_stop(run: RunConfig) -> Iterator[Problem]:
    if run.rl.stop_kl is not None and updates_per_step(run, run.policy.samples_per_update) == 1:
        fix = "Drop it, or set algo.epochs or policy.samples_per_update for several."
        yield Problem("", "algo.stop_kl", "there is one update on each rollout, so nothing to stop", fix)


def moving_reference(run: RunConfig) -> Iterator[Problem]:
    cfg = run.reference
    if cfg.ema is not None and cfg.refresh_every:
        yield Problem("", "reference.ema", "and reference.refresh_every are both set", "Keep one of them.")
    for name, used in (("ema", cfg.ema is not None), ("refresh_every", cfg.refresh_every > 0)):
        if used and run.rl.kl.coef == 0:
            says = "algo.kl.coef=0, so there is no reference"
            yield Problem("", f"reference.{name}", says, "Drop it, or set algo.kl.coef above 0.")
    if cfg.ema is not None and run.strategy.name == "deepspeed" and run.strategy.dtype != "float32":
        says = f"its small changes would be rounded away in {run.strategy.dtype}"
        yield Problem("", "reference.ema", says, "Take reference.refresh_every, or strategy.dtype=float32.")


def warm_up(run: RunConfig) -> Iterator[Problem]:
    if "critic" in roles(run) and run.critic.warmup_steps >= run.steps > 0:
        yield Problem("", "critic.warmup_steps", f"leaves the policy none of the {run.steps} steps", "Lower it.")


def guarded_kl(run: RunConfig) -> Iterator[Problem]:
    if run.guard.kl_max is not None and run.rl.kl.coef == 0:
        says = "algo.kl.coef=0, so no KL is measured"
        yield Problem("", "guard.kl_max", says, "Drop it, or set algo.kl.coef above 0.")


def trained(run: RunConfig, role: str) -> Trained:
    return run.policy if role == "policy" else run.critic


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


# --------------------------------------------------------------------------------------------- data, model, reward


def looks_local(path: str) -> bool:
    return path.startswith(("/", "./", "../", "~")) or path.endswith(FILE_SUFFIXES)


def is_absent(path: str) -> bool:
    return looks_local(path) and not Path(path).expanduser().exists()


def no_such_file(key: str, path: str) -> Problem:
    file = Path(path).expanduser()
    beside = [child.name for child in file.parent.iterdir()] if file.parent.is_dir() else []
    near = nearest(file.name, beside)
    says = "does not exist" if file.parent.is_dir() else f"does not exist, nor does its folder {file.parent.absolute()}"
    return Problem(
        "", key, says, f"Did you mean {' or '.join(str(file.parent / name) for name in near)}?" if near else ""
    )


def named_data(run: RunConfig) -> list[tuple[str, Data]]:
    """Each source of prompts or texts, with its dotted key."""
    return [pair for key, data in whole_data(run) for pair in named_sources(key, data)]


def whole_data(run: RunConfig) -> list[tuple[str, Data]]:
    """What is read, with its dotted key, blends as one."""
    texts = run.algo.ptx.data if isinstance(run.algo, RL) else None
    given = {"data": run.data, "eval.data": run.eval.data, "algo.ptx.data": texts}
    return [(key, data) for key, data in given.items() if data is not None]


def named_sources(key: str, data: Data) -> list[tuple[str, Data]]:
    """`data` itself, or the sources of a blend."""
    if not isinstance(data, Blend):
        return [(key, data)]
    return [(f"{key}.sources.{name}", source) for name, source in data.sources.items()]


def blend_sources(run: RunConfig) -> Iterator[Problem]:
    for key, data in whole_data(run):
        if isinstance(data, Blend) and not data.sources:
            fix = "Give it sources in a file of conf/data, as conf/data/blend.yaml shows."
            yield Problem("", f"{key}.sources", "no source of rows", fix)


def data_source(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if data.path is None and not isinstance(data, ToyData):
            fix = f"Set {key}.path to a file or the id of a dataset."
            yield Problem("", f"{key}.path", "no source of prompts", fix)
        elif data.path and data.path != MISSING and is_absent(data.path):
            yield no_such_file(f"{key}.path", data.path)


def row_length(run: RunConfig) -> Iterator[Problem]:
    longest = run.model.context_tokens
    for key, data in named_data(run):
        if data.max_tokens > longest:
            says = f"{data.max_tokens} tokens are more than model.context_tokens={longest}"
            yield Problem("", f"{key}.max_tokens", says, f"Set {key}.max_tokens={longest}, or 0, which means the same.")


def prompt_column(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if data.prompt_column is None:
            fix = f"Take other data, name the column in {key}.prompt_column, or learn from the pairs, as algo=dpo does."
            yield Problem("", f"{key}.prompt_column", "a run that samples needs prompts, and the data has none", fix)


def data_template(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if data.template is not None and "{prompt}" not in data.template:
            says = "has no {prompt}, so that all prompts would be the same"
            yield Problem("", f"{key}.template", says, "Put {prompt} into it.")


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


def letters_only(run: RunConfig) -> Iterator[Problem]:
    """`builtin:tiny` has no digits in its vocabulary."""
    for key, part in named_rewards(run):
        if run.model.path == "builtin:tiny" and isinstance(part, RuleReward) and part.rule == "math":
            fix = "Take a language model, such as model=smollm2-135m, or other data."
            yield Problem("", f"{key}.rule", "model=tiny writes letters and can give no number as an answer", fix)


def model_folder(run: RunConfig) -> Iterator[Problem]:
    rewards = [(key, part.path) for key, part in named_rewards(run) if isinstance(part, ModelReward)]
    for key, path in [
        ("model", run.model.path),
        ("critic", run.critic.path),
        ("reference", run.reference.path),
        *rewards,
    ]:
        if path and path != MISSING and is_absent(path):
            yield no_such_file(f"{key}.path", path)


def named_rewards(run: RunConfig) -> list[tuple[str, Any]]:
    """Each reward that is computed, with its dotted key."""
    return [*named_parts("reward", run.reward), *named_parts("eval.reward", run.eval.reward)]


def named_parts(key: str, reward: Any) -> list[tuple[str, Any]]:
    if isinstance(reward, CompositeReward):
        return [(f"{key}.parts.{name}", part) for name, part in reward.parts.items()]
    return [(key, reward)] if reward is not None and reward != MISSING else []


def evaluation(run: RunConfig) -> Iterator[Problem]:
    samples = run.eval.samples_per_prompt
    if run.eval.every and not all(1 <= k <= samples for k in run.eval.k):
        says = f"pass@k needs k from 1 to eval.samples_per_prompt={samples}"
        yield Problem("", "eval.k", says, f"Set eval.samples_per_prompt={max(1, *run.eval.k)}, or smaller k.")


def best_metric(run: RunConfig) -> Iterator[Problem]:
    best = run.checkpoint.best
    if best is not None and best.startswith("eval/") and not run.eval.every:
        yield Problem("", "checkpoint.best", "the run evaluates nothing", "Set eval.every=10, for example.")


def reward_source(run: RunConfig) -> Iterator[Problem]:
    if isinstance(run.reward, CompositeReward) and not list(reward_parts(run.reward)):
        fix = "Give it parts in a file of conf/reward, as conf/reward/composite.yaml shows."
        yield Problem("", "reward.parts", "no source of rewards", fix)


def reward_labels(run: RunConfig) -> Iterator[Problem]:
    """`exact` and `math` compare with a label."""
    yield from missing_labels("data", run.data, named_parts("reward", run.reward))
    if run.eval.data or run.eval.reward:
        source, key = "eval.data" if run.eval.data else "data", "eval.reward" if run.eval.reward else "reward"
        yield from missing_labels(source, eval_data(run), named_parts(key, eval_reward(run)))


def missing_labels(source: str, data: Data, rewards: Sequence[tuple[str, Any]]) -> Iterator[Problem]:
    for key, part in rewards:
        for place, given in named_sources(source, data):
            needs_label = isinstance(part, RuleReward) and part.rule in ("exact", "math")
            if needs_label and given.label_column is None and not isinstance(given, ToyData):
                fix = f"Set {place}.label_column to the column with the answers."
                yield Problem("", f"{key}.rule", f"compares with a label, and {place}={given.name} has none", fix)


def reward_function(run: RunConfig) -> Iterator[Problem]:
    for key, part in named_rewards(run):
        if isinstance(part, FunctionReward) and part.path != MISSING:
            yield from check_function(key, part)


def check_function(key: str, reward: FunctionReward) -> Iterator[Problem]:
    """The file and function exist, and the function takes `kwargs`. Read, not run: nothing is imported."""
    module, _, name = reward.path.rpartition(":")
    if not module or not name.isidentifier():
        yield Problem(
            "", f"{key}.path", "does not name a function", "Write file.py:function or package.module:function."
        )
        return
    file = Path(module).expanduser() if module.endswith(".py") else find_module(module)
    if file is None or not file.is_file():
        is_file = module.endswith(".py")
        yield no_such_file(f"{key}.path", module) if is_file else Problem("", f"{key}.path", f"no module {module}")
    elif file.suffix == ".py":  # a compiled module cannot be read
        yield from check_definition(key, reward, file, name)


def check_definition(key: str, reward: FunctionReward, file: Path, name: str) -> Iterator[Problem]:
    try:
        body = ast.parse(file.read_text()).body
    except SyntaxError as error:
        yield Problem("", f"{key}.path", f"{file}, line {error.lineno}: {error.msg}")
        return
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    imports = [alias for node in body if isinstance(node, ast.ImportFrom) for alias in node.names]
    if name in functions:
        yield from unknown_arguments(key, reward, functions[name].args)
    elif name not in {alias.asname or alias.name for alias in imports}:
        yield Problem("", f"{key}.path", f"{file} has no function {name}", one_of(name, functions))


def unknown_arguments(key: str, reward: FunctionReward, args: ast.arguments) -> Iterator[Problem]:
    names = [arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    for name in reward.kwargs:
        if args.kwarg is None and name not in names:
            yield Problem(
                "", f"{key}.kwargs.{name}", f"{reward.path} takes no argument of that name", one_of(name, names)
            )


def find_module(module: str) -> Path | None:
    """The file of a module, found without importing its packages."""
    folders: Sequence[str] | None = None
    spec = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        folders = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.origin else None


# --------------------------------------------------------------------------------------------------- placement


def known_layout(run: RunConfig) -> dict[str, RoleLayout]:
    """The layout, or nothing where `placement` or `tensor_parallel` has already said why there is none."""
    try:
        return layout(run)
    except ValueError:
        return {}


def placement(run: RunConfig) -> Iterator[Problem]:
    """Every seat can be read and names GPUs that the cluster has."""
    total = run.cluster.nodes * run.cluster.gpus_per_node
    for role in roles(run):
        key = f"cluster.placement.{role}.gpus"
        try:
            outside = [gpu for gpu in gpu_numbers(seat(run, role).gpus) if gpu >= total]
        except ValueError as error:
            yield Problem("", key, str(error), "Write numbers and ranges: 0-7 or 0,2,4-5.")
            continue
        if outside:
            has = f"{run.cluster.nodes} x {run.cluster.gpus_per_node} GPUs" if total else "no GPU"
            fix = f"Stay within 0-{total - 1}." if total else f"Set {key}=null."
            yield Problem(
                "", key, f"cluster={run.cluster.name} has {has}, so no GPU {', '.join(map(str, outside))}", fix
            )


def tensor_parallel(run: RunConfig) -> Iterator[Problem]:
    size, key = run.engine.tensor_parallel, "engine.tensor_parallel"
    try:
        gpus = len(gpu_numbers(run.cluster.placement.engine.gpus))
        sizes = tensor_parallel_sizes(run)
    except ValueError:
        return
    way_out = f"Set it to {' or '.join(map(str, sizes))}, or to 0 to have it chosen."
    if run.engine.name == "hf" and size > 1:
        yield Problem("", key, "engine.name=hf runs on one GPU", "Set it to 1, or take engine.name=vllm.")
    elif size < 1 or run.model.heads % size:
        yield Problem("", key, f"does not divide the {run.model.heads} attention heads of {run.model.name}", way_out)
    elif gpus % size:
        yield Problem("", key, f"does not divide the {gpus} GPUs of the engine", way_out)
    elif size not in sizes and run.cluster.gpus_per_node:
        says = (
            f"must stay within a node of {run.cluster.gpus_per_node} GPUs and share out {run.model.kv_heads} key heads"
        )
        yield Problem("", key, says, way_out)
    elif size > 1 and not gpus:
        yield Problem("", key, "the engine has no GPUs to share a model over", "Set it to 1.")


def engine_hardware(run: RunConfig) -> Iterator[Problem]:
    """vLLM on a cluster with GPUs takes some; only it, and only there, can sleep."""
    gpus = run.cluster.placement.engine.gpus
    if run.engine.name == "vllm" and run.cluster.gpus_per_node and gpus is None:
        fix = f"Set it to some of 0-{run.cluster.nodes * run.cluster.gpus_per_node - 1}."
        yield Problem("", "cluster.placement.engine.gpus", "the engine has no GPU on a cluster that has them", fix)
    if run.engine.sleep and (run.engine.name != "vllm" or gpus is None):
        yield Problem("", "engine.sleep", "only vLLM on GPUs can give its memory back", "Set engine.sleep=false.")


def cluster_gpus(run: RunConfig) -> Iterator[Problem]:
    """A cluster whose roles name GPUs has some."""
    if run.cluster.gpu.memory_gib > 0 and run.cluster.gpus_per_node == 0:
        yield Problem("", "cluster.gpus_per_node", f"zero GPUs of type {run.cluster.gpu.name}", "Set it to at least 1.")


def sharding(run: RunConfig) -> Iterator[Problem]:
    name, fix = run.strategy.name, "Set strategy.name=deepspeed, or give each trained role one worker."
    for role, place in known_layout(run).items():
        if name == "single" and role in TRAINED and place.workers > 1:
            yield Problem("", "strategy.name", f"trains in one process; the {role} has {place.workers} workers", fix)
    if run.strategy.offload_optimizer and (name == "single" or run.strategy.zero_stage == 0):
        fix = "Set strategy.name=deepspeed and strategy.zero_stage of 1 to 3, or turn it off."
        yield Problem("", "strategy.offload_optimizer", "needs DeepSpeed with sharded optimizer states", fix)


def whole_matrices(run: RunConfig) -> Iterator[Problem]:
    """Muon turns whole matrices; DeepSpeed keeps gradients and states in flat pieces, and clips after the turn."""
    for role in (role for role in TRAINED if role in roles(run)):
        if trained(run, role).optim.name == "muon" and run.strategy.name != "single":
            says = f"works on whole matrices, and strategy.name={run.strategy.name} holds them in flat pieces"
            yield Problem("", f"{role}.optim.name", says, "Set strategy.name=single, or take adamw.")


def adapters(run: RunConfig) -> Iterator[Problem]:
    """Settings of adapters need adapters; 4-bit weights need a GPU, and cannot be cut into parts."""
    for role in (role for role in TRAINED if role in roles(run)):
        lora, key = trained(run, role).lora, f"{role}.lora"
        if lora.rank == 0 and lora != LoRA():
            odd = next(f.name for f in fields(lora) if getattr(lora, f.name) != getattr(LoRA(), f.name))
            fix = f"Set {key}.rank=16, for example, or drop it."
            yield Problem("", f"{key}.{odd}", f"{key}.rank=0, so there are no adapters and all weights learn", fix)
        elif lora.quantize != "none" and not seat(run, role).gpus:
            says = f"4-bit weights need an NVIDIA GPU, and the {role} has none on cluster={run.cluster.name}"
            yield Problem("", f"{key}.quantize", says, f"Drop it, or take a cluster whose {role} has GPUs.")
        elif lora.quantize != "none" and run.strategy.name == "deepspeed" and run.strategy.zero_stage == 3:
            says = "4-bit weights cannot be sharded, and strategy.zero_stage=3 shards them"
            yield Problem("", f"{key}.quantize", says, "Set strategy.zero_stage=2.")


def local_backend(run: RunConfig) -> Iterator[Problem]:
    """One process holds one DeepSpeed worker a role and one vLLM engine."""
    if run.cluster.backend != "local":
        return
    if run.cluster.nodes > 1:
        yield Problem(
            "", "cluster.nodes", "cluster.backend=local is one process", "Set it to 1, or cluster.backend=ray."
        )
    for role, place in known_layout(run).items():
        asked = {"engine": run.engine.name, "policy": run.strategy.name, "critic": run.strategy.name}.get(role)
        if asked in ("vllm", "deepspeed") and place.workers > 1:
            says = f"{place.workers} workers with {asked} do not fit into the one process of cluster.backend=local"
            yield Problem("", f"cluster.placement.{role}.workers", says, "Set it to 1, or cluster.backend=ray.")


# ------------------------------------------------------------------------------------------------------- memory


def table(floor: Mapping[str, float]) -> str:
    return " + ".join(f"{role} {gib:.1f}" for role, gib in floor.items() if gib >= 0.05)


def engine_memory(run: RunConfig) -> Iterator[Problem]:
    """The engine's weights leave room for its KV cache."""
    memory, fraction = run.cluster.gpu.memory_gib, run.engine.memory_fraction
    place = known_layout(run).get("engine")
    if place is None or not place.all_gpus or run.engine.name != "vllm" or not memory:
        return
    weights = engine_weights_gib(run, run.engine.tensor_parallel)
    if weights > ENGINE_WEIGHTS_SHARE * fraction * memory:
        size = f"{weights:.1f} GiB of weights on each GPU with engine.tensor_parallel={run.engine.tensor_parallel}"
        says = f"is {fraction * memory:.1f} of {memory} GiB, and {run.model.name} has {size}, beside its KV cache"
        enough = weights / ENGINE_WEIGHTS_SHARE / memory
        fix = f"Set it to at least {enough:.2f}." if enough <= 0.95 else "Take more or larger GPUs, or a smaller model."
        yield Problem("", "engine.memory_fraction", says, fix)


def gpu_memory(run: RunConfig) -> Iterator[Problem]:
    """What each role must hold at the least fits on the GPUs that it sits on (`config/memory.py`)."""
    if exceeds_gpu(run):
        floor, gpu = gpu_floor(run), run.cluster.gpu
        says = f"{table(floor)} = {sum(floor.values()):.1f} GiB at the least on one {gpu.name} of {gpu.memory_gib} GiB"
        yield Problem("", "cluster.placement", f"model={run.model.name} does not fit: {says}", smaller(run))


def exceeds_gpu(run: RunConfig) -> bool:
    memory = run.cluster.gpu.memory_gib
    return bool(memory and known_layout(run)) and sum(gpu_floor(run).values()) > memory


def smaller(run: RunConfig) -> str:
    """The first change of strategy and engine with which the run fits."""
    for offload, fraction in [(True, None), (False, 0.3), (True, 0.3)]:
        settings = ["strategy.offload_optimizer=true"] if offload and not run.strategy.offload_optimizer else []
        settings += [f"engine.memory_fraction={fraction}", "engine.tensor_parallel=0"] if fraction else []
        strategy = replace(run.strategy, offload_optimizer=offload or run.strategy.offload_optimizer)
        share = fraction or run.engine.memory_fraction
        changed = resolve(
            replace(run, strategy=strategy, engine=replace(run.engine, memory_fraction=share, tensor_parallel=0))
        )
        if not exceeds_gpu(changed) and not [*engine_memory(changed), *host_memory(changed), *sharding(changed)]:
            return f"It fits with {' '.join(settings)}."
    return "Take more or larger GPUs, a smaller model, or an algorithm with fewer roles."


def host_memory(run: RunConfig) -> Iterator[Problem]:
    """What sits in main memory fits there."""
    memory = run.cluster.memory_gib
    if not memory or not known_layout(run):
        return
    floor = host_floor(run)
    if sum(floor.values()) > memory:
        says = f"model={run.model.name} needs at least {table(floor)} = {sum(floor.values()):.1f} GiB on each node"
        fix = (
            "Take a smaller model or more nodes; if the machine has more memory, set cluster.memory_gib to what it has."
        )
        yield Problem("", "cluster.memory_gib", says, fix)


# --------------------------------------------------------------------------------------------------- supervised


def own_data(run: RunConfig) -> list[tuple[str, Data]]:
    """Sources whose columns somebody has to name."""
    return [(key, data) for key, data in named_data(run) if not isinstance(data, ToyData)]


def columns(run: RunConfig) -> Iterator[Problem]:
    """What the objective reads has a column."""
    algo = run.algo
    for key, data in own_data(run):
        if data.prompt_column is None and not isinstance(algo, PAIRS):
            yield Problem("", f"{key}.prompt_column", f"only pairs can do without, and algo={algo.name} takes none")
        if isinstance(algo, PRM) and data.steps_column is None:
            says = "a process reward model learns from labelled steps"
            yield Problem("", f"{key}.steps_column", says, "Set it to the column with the labels of the steps.")
        if reads_responses(run, data) and not (data.chat or data.response_column or data.response_marker):
            fix = f"Set it, or {key}.response_marker; for chat messages {key}.chat=true."
            yield Problem("", f"{key}.response_column", "nothing says where the response begins", fix)


def reads_responses(run: RunConfig, data: Data) -> bool:
    """Whether a row is one text, of which a part is learned."""
    algo = run.algo
    return isinstance(algo, KD) or (
        algo.learn != "all" if isinstance(algo, SFT) else isinstance(algo, KTO) and data.desirable_column is not None
    )


def assistant_turns(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if isinstance(run.algo, SFT) and run.algo.learn == "assistant" and not data.chat:
            says = f"needs conversations, and {key} holds texts"
            yield Problem("", "algo.learn", says, f"Set {key}.chat=true, or algo.learn=response.")


def step_words(run: RunConfig) -> Iterator[Problem]:
    words = run.data.step_tokens
    if isinstance(run.algo, PRM) and (len(words) != 2 or len(set(words)) != 2):
        fix = "Write data.step_tokens=[+,-], for example."
        yield Problem("", "data.step_tokens", "must be two, one for good and one for bad", fix)


def teacher(run: RunConfig) -> Iterator[Problem]:
    if isinstance(run.algo, KD) and is_absent(run.algo.teacher.path):
        yield no_such_file("algo.teacher.path", run.algo.teacher.path)


def fixed_reference(run: RunConfig) -> Iterator[Problem]:
    """A reference is asked once, before the first step; most objectives have none."""
    path = run.reference.path
    if path is not None and not isinstance(run.algo, DPO | KTO):
        yield Problem("", "reference.path", f"algo={run.algo.name} has no reference", "Drop it.")
    elif path is not None and is_absent(path):
        yield no_such_file("reference.path", path)
    for name, used in (("ema", run.reference.ema is not None), ("refresh_every", run.reference.refresh_every > 0)):
        if used:
            yield Problem("", f"reference.{name}", "without sampling, the reference never changes", "Drop it.")


def longest_row(run: RunConfig) -> Iterator[Problem]:
    for key, data in named_data(run):
        if data.max_tokens > run.model.context_tokens:
            says = f"model={run.model.name} reads {run.model.context_tokens} tokens"
            yield Problem("", f"{key}.max_tokens", says, "Set it to at most that, or to 0.")


def patience(run: RunConfig) -> Iterator[Problem]:
    cfg = run.checkpoint
    if cfg.patience is not None and not (cfg.best or "").startswith("eval/"):
        fix = "Set checkpoint.best=eval/loss checkpoint.best_mode=min, for example."
        yield Problem("", "checkpoint.patience", "counts evaluations without a better checkpoint.best", fix)


def endless_patience(run: RunConfig) -> Iterator[Problem]:
    if run.checkpoint.patience is not None:
        says = f"algo={run.algo.name} does all of its steps"
        yield Problem("", "checkpoint.patience", says, "Drop it; the best checkpoint is kept anyway.")


# --------------------------------------------------------------------------------------------------------- task


READ_RUNS = ("resume", "sweep_resume", "rerun", "export", "report", "compare")


def resume(run: RunConfig) -> Iterator[Problem]:
    folders = {"resume": "a run", "sweep_resume": "a sweep"}
    if run.task.name in folders and run.run is None:
        says = f"task={run.task.name} needs the folder of {folders[run.task.name]}"
        yield Problem("", "run", says, "Add run=outputs/ALGO-MODEL/TIME.")
    if run.task.name not in READ_RUNS and run.run is not None:
        yield Problem("", "run", f"task={run.task.name} starts a new run", "Drop it, or add task=resume.")


def some_steps(run: RunConfig) -> Iterator[Problem]:
    if run.steps == 0:
        yield Problem("", "steps", f"must be at least 1: algo={run.algo.name} does as many steps", "Set it above 0.")


def runs_to_read(run: RunConfig) -> Iterator[Problem]:
    """A report has at least one folder, a comparison two."""
    folders = run_folders(run)
    if folders is None:
        yield Problem("", "run", "must be a folder or a list of folders", "Write run=FOLDER or run=[FOLDER,FOLDER].")
    elif run.task.name == "report" and not folders:
        fix = "Add run=outputs/sweep/TIME, or run=[FOLDER,FOLDER]."
        yield Problem("", "run", "task=report needs the folder of a sweep, or those of runs", fix)
    elif run.task.name == "compare" and len(folders) != 2:
        yield Problem("", "run", "task=compare needs two folders of runs", "Add run=[outputs/A,outputs/B].")


def run_folders(run: RunConfig) -> list[str] | None:
    """The folders in `run`; None where it is neither a folder nor a list of them."""
    found = [] if run.run is None else run.run if isinstance(run.run, list) else [run.run]
    return found if all(isinstance(folder, str) for folder in found) else None


def sweep(run: RunConfig) -> Iterator[Problem]:
    """Conditions can be read, and a search knows what it is for."""
    cfg = run.sweep
    for text in cfg.constraints:
        try:
            parse_condition(text)
        except ValueError as error:
            fix = "Write 'sweep.constraints=[\"kl <= 15\"]', for example."
            yield Problem("", "sweep.constraints", f"cannot be read: {error}", fix)
    if not isinstance(cfg, OptunaSweep):
        return
    if cfg.objective is None and not run.eval.every:
        fix = "Set eval.every=10, or name a metric, as in sweep.objective=reward/mean."
        yield Problem("", "sweep.objective", "the search needs to know what is good, and nothing is evaluated", fix)
    if cfg.against and cfg.pruner != "none":
        yield Problem("", "sweep.pruner", "two objectives cannot be pruned", "Drop it, or sweep.against.")


RULES: list[Rule] = [
    batch_covers_workers,
    data_source,
    data_template,
    blend_sources,
    images,
    row_length,
    model_folder,
    best_metric,
    placement,
    cluster_gpus,
    sharding,
    whole_matrices,
    adapters,
    local_backend,
    gpu_memory,
    host_memory,
    runs_to_read,
    resume,
    sweep,
]
"""Of every run."""

RL_RULES: list[Rule] = [
    some_steps,
    prompt_column,
    group_baseline,
    adaptive_kl,
    kl_as_a_loss,
    bounds,
    plain_policy_gradient,
    one_sample,
    filter_function,
    oversampling,
    pretraining_mix,
    greedy_baseline,
    step_credit,
    step_template,
    early_stop,
    moving_reference,
    warm_up,
    guarded_kl,
    batch_divides,
    context,
    response_lengths,
    letters_only,
    evaluation,
    reward_source,
    reward_labels,
    reward_function,
    tensor_parallel,
    engine_hardware,
    engine_memory,
    endless_patience,
]
"""Of runs that sample."""

SUPERVISED_RULES: list[Rule] = [
    columns,
    assistant_turns,
    step_words,
    teacher,
    fixed_reference,
    longest_row,
    patience,
]
"""Of runs that learn from given texts."""

"""What follows from several numbers of a command together: who sits where, lengths, batches and steps."""

from collections.abc import Iterator
from math import ceil

from rlhf_hydra.config.openrlhf.command import Command

SHARED = (
    ("train.colocate_actor_ref", "reference", "policy"),
    ("train.colocate_critic_reward", "reward", "critic"),
)
"""Option -> the role that sits where another does."""


def seats(command: Command) -> Iterator[str]:
    """Roles one after another over the GPUs, but for those that share; A100s, since the command does not say."""
    places = rl_seats(command) if command.kind == "rl" else {"policy": (0, command.gpus or 8)}
    last, node = max(start + count for start, count in places.values()), node_size(command)
    yield f"cluster={'a100x16' if node == 8 < last <= 16 else 'a100x8'}"
    yield "# cluster: the command does not name its GPUs; A100 80G are taken. The others: python -m rlhf_hydra --help"
    if min(last, node) < 8:
        yield f"cluster.gpus_per_node={min(last, node)}"
    if last > node and not node == 8 < last <= 16:
        yield f"cluster.nodes={ceil(last / node)}"
    for role, (start, count) in places.items() if last not in (8, 16) or len(set(places.values())) > 1 else ():
        yield f"cluster.placement.{role}.gpus={start}" + (f"-{start + count - 1}" if count > 1 else "")
    if command.kind == "rl":
        yield from engine(command, places)


def engine(command: Command, places: dict[str, tuple[int, int]]) -> Iterator[str]:
    if size := command.text("vllm.tensor_parallel_size"):
        yield f"engine.tensor_parallel={size}"
    if not has_engines(command):
        yield "engine.memory_fraction=0.3"
        yield "# engine: theirs samples with the policy itself; here vLLM has 0.3 of each GPU beside it"
    elif "vllm.gpu_memory_utilization" not in command and list(places.values()).count(places["engine"]) == 1:
        yield f"engine.memory_fraction={0.95 if command.is_new else 0.9}"  # alone on its GPUs


def has_engines(command: Command) -> bool:
    return any(name.startswith("vllm.") for name in command.given) and command.number("vllm.num_engines", 1) > 0


def node_size(command: Command) -> int:
    """GPUs of a node: as many as a role has on each of several; 8 where none has."""
    roles = [role for role in ("actor", "ref", "critic", "reward") if command.number(f"{role}.num_nodes", 1) > 1]
    return max((command.number(f"{role}.num_gpus_per_node", 8) for role in roles), default=8)


def rl_seats(command: Command) -> dict[str, tuple[int, int]]:
    """Role -> first GPU and number of GPUs."""

    def asked(role: str) -> int:
        return command.number(f"{role}.num_nodes", 1) * command.number(f"{role}.num_gpus_per_node", 8)

    sizes = {"policy": asked("actor"), "reference": asked("ref"), "critic": asked("critic"), "reward": asked("reward")}
    sizes["engine"] = command.number("vllm.num_engines", 1) * command.number("vllm.tensor_parallel_size", 1)
    used = {"critic": command.has_critic, "reward": "reward.model_name_or_path" in command}
    used["reference"] = float(command.text("algo.kl.init_coef", "0.01")) > 0
    shares = {role: other for option, role, other in SHARED if option in command}
    if not sizes["engine"]:
        shares["engine"] = "policy"
    says_nothing = not any(name.endswith(("num_nodes", "num_gpus_per_node")) for name in command.given)
    everywhere = "train.colocate_all" in command or (says_nothing and "vllm.num_engines" not in command)
    shared = (0, sizes["policy"] if "train.colocate_all" in command else command.gpus or 8)
    places: dict[str, tuple[int, int]] = {}
    free = 0
    for role in (role for role in sizes if used.get(role, True)):
        if everywhere or shares.get(role) in places:
            places[role] = shared if everywhere else places[shares[role]]
            continue
        places[role] = (free, sizes[role])
        free += sizes[role]
    return places


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
        prompts, rows = command.number("rollout.batch_size"), command.number("data.max_samples")
        if 0 < rows < 10**8:
            yield f"steps={max(1, command.number('train.num_episodes', 1) * rows // prompts)}"
            yield f"# steps: passes over {rows} prompts, as --data.max_samples says; fewer if there are fewer"
        else:
            yield "# steps: passes over the prompts times their number, divided by rollout.prompts_per_step"
    else:
        yield from (f"data.max_tokens={longest}", "data.overlong=cut")
        if command.is_new and "data.max_samples" not in command:
            yield "data.limit=1000000"
    if "train.batch_size" in command:
        yield from (f"{role}.samples_per_update={command.number('train.batch_size')}" for role in roles)
    budget = command.number("train.micro_batch_size") * longest * (2 if command.kind in ("rm", "dpo") else 1)
    if "train.dynamic_batch_enable" in command:
        budget = command.number("train.max_tokens_per_gpu", 16192)
    if budget:
        yield from (f"{role}.tokens_per_microbatch={budget}" for role in roles)


def lengths(command: Command, total: int) -> tuple[int, int]:
    """Longest prompt and response. Up to v0.9 each has an option of its own; then one has the length of both."""
    response, prompt = command.number("rollout.max_new_tokens"), command.number("prompt_max_len")
    if {"prompt_max_len", "generate_max_len"} & set(command.spelled):
        return prompt or 1024, response or 1024
    return (total - response, response) if response else (total // 2, total - total // 2)

"""The least memory that a run needs, from facts alone: a floor, not a plan.

Counted, with N parameters and n workers of a role: weights w, gradients g and optimizer states o bytes per parameter.

    float32        w 4, g 4, o 8  (Adam's two moments)
    16 bit         w 2, g 2, o 12 (float32 copy and the moments)
    ZeRO 0         N (w + g + o)         1: N (w + g + o / n)
    ZeRO 2         N (w + (g + o) / n)   3: N (w + g + o) / n        (arXiv 1910.02054)
    offload        gradients and states leave the GPU: 16 N bytes of main memory over all workers
    policy.ema     4 N, and 4 N / n under ZeRO 3
    LoRA           with N_a adapter parameters: N w for the frozen weights, in 4 bits N / 2, a share of it under ZeRO 3;
                   N_a in place of N in all that is above
    reference      N w, a share of it under ZeRO 3
    vLLM           its whole share of each GPU, `engine.memory_fraction`; its weights must leave room in it

Not counted: activations, logits, caches, fragmentation, and a reward model or a critic of its own path, whose size
the config does not know (the critic counts as large as the policy). What passes here may still be too large; what
fails here cannot work. Roles on the same GPU add up, since the engine wakes while the training states stay.
"""

from rlhf_hydra.config.layout import TRAINED, RoleLayout, layout, trained
from rlhf_hydra.config.schema import LoRA, RunConfig

GIB = 2**30
ENGINE_WEIGHTS_SHARE = 0.8
"""Of an engine's memory, the most that its weights may take; the rest is its KV cache."""


def dtype_bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def adapter_parameters(run: RunConfig, lora: LoRA) -> float:
    """N_a: rank (in + out) for each layer W [out, in] with adapters.

    A block is taken for Llama's: q and o [h, h], k and v [k, h] with k = h kv_heads / heads, gate, up and down [m, h],
    where m follows from the number of parameters: blocks share N - 2 vocab_size h among them. Other layers that
    `lora.targets` may name count nothing.
    """
    h, layers = run.model.hidden_size, run.model.layers
    k = h * run.model.kv_heads // run.model.heads
    m = max(0, ((run.model.parameters - 2 * run.model.vocab_size * h) // layers - 2 * h * h - 2 * h * k) // (3 * h))
    sizes = {"q_proj": h + h, "o_proj": h + h, "k_proj": h + k, "v_proj": h + k}
    sizes |= {"gate_proj": h + m, "up_proj": h + m, "down_proj": h + m}
    wanted = [target.rpartition(".")[2] for target in lora.targets] or sizes
    return lora.rank * layers * sum(sizes.get(name, 0) for name in wanted)


def learning_parameters(run: RunConfig, lora: LoRA) -> float:
    return adapter_parameters(run, lora) if lora.rank else run.model.parameters


def trained_bytes(run: RunConfig, lora: LoRA, workers: int) -> float:
    """Bytes on each worker's device for a role that learns."""
    stage = run.strategy.zero_stage if run.strategy.name == "deepspeed" else 0
    weights = grads = dtype_bytes(run.strategy.dtype)
    states = 16 - weights - grads
    if run.strategy.offload_optimizer:
        states, grads = 0, grads if stage < 2 else 0
    sharded = (states if stage >= 1 else 0) + (grads if stage >= 2 else 0) + (weights if stage >= 3 else 0)
    whole = weights + grads + states - sharded
    return learning_parameters(run, lora) * (whole + sharded / workers) + frozen_bytes(run, lora, workers)


def frozen_bytes(run: RunConfig, lora: LoRA, workers: int) -> float:
    """Bytes on each worker's device for weights beside adapters."""
    each = 0.5 if lora.quantize != "none" else dtype_bytes(run.strategy.dtype)
    return run.model.parameters * each / shards(run, workers) if lora.rank else 0


def average_bytes(run: RunConfig, workers: int) -> float:
    """Bytes of the moving average on each worker of the policy: float32, and sharded where the weights are."""
    return 4 * learning_parameters(run, run.policy.lora) / shards(run, workers) if run.policy.ema else 0


def shards(run: RunConfig, workers: int) -> int:
    """Parts that the weights of a role are cut into."""
    return workers if run.strategy.name == "deepspeed" and run.strategy.zero_stage == 3 else 1


def reference_bytes(run: RunConfig, workers: int) -> float:
    return run.model.parameters * dtype_bytes(run.strategy.dtype) / shards(run, workers)


def engine_weights_gib(run: RunConfig, tensor_parallel: int) -> float:
    """Weights on each GPU of an engine."""
    return run.model.parameters * dtype_bytes(run.engine.dtype) / tensor_parallel / GIB


def role_gib(run: RunConfig, role: str, place: RoleLayout) -> float:
    """Floor of one worker of a role, on each of its GPUs or in main memory; 0 where nothing is known."""
    if role in TRAINED:
        average = average_bytes(run, place.workers) if role == "policy" else 0
        return (trained_bytes(run, trained(run, role).lora, place.workers) + average) / GIB
    if role == "reference":
        return reference_bytes(run, place.workers) / GIB
    if role == "engine" and place.all_gpus and run.engine.name == "vllm":
        return run.engine.memory_fraction * run.cluster.gpu.memory_gib
    if role == "engine":
        cache = run.engine.kv_cache_gib if run.engine.name == "vllm" else 0
        return cache + engine_weights_gib(run, 1)
    return 0.0


def gpu_floor(run: RunConfig) -> dict[str, float]:
    """GiB per role on the GPU that has the most to hold."""
    shares: dict[int, dict[str, float]] = {}
    for role, place in layout(run).items():
        for gpu in place.all_gpus:
            shares.setdefault(gpu, {})[role] = role_gib(run, role, place)
    return max(shares.values(), key=lambda roles: sum(roles.values()), default={})


def host_floor(run: RunConfig) -> dict[str, float]:
    """GiB of main memory per role on one node: roles without GPUs, and offloaded optimizers."""
    found = {}
    for role, place in layout(run).items():
        if not place.all_gpus and not (role == "engine" and run.cluster.backend == "local"):
            found[role] = role_gib(run, role, place) * place.workers / run.cluster.nodes
        if role in TRAINED and run.strategy.offload_optimizer:
            states = 16 * learning_parameters(run, trained(run, role).lora) / GIB
            found[role] = found.get(role, 0.0) + states / run.cluster.nodes
    return found

"""What fits (`config/memory.py`)."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.memory import ENGINE_WEIGHTS_SHARE, engine_weights_gib, gpu_floor, host_floor
from rlhf_hydra.config.resolve import resolve
from rlhf_hydra.config.rules.placement import known_layout, sharding
from rlhf_hydra.config.schema import RunConfig


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

"""Values that the user left to the project, turned into explicit numbers, which `run.yaml` records."""

from rlhf_hydra.config.layout import gpu_numbers
from rlhf_hydra.config.memory import ENGINE_WEIGHTS_SHARE, engine_weights_gib
from rlhf_hydra.config.schema import RunConfig


def resolve(run: RunConfig) -> RunConfig:
    """The same run, its open values set. It must not be frozen yet."""
    if run.engine.tensor_parallel == 0:
        run.engine.tensor_parallel = smallest_tensor_parallel(run)
    return run


def tensor_parallel_sizes(run: RunConfig) -> list[int]:
    """Sizes that divide the attention heads and the engine's GPUs and stay within a node."""
    gpus = len(gpu_numbers(run.cluster.placement.engine.gpus)) or 1
    heads, kv_heads = run.model.heads, run.model.kv_heads
    sizes = range(1, max(run.cluster.gpus_per_node, 1) + 1)
    return [n for n in sizes if gpus % n == 0 and heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)]


def smallest_tensor_parallel(run: RunConfig) -> int:
    """The smallest size at which the weights fit into the engine's share of a GPU; the largest if none does."""
    try:
        sizes = tensor_parallel_sizes(run) or [1]
        room = ENGINE_WEIGHTS_SHARE * run.engine.memory_fraction * run.cluster.gpu.memory_gib
        return next((n for n in sizes if engine_weights_gib(run, n) <= room), sizes[-1])
    except (TypeError, ValueError):  # a fact is missing or a seat cannot be read: `check` says so
        return 1

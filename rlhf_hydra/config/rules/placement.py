"""Who sits where, and what can sit there."""

from collections.abc import Iterator
from dataclasses import fields

from rlhf_hydra.config.errors import Problem
from rlhf_hydra.config.layout import TRAINED, RoleLayout, gpu_numbers, layout, roles, seat, trained
from rlhf_hydra.config.resolve import tensor_parallel_sizes
from rlhf_hydra.config.schema import LoRA, RunConfig


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
    """vLLM on a cluster with GPUs takes some; only there can an engine sleep."""
    gpus = run.cluster.placement.engine.gpus
    if run.engine.name == "vllm" and run.cluster.gpus_per_node and gpus is None:
        fix = f"Set it to some of 0-{run.cluster.nodes * run.cluster.gpus_per_node - 1}."
        yield Problem("", "cluster.placement.engine.gpus", "the engine has no GPU on a cluster that has them", fix)
    if run.engine.sleep and gpus is None:
        yield Problem("", "engine.sleep", "only engines on GPUs can give their memory back", "Set engine.sleep=false.")


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


def half_precision(run: RunConfig) -> Iterator[Problem]:
    """DeepSpeed scales losses of float16 on GPUs, and (up to 0.19) only where it shards something."""
    if run.strategy.name != "deepspeed" or run.strategy.dtype != "float16":
        return
    if blind := [role for role in TRAINED if role in roles(run) and not seat(run, role).gpus]:
        says = f"DeepSpeed trains in float16 on GPUs, and the {blind[0]} has none on cluster={run.cluster.name}"
        yield Problem("", "strategy.dtype", says, "Set it to bfloat16 or float32, or strategy.name=single.")
    if run.strategy.zero_stage == 0:
        says = "with strategy.zero_stage=0 DeepSpeed does not scale the loss, and gradients of float16 vanish"
        yield Problem("", "strategy.dtype", says, "Set strategy.zero_stage=1, or strategy.dtype=bfloat16.")


def whole_matrices(run: RunConfig) -> Iterator[Problem]:
    """Muon turns whole matrices; DeepSpeed keeps gradients and states in flat pieces, and clips after the turn."""
    for role in (role for role in TRAINED if role in roles(run)):
        if trained(run, role).optim.name == "muon" and run.strategy.name != "single":
            says = f"works on whole matrices, and strategy.name={run.strategy.name} holds them in flat pieces"
            yield Problem("", f"{role}.optim.name", says, "Set strategy.name=single, or take adamw.")


def adapters(run: RunConfig) -> Iterator[Problem]:
    """Settings of adapters need adapters; 4-bit weights cannot be cut into parts."""
    for role in (role for role in TRAINED if role in roles(run)):
        lora, key = trained(run, role).lora, f"{role}.lora"
        if lora.rank == 0 and lora != LoRA():
            odd = next(f.name for f in fields(lora) if getattr(lora, f.name) != getattr(LoRA(), f.name))
            fix = f"Set {key}.rank=16, for example, or drop it."
            yield Problem("", f"{key}.{odd}", f"{key}.rank=0, so there are no adapters and all weights learn", fix)
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

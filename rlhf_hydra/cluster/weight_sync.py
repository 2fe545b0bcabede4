"""New weights from the policy to the engines: in memory, in place, versioned, and checked afterwards.

In one process the engine copies from the policy's tensors. Over Ray they pass through the object store, which engines
on the same node read in place.
"""

import torch

from rlhf_hydra.batch import Images, RolloutBatch
from rlhf_hydra.cluster.crew import Crew
from rlhf_hydra.cluster.group import LocalGroup
from rlhf_hydra.cluster.roles import Engines, TokenModel
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import RunConfig

BUCKET_BYTES = 256 * 2**20


class OutOfStep(Failure):
    """The engine's weights are not the policy's."""


def push(policy: TokenModel, engines: Engines, version: int) -> None:
    """Replace the weights of all engines; from now on they sample as `version`."""
    engines.group.all("wake").get()
    engines.group.all("begin_update").get()
    if isinstance(policy.group, LocalGroup) and isinstance(engines.group, LocalGroup):
        for engine in engines.group.workers:
            engine.load(policy.group.workers[0].weights())
    else:
        for bucket in policy.group.stream("weight_buckets", BUCKET_BYTES):
            engines.group.all("load", bucket).get()
    engines.group.all("finish_update", version).get()


def refresh(crew: Crew, run: RunConfig, step: int) -> None:
    """Let the reference follow the policy, as `reference.*` says, now that `step` is done."""
    cfg, reference = run.reference, crew.reference
    if reference is None:
        return
    if cfg.ema is not None:
        follow(crew.policy, reference, cfg.ema)
    if cfg.refresh_every and step % cfg.refresh_every == 0:
        follow(crew.policy, reference, 0.0)


def follow(policy: TokenModel, reference: TokenModel, keep: float) -> None:
    """reference <- keep * reference + (1 - keep) * policy."""
    if isinstance(policy.group, LocalGroup) and isinstance(reference.group, LocalGroup):
        for worker in reference.group.workers:
            worker.follow(policy.group.workers[0].weights("float32"), keep)
        return
    for bucket in policy.group.stream("weight_buckets", BUCKET_BYTES, "float32"):
        reference.group.all("follow", bucket, keep).get()


def verify(
    policy: TokenModel,
    engines: Engines,
    sequences: list[list[int]],
    version: int,
    tolerance: float,
    images: Images = (),
) -> float:
    """The difference per token after a sync. OutOfStep unless every engine is at `version` and within `tolerance`."""
    versions = engines.group.all("version").get()
    if set(versions) != {version}:
        raise OutOfStep(f"the engines hold weights {versions}, the policy is at {version}")
    found = difference(policy, engines, sequences, images)
    if not found <= tolerance:
        raise OutOfStep(
            f"engine and policy differ by {found:.2g} nats a token after weight sync {version} "
            f"(engine.parity_tolerance={tolerance:g}). Likely causes: engine.dtype is not "
            "strategy.dtype; the engine does not map this model's parameter names; attention kernels of low precision."
        )
    return found


def difference(policy: TokenModel, engines: Engines, sequences: list[list[int]], images: Images = ()) -> float:
    """Mean |log p_engine - log p_policy| over the tokens of `sequences` at temperature 1, of the worst engine."""
    heads, tails = [s[:1] for s in sequences], [s[1:] for s in sequences]
    probe = RolloutBatch.from_sequences(heads, tails, group=range(len(sequences)), images=images)
    wanted = policy.logprobs(probe, 1.0).get()
    gaps = []
    for rows in engines.logprobs(sequences, images):
        got = torch.zeros_like(wanted)
        for row, values in enumerate(rows):
            got[row, 1 : len(values)] = torch.tensor(values[1:])
        gaps.append(((got - wanted).abs() * probe.response_mask).sum() / probe.response_mask.sum().clamp(min=1))
    return float(torch.stack(gaps).max())  # NaN if any is: Python's max would pass over it

"""`model` and `cluster`: what is trained, and on what."""

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from rlhf_hydra.config.schema.section import Section, choice, number, part


@dataclass
class Model(Section):
    name: str = MISSING
    """Name of the choice: `model=<name>`; part of the run folder's name."""
    path: str = MISSING
    """Local folder, hub id such as `Qwen/Qwen2.5-0.5B-Instruct`, or `builtin:tiny`, which the project makes itself."""
    hub: str = choice("huggingface", "huggingface", "modelscope")
    """Where `path` is looked up when it is not a local folder."""
    revision: Optional[str] = None
    """Branch, tag or commit on the hub. null: the default branch."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    context_tokens: int = number(MISSING, gt=0)
    """Longest sequence that the model can read."""
    layers: int = number(MISSING, gt=0)
    hidden_size: int = number(MISSING, gt=0)
    heads: int = number(MISSING, gt=0)
    """Query heads; tensor parallel sizes must divide it."""
    kv_heads: int = number(MISSING, gt=0)
    vocab_size: int = number(MISSING, gt=0)
    parameters: int = number(MISSING, gt=0)
    """Number of parameters."""


@dataclass
class GPU(Section):
    name: str = "none"
    memory_gib: float = number(0.0, ge=0)
    """Usable memory of one GPU."""
    bandwidth_gb_s: float = number(0.0, ge=0)
    """Memory bandwidth of one GPU."""
    bf16_tflops: float = number(0.0, ge=0)
    """Dense bf16 peak of one GPU."""


@dataclass
class Interconnect(Section):
    intra_node_gb_s: float = number(0.0, ge=0)
    """Per GPU and direction, inside a node (NVLink or PCIe)."""
    inter_node_gb_s: float = number(0.0, ge=0)
    """Per node and direction, between nodes."""
    peer_to_peer: bool = True
    """GPUs of a node read each other's memory directly (false on GeForce cards)."""


@dataclass
class Seat(Section):
    """Where one role sits. Roles that name the same GPUs share them."""

    gpus: Optional[str] = None
    """Cluster-wide GPU numbers, e.g. `0-7` or `0,2,4-5`; one worker each (an engine takes `engine.tensor_parallel`).
    null: no GPU."""
    workers: int = number(1, ge=1)
    """Number of workers of a role without GPUs; with `gpus` it follows from them."""


@dataclass
class Placement(Section):
    policy: Seat = part(Seat)
    critic: Seat = part(Seat)
    reference: Seat = part(Seat)
    reward: Seat = part(Seat)
    engine: Seat = part(Seat)


def is_dashboard(address: str | None) -> bool:
    """Whether commands are sent to `address`, such as `http://head:8265`, rather than connected with it."""
    return (address or "").startswith(("http://", "https://"))


@dataclass
class Cluster(Section):
    """Hardware facts, and who sits where."""

    name: str = MISSING
    """Name of the choice: `cluster=<name>`."""
    backend: str = choice("ray", "local", "ray")
    """`local`: every role in this process, no Ray. `ray`: every worker an actor."""
    nodes: int = number(1, ge=1)
    gpus_per_node: int = number(0, ge=0)
    memory_gib: float = number(0.0, ge=0)
    """Main memory of one node. 0: unknown, and not checked."""
    gpu: GPU = part(GPU)
    interconnect: Interconnect = part(Interconnect)
    address: Optional[str] = None
    """Address of a running Ray cluster: `host:port` where this machine is a node of it, `http://host:8265` to send it
    the command (`docs/sweeps.md`). null: `RAY_ADDRESS`, or else a private one on this machine."""
    cpus_per_worker: float = number(1.0, gt=0)
    """CPU cores that Ray sets aside for a worker (and for a GPU, shared by its residents)."""
    placement: Placement = part(Placement)
    start_timeout_s: float = number(120.0, gt=0)
    """How long to wait for the placement group before giving up with a table of asked against available."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the command is sent to `address`, the URL of a cluster's dashboard."""
        return is_dashboard(self.address)

"""Workers as Ray actors, all in one placement group of the run: all seats or none."""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlhf_hydra.cluster.berth import ENGINE, VARIABLE
from rlhf_hydra.cluster.group import Factory, Pending, WorkerFailed, invoke
from rlhf_hydra.cluster.hardware import NotEnough, bundles, comparison, gpus_asked, preflight, require, seated, torn
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.layout import RoleLayout, layout
from rlhf_hydra.config.schema import RunConfig, is_dashboard

QUIET = {
    # torch's threads spin while they wait, which starves the other actors of a small machine.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

HEAR_S = 1.0
"""How long a wait for a worker may be deaf to signals."""
GOODBYE_S = 5.0
"""How long a worker may take to free what it holds."""


LESS_MEMORY = (
    "Lower policy.tokens_per_microbatch, critic.tokens_per_microbatch or engine.memory_fraction; "
    "strategy.gradient_checkpointing=true, zero_stage=3 and offload_optimizer=true take less too."
)


class Actor:
    """A worker in a process of its own."""

    worker: Any

    def address(self) -> tuple[str, int]:
        """Where the first worker of a role can be met."""
        with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as sock:
            sock.bind(("", 0))
            return ray.util.get_node_ip_address(), sock.getsockname()[1]

    def start(self, factory: Factory, rank: Any, address: tuple[str, int]) -> bool:
        """Make the worker, unless it is one that stayed here when its run ended: whether it did."""
        if hasattr(self, "worker"):
            self.worker.renew()
            return True
        os.environ.update(MASTER_ADDR=address[0], MASTER_PORT=str(address[1]))
        self.worker = factory(rank)
        return False

    def call(self, method: str, *args: Any) -> Any:
        return invoke(self.worker, method, args)

    def put(self, method: str, *args: Any) -> list[Any]:
        """Call a generator; its items stay in the object store, references come back."""
        return [ray.put(item) for item in getattr(self.worker, method)(*args)]

    def close(self) -> None:
        if hasattr(self.worker, "close"):
            self.worker.close()


class Future:
    def __init__(self, role: str, method: str, refs: list[Any]) -> None:
        self.role, self.method, self.refs = role, method, refs

    def get(self) -> list[Any]:
        # Whichever worker fails first ends the wait: its peers may be stuck in a collective with it.
        waiting = list(self.refs)
        while waiting:
            done, waiting = self._first(waiting)
            try:
                ray.get(done)
            except ray.exceptions.RayError as error:
                rank = self.refs.index(done[0])
                raise WorkerFailed(f"{self.role} worker {rank} failed in `{self.method}`: {_reason(error)}") from error
        return ray.get(self.refs)

    def _first(self, waiting: list[Any]) -> tuple[list[Any], list[Any]]:
        done: list[Any] = []
        while not done:
            try:
                done, rest = ray.wait(waiting, num_returns=1, timeout=HEAR_S)
            except SystemError as error:  # as which Ray passes on what the handler of a signal has raised
                raise error.__cause__ or error from None
        return done, rest


class RayGroup:
    def __init__(self, role: str, factory: Factory, seats: RoleLayout, bundles: "Bundles") -> None:
        from rlhf_hydra.strategy.base import Rank

        self.role, self.size, self.stays = role, seats.workers, bundles.keeps(role)
        self.actors = [bundles.actor(role, rank) for rank in range(self.size)]
        address = self.actors[0].address.remote()
        refs = [actor.start.remote(factory, Rank(i, self.size), address) for i, actor in enumerate(self.actors)]
        self.ready = Future(role, "start", refs)
        """Of each worker, whether it is one that an earlier run has left."""

    def all(self, method: str, *args: Any) -> Pending:
        return self.each(method, [args] * self.size)

    def each(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Pending:
        refs = [actor.call.remote(method, *args) for actor, args in zip(self.actors, calls, strict=True)]
        return Future(self.role, method, refs)

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        refs = [actor.put.remote(method, *args) for actor in self.actors]
        yield from Future(self.role, method, refs).get()[0]

    def close(self) -> None:
        """Let the workers free what they hold, for a moment, then end them whatever they are doing. Those that stay
        are left alone."""
        actors, self.actors = self.actors, []
        if self.stays:
            return
        ray.wait([actor.close.remote() for actor in actors], num_returns=self.size, timeout=GOODBYE_S)
        for actor in actors:
            ray.kill(actor)


class Bundles:
    """The run's placement group: one bundle a GPU that is used, numbered node by node, and one a worker without GPU.

    It is the run's own, or its berth, which stays with the engines in it when the run ends.
    """

    def __init__(self, run: RunConfig) -> None:
        self.run, self.seats, self.berth = run, layout(run), os.environ.get(VARIABLE)
        self.gpus = sorted({gpu for seat in self.seats.values() for gpu in seat.all_gpus})
        self.on_cpu = [(role, i) for role, s in self.seats.items() for i in range(s.workers) if not s.gpus[i]]
        self.group = self._reserve(bundles(run))
        nodes: dict[int, str] = placement_group_table(self.group)["bundles_to_node_id"]
        self.bundle = seated(self.gpus, run.cluster.gpus_per_node, nodes)
        if apart := torn(self.seats, {gpu: nodes[bundle] for gpu, bundle in self.bundle.items()}):
            self.close()
            raise NotEnough(
                f"{apart}, and a worker is on one: lower engine.tensor_parallel, or wait until a node is free",
                comparison(run, gpus_asked(run), len(self.gpus), "the Ray cluster"),
            )

    def _reserve(self, wanted: list[dict[str, float]]) -> PlacementGroup:
        """NotEnough at once if the cluster could never hold it, and after `start_timeout_s` if others keep it busy."""
        asked = sum(bundle["CPU"] for bundle in wanted)
        total = ray.cluster_resources().get("CPU", 0)
        if asked > total:
            raise NotEnough(
                f"{len(wanted)} workers need {asked:g} CPUs, the cluster has {total:g}; lower cluster.cpus_per_worker",
                comparison(
                    self.run, gpus_asked(self.run), int(ray.cluster_resources().get("GPU", 0)), "the Ray cluster"
                ),
            )
        group = ray.util.get_placement_group(self.berth) if self.berth else reserve(self.run)
        if not group.wait(self.run.cluster.start_timeout_s):
            unreserve(group)
            free = ray.available_resources()
            raise NotEnough(
                f"{len(wanted)} bundles found no room in {self.run.cluster.start_timeout_s:g} s "
                f"(cluster.start_timeout_s): free are {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs",
                comparison(self.run, gpus_asked(self.run), int(free.get("GPU", 0)), "the Ray cluster, free"),
            )
        return group

    def actor(self, role: str, rank: int) -> Any:
        """The process of one worker, on its seat: a new one, or of a role that stays the one that is there."""
        stays: dict[str, Any] = {}
        if self.keeps(role):
            stays = {"name": f"{self.berth}/{role}/{rank}", "lifetime": "detached"}
            with suppress(ValueError):  # there is none, or it has died
                return ray.get_actor(stays["name"])
        gpus = self.seats[role].gpus[rank]
        residents = sum(gpus[0] in seat.all_gpus for seat in self.seats.values()) if gpus else 1
        options = {
            "num_cpus": self.run.cluster.cpus_per_worker / residents,
            "num_gpus": 1 / residents if gpus else 0,
            "scheduling_strategy": self._seat(role, rank),
            "runtime_env": {"env_vars": self._environment(role, gpus)},
        }
        return ray.remote(Actor).options(**options, **stays).remote()

    def keeps(self, role: str) -> bool:
        return bool(self.berth) and role == ENGINE

    def _seat(self, role: str, rank: int) -> PlacementGroupSchedulingStrategy:
        gpus = self.seats[role].gpus[rank]
        bundle = self.bundle[gpus[0]] if gpus else len(self.gpus) + self.on_cpu.index((role, rank))
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=bundle)

    def _environment(self, role: str, gpus: tuple[int, ...]) -> dict[str, str]:
        if not gpus:
            threads = max(1, (os.cpu_count() or 1) // self.seats[role].workers)
            # Ray shows all GPUs of a node to an actor that has asked for none.
            return QUIET | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(threads)}
        if len(gpus) == 1:
            return QUIET
        # An actor lives in one bundle, but an engine over several GPUs must see all of them.
        devices = ray.get([self._device(gpu) for gpu in gpus])
        return QUIET | {
            "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1",
            "CUDA_VISIBLE_DEVICES": ",".join(map(str, devices)),
        }

    def _device(self, gpu: int) -> Any:
        """The number by which its node knows this GPU."""
        seat = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.bundle[gpu])
        return ray.remote(_first_gpu).options(num_cpus=0, num_gpus=0.001, scheduling_strategy=seat).remote()

    def close(self) -> None:
        if not self.berth:
            unreserve(self.group)


def reserve(run: RunConfig, name: str = "") -> PlacementGroup:
    """What the run asks; it need not be there at once, and ends with this process at the latest."""
    return ray.util.placement_group(bundles(run), strategy="PACK", name=name)


def unreserve(group: PlacementGroup) -> None:
    """Every actor in it ends too."""
    ray.util.remove_placement_group(group)


@contextmanager
def connected(run: RunConfig) -> Iterator[None]:
    """In the Ray cluster of this process, else the configured one, else a private one on this machine.

    NotEnough if it lacks the GPUs. What was entered here is left here; a private cluster ends.
    """
    if ray.is_initialized():
        require(run, cluster_gpus(), "the Ray cluster")
        yield
        return
    preflight(run)
    with attached(run.cluster.address or os.environ.get("RAY_ADDRESS")):
        require(run, cluster_gpus(), "the Ray cluster")
        yield


@contextmanager
def attached(address: str | None) -> Iterator[str]:
    """In the Ray cluster at `address`, or else in a private one on this machine, which ends with the block; its
    address, under which other processes find it."""
    if is_dashboard(address):
        raise Failure(f"{address} is a dashboard, which takes commands: add cluster.address={address} to this one")
    # A namespace of ours: in it a trial finds what its sweep has named.
    options: dict[str, Any] = {"namespace": "rlhf_hydra", "log_to_driver": False, "logging_level": "ERROR"}
    with tempfile.TemporaryDirectory(prefix="rlhf_hydra_ray_", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            # A folder of its own leaves other clusters alone; a short one, since Unix sockets allow 107 characters.
            private = {"address": "local", "include_dashboard": False, "_temp_dir": folder}
            with kept_signals():
                ray.init(**({"address": address} if address else private), **options)
            yield address or ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


def cluster_resources() -> dict[str, float]:
    """CPUs, GPUs and memory of all nodes of the cluster that this process is in."""
    return ray.cluster_resources()


@contextmanager
def kept_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; who listened before goes on listening."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def cluster_gpus() -> list[int]:
    """GPUs of each living node."""
    return [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]


def _first_gpu() -> str:
    return str(ray.get_gpu_ids()[0])


def _reason(error: Exception) -> str:
    """A failure's own words; of anything else where it happened too, and the way out of too little memory."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Failure):
        return str(cause)
    return str(error).strip() + (f"\n{LESS_MEMORY}" if isinstance(cause, torch.OutOfMemoryError) else "")

"""Asked against available: what a run needs, what this machine or cluster has, as a table before anything waits."""

import os
import shutil
import subprocess
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from io import StringIO
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.layout import RoleLayout, layout
from rlhf_hydra.config.schema import RunConfig


class NotEnough(Failure):
    """The cluster cannot hold the run; the message ends in a table of asked against available."""

    def __init__(self, message: str, table: Table) -> None:
        console = Console(file=StringIO(), width=100)
        console.print(table)
        super().__init__(f"{message}\n{console.file.getvalue().rstrip()}")  # type: ignore[attr-defined]


def gpus_here() -> int:
    """NVIDIA GPUs that this process may use; without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([v for v in visible.split(",") if v.strip() and v.strip() != "-1"])
    devices = Path("/proc/driver/nvidia/gpus")
    if devices.is_dir():
        return len(list(devices.iterdir()))
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def preflight(run: RunConfig) -> None:
    """NotEnough, before anything is loaded, where a run that names no Ray cluster asks more than this machine has."""
    if run.cluster.backend == "ray" and not (run.cluster.address or os.environ.get("RAY_ADDRESS")):
        require(run, [gpus_here()], "this machine")


def bundles(run: RunConfig) -> list[dict[str, float]]:
    """What a run over Ray reserves, all or nothing: a bundle for each GPU that it uses and for each worker without."""
    seats = layout(run).values()
    gpus = {gpu for seat in seats for gpu in seat.all_gpus}
    on_cpu = sum(not worker for seat in seats for worker in seat.gpus)
    share = run.cluster.cpus_per_worker
    return [{"GPU": 1.0, "CPU": share} for _ in gpus] + [{"CPU": share} for _ in range(on_cpu)]


def seated(gpus: Sequence[int], per_node: int, nodes: Mapping[int, str]) -> dict[int, int]:
    """GPU -> its bundle, one of the first `len(gpus)`, of which `nodes` says where Ray has put them.

    GPUs that the config puts on one node get bundles of one node, wherever Ray has packed as many together.
    """
    asked = together(gpus, lambda gpu: gpu // per_node)
    found = together(range(len(gpus)), nodes.__getitem__)
    return dict(zip(chain(*asked), chain(*found), strict=True))


def torn(seats: Mapping[str, RoleLayout], nodes: Mapping[int, str]) -> str | None:
    """The first worker whose GPUs are on several nodes, in words. `nodes`: where each GPU is."""
    for role, seat in seats.items():
        for gpus in seat.gpus:
            if (count := len({nodes[gpu] for gpu in gpus})) > 1:
                return f"the GPUs {', '.join(map(str, gpus))} of the {role} are on {count} nodes"
    return None


def together(items: Iterable[int], place: Callable[[int], Hashable]) -> list[list[int]]:
    """The items at each place, the fullest place first."""
    at: dict[Hashable, list[int]] = {}
    for item in items:
        at.setdefault(place(item), []).append(item)
    return sorted(at.values(), key=len, reverse=True)


def gpus_asked(run: RunConfig) -> dict[str, set[int]]:
    """Cluster-wide GPU numbers of each role of the run."""
    return {role: set(seat.all_gpus) for role, seat in layout(run).items()}


def require(run: RunConfig, gpus_per_node: list[int], where: str) -> None:
    """NotEnough, with a table, unless the nodes have the GPUs that `cluster` promises and the roles use."""
    asked = gpus_asked(run)
    total = len(set().union(*asked.values()))
    if total == 0:
        return
    nodes = -(-total // run.cluster.gpus_per_node)
    usable = sorted(gpus_per_node, reverse=True)[:nodes]
    if len(usable) == nodes and sum(min(n, run.cluster.gpus_per_node) for n in usable) >= total:
        return
    raise NotEnough(
        f"cluster={run.cluster.name} needs {total} GPUs ({nodes} x {run.cluster.gpus_per_node}), "
        f"{where} has {sum(gpus_per_node)}",
        comparison(run, asked, sum(gpus_per_node), where),
    )


def comparison(run: RunConfig, asked: dict[str, set[int]], available: int, where: str) -> Table:
    table = Table(title=f"cluster={run.cluster.name} on {where}", title_justify="left")
    for column in ("role", "workers", "GPUs asked", "available"):
        table.add_column(column)
    seats = layout(run)
    for role, gpus in asked.items():
        missing = sum(gpu >= available for gpu in gpus)
        state = "[green]yes[/]" if not missing else f"[red]{missing} missing[/]"
        table.add_row(role, str(seats[role].workers), ",".join(map(str, sorted(gpus))) or "-", state)
    total = len(set().union(*asked.values()))
    table.add_section()
    table.add_row("all", "", f"{total} x {run.cluster.gpu.name}", str(available))
    return table

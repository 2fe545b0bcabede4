"""How many trials fit at once: what each reserves, against what there is."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from rlhf_hydra.cluster.hardware import NotEnough, bundles, gpus_here
from rlhf_hydra.config.memory import host_floor
from rlhf_hydra.config.schema import RunConfig

PROCESS_GIB = 1.5
"""Main memory of a trial's own process, the libraries that it loads above all."""

CORES, MEMORY, GPU_HERE = "cores of this machine", "GiB of this machine", "GPU of this machine"

Amounts = Mapping[str, float]


def asked(run: RunConfig) -> dict[str, float]:
    """Over Ray what the trial's placement group holds; in one process a core, the models, and any GPU."""
    if run.cluster.backend == "ray":
        total: Counter[str] = Counter()
        for bundle in bundles(run):
            total.update(bundle)  # type: ignore[arg-type]
        return {**total, MEMORY: PROCESS_GIB}
    return {CORES: 1.0, MEMORY: PROCESS_GIB + sum(host_floor(run).values()), GPU_HERE: float(gpus_here() > 0)}


def here() -> dict[str, float]:
    """What this machine has, as a Ray cluster (CPU, GPU) and without one; in-process trials take the first GPU."""
    cores, gpus = float(len(os.sched_getaffinity(0))), float(gpus_here())
    return {"CPU": cores, "GPU": gpus, CORES: cores, MEMORY: memory_gib(), GPU_HERE: min(gpus, 1.0)}


def memory_gib(groups: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> float:
    """Of this machine, or what a container or a job leaves this process of it (control groups, version 2)."""
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    own = mine.read_text().rpartition("::/")[2].strip() if mine.exists() else ""
    for group in (groups / own, *(groups / own).parents):
        file = group / "memory.max"
        if group.is_relative_to(groups) and file.exists() and (limit := file.read_text().strip()) != "max":
            known.append(int(limit))
    return min(known) / 2**30


@dataclass
class Room:
    total: Amounts
    most: int = 0
    """Trials at a time, whatever fits; 0: no limit."""
    taken: list[Amounts] = field(default_factory=list)

    def require(self, runs: Mapping[str, RunConfig]) -> None:
        """NotEnough, with numbers, if one of the runs could never start, however long it waited."""
        for key, run in runs.items():
            wanted = asked(run)
            if lacking := [name for name, amount in wanted.items() if amount > self.total.get(name, 0.0) + 1e-9]:
                says = ", ".join(f"{wanted[n]:.3g} {n}, there are {self.total.get(n, 0.0):.3g}" for n in lacking)
                raise NotEnough(f"trial {key} could never start: it needs {says}", comparison(wanted, self.total))

    def fits(self, run: RunConfig, beside: Sequence[Amounts] = ()) -> bool:
        """`beside`: what else is there, which counts like trials."""
        taken = [*self.taken, *beside]
        if not taken:
            return True
        if self.most and len(taken) >= self.most:
            return False
        used = sum((Counter(amounts) for amounts in taken), Counter())
        wanted = asked(run)
        return all(used[name] + amount <= self.total.get(name, 0.0) + 1e-9 for name, amount in wanted.items())

    def take(self, run: RunConfig) -> Amounts:
        wanted = asked(run)
        self.taken.append(wanted)
        return wanted

    def give_back(self, amounts: Amounts) -> None:
        self.taken.remove(amounts)

    def at_once(self, run: RunConfig) -> tuple[int, str]:
        """How many trials like `run` fit, and what sets the limit."""
        limits = [(self.most, "sweep.max_parallel")] if self.most else []
        for name, amount in asked(run).items():
            if amount:
                total = self.total.get(name, 0.0)
                limits.append((int(total / amount + 1e-9), f"each takes {amount:.3g} of {total:.3g} {name}"))
        return min(limits, key=lambda limit: limit[0])


def comparison(wanted: Amounts, total: Amounts) -> Table:
    table = Table("", "asked", "available")
    for name, amount in wanted.items():
        table.add_row(name, f"{amount:.3g}", f"{total.get(name, 0.0):.3g}")
    return table

"""`sweep`: many runs."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

from rlhf_hydra.config.schema.section import Section, choice, number, part


@dataclass
class Slurm(Section):
    """What a trial asks of Slurm, with `sweep.backend=slurm`: one node, and of it what follows from who sits where."""

    partition: Optional[str] = None
    account: Optional[str] = None
    qos: Optional[str] = None
    constraint: Optional[str] = None
    time_min: int = number(240, ge=1)
    """Minutes that a job may take. A trial that takes longer saves and goes on in the next one."""
    save_s: int = number(180, ge=1)
    """Seconds before the end of that time at which it is told to save."""
    gpus_per_node: Optional[int] = number(None, ge=1)
    """null: as many as the run uses."""
    cpus_per_task: Optional[int] = number(None, ge=1)
    """Cores of a trial. null: those of its workers (`cluster.cpus_per_worker`) and one for itself."""
    mem_gib: Optional[float] = number(None, gt=0)
    """Main memory of a trial. null: what Slurm gives to who does not ask."""
    setup: List[str] = field(default_factory=list)
    """Shell lines before the trial, such as `module load cuda`."""
    options: Dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch: `{reservation: NAME, exclusive: true}`."""


@dataclass
class Sweep(Section):
    """What `-m` does with the keys that have several values: trials, each a run of its own (`docs/sweeps.md`).

    `grid`: every combination of the values.
    """

    name: str = choice("grid", "grid", "random", "optuna")
    """Name of the choice: `sweep=<name>`."""
    backend: str = choice("local", "local", "slurm")
    """Where trials run. `local`: each in a process of this machine; over Ray, its workers where the cluster has room.
    `slurm`: each in a job of its own, an element of an array."""
    slurm: Slurm = part(Slurm)
    max_parallel: int = number(0, ge=0)
    """Most trials at a time. 0: as many as fit into the GPUs, CPUs and memory that there are."""
    zip: List[List[str]] = field(default_factory=list)
    """Keys whose values go together, first with first: `[[algo.kl.coef,policy.optim.lr]]`."""
    seeds: int = number(1, ge=1)
    """Runs of each combination, with `seed`, `seed` + 1, ..."""
    objective: Optional[str] = None
    """Metric by whose last value trials are ranked, over several seeds by the mean. null: where the run evaluates,
    `eval/pass@k`, or `eval/loss` of supervised ones; else none is ranked, since what the training itself improves is no
    judge unless it is named here."""
    direction: Optional[str] = choice(None, "max", "min")
    """Whether the largest or the smallest value is the best. null: `min` of a loss, else `max`."""
    constraints: List[str] = field(default_factory=list)
    """What the last values of a trial must satisfy to be the best, such as `kl <= 15` or `policy/entropy > 0.1`."""
    hang_timeout_s: Optional[float] = number(None, gt=0)
    """A trial that has said nothing for so long is ended. null: off."""
    warm_start: bool = True
    """Over Ray, a trial takes over the engines of one that has ended, if they are what it would load itself."""


@dataclass
class RandomSweep(Sweep):
    """Combinations drawn at random; keys may also be given as `interval(LOW,HIGH)`."""

    trials: int = number(20, ge=1)
    """Combinations to try."""


@dataclass
class OptunaSweep(RandomSweep):
    """Combinations chosen by Optuna from what the earlier ones gave."""

    sampler: str = choice("tpe", "tpe", "nsga2")
    """tpe: tree-structured Parzen estimator. nsga2: a genetic algorithm."""
    against: Optional[str] = None
    """Second objective, always kept small, such as `policy/kl`: the search follows the frontier of both. null: none."""
    pruner: str = choice("none", "none", "median", "halving")
    """Ends trials that do worse than others at the same step. median: than half of them; halving: than the better part
    of them, ever more strictly (successive halving, arXiv 1810.05934)."""

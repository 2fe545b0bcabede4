"""The whole run."""

from dataclasses import dataclass, field
from typing import Any, List, Optional

from omegaconf import MISSING

from rlhf_hydra.config.schema.algo import GRPO, PPO, RL, Algo, Reinforce, ReMax
from rlhf_hydra.config.schema.cluster import Cluster, Model
from rlhf_hydra.config.schema.data import Blend, Data, ToyData
from rlhf_hydra.config.schema.reward import (
    CompositeReward,
    FunctionReward,
    ModelReward,
    ProcessReward,
    Reward,
    RuleReward,
)
from rlhf_hydra.config.schema.sampling import Engine, Eval, Rollout
from rlhf_hydra.config.schema.section import Section, choice, choices, number, part
from rlhf_hydra.config.schema.supervised import DPO, KD, KTO, ORPO, PRM, RM, SFT, SimPO, Supervised
from rlhf_hydra.config.schema.sweep import OptunaSweep, RandomSweep, Sweep
from rlhf_hydra.config.schema.training import Critic, Guard, Policy, Reference, Strategy


@dataclass
class Task(Section):
    name: str = choice(
        MISSING, "train", "check", "resume", "sweep_resume", "rerun", "export", "lint", "report", "compare"
    )


@dataclass
class ReportTask(Task):
    """What is best among the trials of a report. A sweep has written down its own; what is set here counts instead."""

    objective: Optional[str] = None
    """Metric whose last value decides, its mean over seeds. null: that of the sweep, or of the first run that has one
    (`sweep.objective`); without any, none is the best."""
    direction: Optional[str] = choice(None, "max", "min")
    """Whether the largest or the smallest is the best. null: as in the sweep; of another `objective`, `min` of a loss,
    else `max`."""
    constraints: List[str] = field(default_factory=list)
    """What the best must meet besides, each `METRIC <= NUMBER`, such as `kl <= 0.2`."""


@dataclass
class Tracking(Section):
    """Where a run is told, besides the JSON lines and curves in its folder."""

    name: str = MISSING
    """Name of the choice: `tracking=<name>`."""
    use: List[str] = choices([], "tensorboard", "wandb", "mlflow", "trackio", "swanlab")
    """Trackers, any number: `tracking.use=[wandb,mlflow]`."""
    project: str = "rlhf_hydra"
    group: Optional[str] = None
    """Runs that belong together, such as those of a sweep: a group, or in MLflow a parent run with children."""
    tags: List[str] = field(default_factory=list)
    system: bool = True
    """Also CPU, memory and GPUs of the driver's machine, under `system/`."""
    model: bool = False
    """Upload the trained model in the end."""


@dataclass
class Checkpoint(Section):
    every: int = number(0, ge=0)
    """Steps between saves. 0: only at the end."""
    keep: int = number(2, ge=1)
    """Newest checkpoints that stay."""
    best: Optional[str] = None
    """Metric, such as `eval/pass@1`. Whenever it improves, the run is saved with the exported model, and that
    checkpoint, `checkpoints/best`, stays until the next best."""
    best_mode: Optional[str] = choice(None, "max", "min")
    """Whether the largest or the smallest is the best. null: the smallest of a loss, the largest of anything else."""
    patience: Optional[int] = number(None, ge=1)
    """Supervised: evaluations without a better `best` after which the run ends. null: it goes on."""


@dataclass
class RunConfig(Section):
    """One run."""

    task: Task = MISSING
    algo: Algo = MISSING
    model: Model = MISSING
    cluster: Cluster = MISSING
    data: Data = MISSING
    reward: Reward = MISSING
    tracking: Tracking = MISSING
    rollout: Rollout = part(Rollout)
    engine: Engine = part(Engine)
    policy: Policy = part(Policy)
    critic: Critic = part(Critic)
    reference: Reference = part(Reference)
    guard: Guard = part(Guard)
    strategy: Strategy = part(Strategy)
    eval: Eval = part(Eval)
    checkpoint: Checkpoint = part(Checkpoint)
    sweep: Sweep = part(Sweep)
    steps: int = number(100, ge=0)
    """RL: passes of the loop: sample, score, learn. Supervised: optimizer steps; 0: as `algo.epochs` says."""
    seed: int = number(42, ge=0)
    """Decides data order, sampling, initial heads: everything that is random."""
    outputs: str = "outputs"
    """Folder of all runs."""
    run: Any = None
    """Folder of a run, or a list of them: `task=resume` and `task=sweep_resume` go on with one, `task=report` also
    takes a sweep's folder and patterns such as `outputs/ppo-*/*`, `task=compare` takes two."""

    @property
    def rl(self) -> RL:
        """`algo` of a run that samples."""
        assert isinstance(self.algo, RL)
        return self.algo

    @property
    def supervised(self) -> Supervised:
        """`algo` of a run that learns from given texts."""
        assert isinstance(self.algo, Supervised)
        return self.algo


SCHEMAS: dict[str, type] = {
    "algo/ppo": PPO,
    "algo/grpo": GRPO,
    "algo/reinforce": Reinforce,
    "algo/remax": ReMax,
    "algo/sft": SFT,
    "algo/rm": RM,
    "algo/prm": PRM,
    "algo/dpo": DPO,
    "algo/simpo": SimPO,
    "algo/orpo": ORPO,
    "algo/kto": KTO,
    "algo/kd": KD,
    "model/model": Model,
    "cluster/cluster": Cluster,
    "data/data": Data,
    "data/toy": ToyData,
    "data/blend": Blend,
    "reward/rule": RuleReward,
    "reward/function": FunctionReward,
    "reward/model": ModelReward,
    "reward/process": ProcessReward,
    "reward/composite": CompositeReward,
    "task/task": Task,
    "task/report": ReportTask,
    "tracking/tracking": Tracking,
    "sweep/grid": Sweep,
    "sweep/random": RandomSweep,
    "sweep/optuna": OptunaSweep,
}
"""Schema of each choice: `defaults: [/schema/algo@_here_: ppo, _self_]` in `conf/algo/*.yaml`."""

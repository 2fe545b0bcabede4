"""Every key of a run: its type, default, allowed values and meaning, once.

YAML under `conf/` holds only what makes a choice that choice; everything else is here. Allowed values and
ranges are metadata of the field (`choice`, `number`), so `config/check.py` enforces them without a second list
and `docs/config.md` is generated from this folder. Units are in the names (`_tokens`, `_s`, `_gib`).
"""

from rlhf_hydra.config.schema.algo import (
    GAE,
    GRPO,
    KL,
    PPO,
    PTX,
    RL,
    Advantage,
    Algo,
    Correction,
    Filter,
    Greedy,
    Group,
    PolicyLoss,
    Reinforce,
    ReMax,
    Returns,
    Shaping,
    ValueLoss,
)
from rlhf_hydra.config.schema.cluster import GPU, Cluster, Interconnect, Model, Placement, Seat, is_dashboard
from rlhf_hydra.config.schema.data import Blend, Data, ToyData
from rlhf_hydra.config.schema.reward import (
    CompositeReward,
    FunctionReward,
    ModelReward,
    ProcessReward,
    Reward,
    RuleReward,
)
from rlhf_hydra.config.schema.run import SCHEMAS, Checkpoint, ReportTask, RunConfig, Task, Tracking
from rlhf_hydra.config.schema.sampling import Engine, Eval, Rollout
from rlhf_hydra.config.schema.section import Section, choice, choices, number, part
from rlhf_hydra.config.schema.supervised import DPO, KD, KTO, ORPO, PAIRS, PRM, RM, SFT, SimPO, Supervised, Teacher
from rlhf_hydra.config.schema.sweep import OptunaSweep, RandomSweep, Slurm, Sweep
from rlhf_hydra.config.schema.training import (
    SCHEDULES,
    Critic,
    Guard,
    LoRA,
    Optim,
    Policy,
    Reference,
    Strategy,
    Trained,
)

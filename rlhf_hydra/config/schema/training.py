"""`strategy`, `policy`, `critic`, `reference`, `guard`: how weights are held and changed."""

from dataclasses import dataclass, field
from typing import List, Optional

from rlhf_hydra.config.schema.section import Section, choice, number, part


@dataclass
class Strategy(Section):
    """How trained models are sharded and stepped."""

    name: str = choice("single", "single", "deepspeed")
    """`single`: one plain process. `deepspeed`: data parallel with ZeRO."""
    zero_stage: int = number(2, ge=0, le=3)
    """DeepSpeed: 0 shards nothing, 1 optimizer states, 2 also gradients, 3 also parameters."""
    offload_optimizer: bool = False
    """DeepSpeed: keep optimizer states in CPU memory and step there."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass."""
    dtype: str = choice("float32", "float32", "bfloat16", "float16")
    """Type of the forward and backward pass."""


SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
)


@dataclass
class Optim(Section):
    name: str = choice("adamw", "adamw", "muon")
    """`muon`: orthogonalized momentum (arXiv 2502.16982) for the matrices inside the model, scaled so that AdamW's
    learning rates serve; AdamW for embeddings, output layer, head and vectors."""
    lr: float = number(1e-6, gt=0, le=1)
    """Peak learning rate."""
    momentum: float = number(0.95, ge=0, lt=1)
    """Of Muon."""
    beta1: float = number(0.9, ge=0, lt=1)
    beta2: float = number(0.95, ge=0, lt=1)
    eps: float = number(1e-8, gt=0)
    weight_decay: float = number(0.0, ge=0)
    """Decoupled; not applied to biases and norms."""
    max_grad_norm: float = number(1.0, ge=0)
    """Global gradient norm above which gradients are scaled down. 0: off."""
    schedule: str = choice("cosine", *SCHEDULES)
    """After the warm-up; falls to `min_lr_ratio` at the last step, but for those that stay or fall for ever:
    constant (= constant_with_warmup), and inverse_sqrt. cosine_with_min_lr and cosine_warmup_with_min_lr are cosine."""
    warmup_ratio: float = number(0.03, ge=0, lt=1)
    """Share of all optimizer steps in which the rate rises linearly from 0."""
    min_lr_ratio: float = number(0.1, ge=0, le=1)
    """Rate at the end, relative to `lr`."""
    restarts: int = number(1, ge=1)
    """Of cosine_with_restarts: times that it falls."""
    power: float = number(1.0, gt=0)
    """Of polynomial."""
    decay_ratio: float = number(0.1, gt=0, le=1)
    """Of warmup_stable_decay: share of all optimizer steps in which the rate falls, at the end."""


@dataclass
class LoRA(Section):
    """Low-rank adapters (arXiv 2106.09685): layers compute W x + alpha / rank * B A x, and only A and B learn."""

    rank: int = number(0, ge=0)
    """Rows of A. 0: no adapters; all weights learn."""
    alpha: int = number(16, gt=0)
    dropout: float = number(0.0, ge=0, lt=1)
    """Of what A reads, while training."""
    targets: List[str] = field(default_factory=list)
    """Layers that get adapters, by the end of their names, such as `q_proj`. Empty: all linear layers of the language
    model but the output layer."""
    quantize: str = choice("none", "none", "nf4")
    """`nf4`: frozen weights of linear layers in 4 bits (QLoRA, arXiv 2305.14314). Needs bitsandbytes."""
    export: str = choice("merged", "merged", "adapter")
    """`merged`: an ordinary model, and the adapters beside it as `model-adapter`. `adapter`: only they, for PEFT."""


@dataclass
class Trained(Section):
    """A role that learns."""

    optim: Optim = part(Optim)
    lora: LoRA = part(LoRA)
    samples_per_update: int = number(128, ge=1)
    """Responses per optimizer step, over all ranks."""
    tokens_per_microbatch: int = number(16_384, ge=1)
    """Token budget of one forward and backward on one rank; sequences are packed into it."""


@dataclass
class Policy(Trained):
    ema: float = number(0.0, ge=0, lt=1)
    """Also keep an exponential moving average of the weights, e <- ema e + (1 - ema) w after each optimizer step, and
    export it as `model-ema`. 0: none."""
    router_coef: float = number(0.0, ge=0)
    """Mixture of experts: weight of the load-balancing loss of the routers. 0: it is not computed."""


@dataclass
class Critic(Trained):
    optim: Optim = part(Optim, lr=9e-6)
    path: Optional[str] = None
    """Start of the critic: a reward model, such as the run's own (`'critic.path=${reward.path}'`), or a language model.
    null: the policy's start, with a new head."""
    warmup_steps: int = number(0, ge=0)
    """First steps of the run, in which the critic learns and the policy does not."""


@dataclass
class Reference(Section):
    """What the KL is measured to: the policy's start, unless it follows the policy."""

    path: Optional[str] = None
    """Another model with the same vocabulary: local folder or id on `model.hub`. null: the policy's start."""
    refresh_every: int = number(0, ge=0)
    """Steps after which the reference becomes a copy of the policy, again and again. 0: never."""
    ema: Optional[float] = number(None, gt=0, lt=1)
    """After each step, reference <- ema * reference + (1 - ema) * policy. null: off."""


@dataclass
class Guard(Section):
    """When a run must not just go on. A run that is stopped leaves a dump that replays the step."""

    max_skips: int = number(10, ge=1)
    """Optimizer steps with a loss or gradient that is not finite are skipped; so many in a row stop the run."""
    kl_max: Optional[float] = number(None, gt=0)
    """Largest `policy/kl`. null: no limit."""
    entropy_min: Optional[float] = number(None, ge=0)
    """Smallest `policy/entropy`, in nats. null: no limit."""
    reward_drop: Optional[float] = number(None, gt=0)
    """How far `reward/mean` may fall below its best step. null: no limit."""
    action: str = choice("warn", "warn", "stop")
    """What happens at a limit."""

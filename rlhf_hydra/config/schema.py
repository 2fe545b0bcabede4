"""Every key of a run: its type, default, allowed values and meaning, once.

YAML under `conf/` holds only what makes a choice that choice; everything else is here. Allowed values and
ranges are metadata of the field (`choice`, `number`), so `config/check.py` enforces them without a second list
and `docs/config.md` is generated from this file. Units are in the names (`_tokens`, `_s`, `_gib`).
"""

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Any, ClassVar, Dict, List, Optional  # noqa: UP035  (OmegaConf reads these at run time)

from omegaconf import MISSING


def choice(default: Any, *options: str) -> Any:
    """A field that takes one of `options`."""
    return field(default=default, metadata={"choices": options})


def choices(default: Sequence[str], *options: str) -> Any:
    """A list of some of `options`."""
    return field(default_factory=lambda: list(default), metadata={"choices": options})


def number(
    default: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> Any:
    """A field whose value lies in a range; a `None` value is exempt."""
    bounds = {name: value for name, value in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if value is not None}
    return field(default=default, metadata={"bounds": bounds})


def part(kind: type, **changes: Any) -> Any:
    """A nested section, with `changes` to its own defaults."""
    return field(default_factory=lambda: kind(**changes))


class Section:
    """Base of all sections. `freeze` makes a tree read-only, once Hydra has finished writing into it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def freeze(self) -> "Section":
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            for child in value.values() if isinstance(value, dict) else [value]:
                if isinstance(child, Section):
                    child.freeze()
        object.__setattr__(self, "_frozen", True)
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise FrozenInstanceError(f"{type(self).__name__}.{name} is part of a resolved run and cannot be changed")
        object.__setattr__(self, name, value)


# --------------------------------------------------------------------------------------------------------- algo


@dataclass
class KL(Section):
    coef: float = number(0.0, ge=0, le=10)
    """Weight of the KL penalty to the reference, beta. 0: no penalty, and no reference model is built."""
    estimator: str = choice("k1", "k1", "k2", "k3", "abs")
    """Per-token estimate from d = logp - ref_logp. k1: d, k2: d^2/2, k3: exp(-d) - 1 + d, abs: |d|."""
    where: str = choice("reward", "reward", "loss")
    """`reward`: subtracted from each token's reward. `loss`: a term of the policy loss, differentiated."""
    clamp: float = number(10.0, gt=0)
    """The estimate is clamped to [-clamp, clamp]."""
    controller: str = choice("fixed", "fixed", "adaptive")
    """`adaptive` moves `coef` so that the measured KL stays near `target` (Ziegler et al., arXiv 1909.08593)."""
    target: float = number(0.1, gt=0)
    """KL per token that the adaptive controller aims at."""
    horizon: int = number(10_000, gt=0)
    """Samples over which the adaptive controller acts; smaller is faster."""


@dataclass
class Advantage(Section):
    """How rewards become advantages. Subclasses bring the keys of one estimator."""

    estimator: str = MISSING
    """Row of the estimator table (`algos/table.py`); set by the algorithm, not by hand."""
    whiten: str = choice("none", "none", "mean", "std")
    """Over the response tokens of the batch: subtract the mean, or also divide by the standard deviation."""
    whiten_over: str = choice("batch", "batch", "group")
    """Whose mean and deviation: of the whole batch, or of the responses to the same prompt."""


@dataclass
class GAE(Advantage):
    """Generalized advantage estimation (arXiv 1506.02438), with a critic."""

    estimator: str = choice("gae", "gae")
    whiten: str = choice("std", "none", "mean", "std")
    gamma: float = number(1.0, ge=0, le=1)
    """Discount per response token."""
    lam: float = number(0.95, ge=0, le=1)
    """lambda: 0 trusts the critic, 1 trusts the observed return."""


@dataclass
class Returns(Advantage):
    """Discounted reward-to-go of each token, without a critic."""

    estimator: str = choice("returns", "returns")
    whiten: str = choice("std", "none", "mean", "std")
    gamma: float = number(1.0, ge=0, le=1)
    """Discount per response token."""


@dataclass
class Group(Advantage):
    """Reward of a response against the other responses to the same prompt, without a critic."""

    estimator: str = choice("group", "group")
    baseline: str = choice("mean", "mean", "leave_one_out")
    """What is subtracted: the group's mean, or the mean of the others (RLOO)."""
    scale: str = choice("std", "none", "std")
    """`std` divides by the group's standard deviation (n - 1); a group of equal rewards gets 0."""


@dataclass
class Greedy(Advantage):
    """Reward of a response against the greedy response to the same prompt (ReMax), without a critic."""

    estimator: str = choice("greedy", "greedy")


@dataclass
class PolicyLoss(Section):
    """The surrogate objective of the policy."""

    kind: str = choice("clip", "clip", "sequence_clip", "detached_clip", "reinforce")
    """clip: PPO's token ratio. sequence_clip: GSPO's response ratio. detached_clip: CISPO. reinforce: no ratio."""
    clip_low: float = number(0.2, ge=0, le=1)
    """The ratio is clipped below at 1 - clip_low; 1: no lower bound."""
    clip_high: float = number(0.2, ge=0)
    """The ratio is clipped above at 1 + clip_high; larger than clip_low is "clip-higher"."""
    dual_clip: Optional[float] = number(None, gt=1)
    """For negative advantages the loss is at most dual_clip * |A| (arXiv 1912.09729). null: off."""
    aggregation: str = choice("token_mean", "token_mean", "sequence_mean", "sequence_sum")
    """Over one optimizer step and all ranks: mean over tokens; mean over responses of token means; sum over tokens
    divided by responses * max_response_tokens."""
    entropy_coef: float = number(0.0, ge=0)
    """Weight of the entropy bonus."""


@dataclass
class Correction(Section):
    """Importance weights for engines whose logprobs differ from the policy's, u = exp(old_logprobs - rollout_logprobs).

    TIS: weight token. IcePop: weight and mask token. Sequence masks: mask sequence or geometric.
    """

    weight: str = choice("none", "none", "token", "sequence")
    """Each token's loss times u of the token, or of the whole response, within [weight_low, weight_high]."""
    weight_low: float = number(0.5, ge=0)
    weight_high: float = number(5.0, gt=0)
    mask: str = choice("none", "none", "token", "sequence", "geometric")
    """Tokens are left out where u of the token, of the response, or the response's geometric mean of u is outside
    [mask_low, mask_high]."""
    mask_low: float = number(0.5, ge=0)
    mask_high: float = number(5.0, gt=0)


@dataclass
class Shaping(Section):
    """What happens to a response's reward before it becomes an advantage, in this order."""

    normalize: str = choice("none", "none", "stored", "running")
    """(reward - mean) / std, with `mean` and `std` from here, or with those of all rewards of the run so far."""
    mean: float = 0.0
    """For `stored`."""
    std: float = number(1.0, gt=0)
    """For `stored`."""
    overlong_share: float = number(0.0, ge=0, le=1)
    """The penalty grows linearly over this last share of `rollout.max_response_tokens`. 0: off."""
    overlong_penalty: float = number(1.0, ge=0)
    """Subtracted from the reward of a response of full length."""
    truncated: Optional[float] = number(None, le=1)
    """Responses that were cut: from 0 to 1 a factor on the reward, below 0 the reward itself. null: off."""
    clip: Optional[float] = number(None, gt=0)
    """Rewards are clipped to [-clip, clip]. null: off."""
    clip_where: str = choice("before", "before", "after")
    """Before or after the baseline is subtracted."""


@dataclass
class Filter(Section):
    """Dynamic sampling (DAPO): prompts whose responses teach nothing are replaced by the next prompts."""

    by: str = choice("none", "none", "mean", "std", "function")
    """What must lie between `low` and `high` (both excluded) for a prompt to be accepted: mean or standard deviation
    of its rewards. `function`: a function of yours decides."""
    low: float = 0.0
    high: float = 1.0
    path: Optional[str] = None
    """For `function`: `file.py:function` or `package.module:function`, called as f(samples, rewards) -> bool for each
    prompt."""
    oversample: float = number(1.0, ge=1, le=4)
    """Prompts of a round for each one that is missing. They are sampled in waves, as many as the engines hold at
    once, until the step is full; prompts accepted beyond that begin the next step, and need `algo.correction`."""
    max_rounds: int = number(4, ge=1)
    """Rounds of one step. What is missing then is filled up with rejected prompts, those with the largest
    deviation first."""


@dataclass
class PTX(Section):
    """Pre-training mix (InstructGPT, arXiv 2203.02155): each update of the policy also learns from given texts."""

    coef: float = number(0.0, ge=0)
    """Weight of their loss, the mean of -log p over tokens. 0: off."""
    data: Optional["Data"] = None
    """The texts: `data@algo.ptx.data=<name>`."""
    learn: str = choice("all", "response", "assistant", "all")
    """Tokens to learn: every token; the last response; every turn of the assistant."""
    samples_per_update: int = number(32, ge=1)
    """Texts per update of the policy, over all ranks."""


@dataclass
class ValueLoss(Section):
    """The critic's objective (PPO)."""

    clip: Optional[float] = number(0.2, gt=0)
    """New values stay within this distance of the values at rollout time. null: they are free."""
    aggregation: str = choice("token_mean", "token_mean", "sequence_mean", "sequence_sum")
    """As `algo.loss.aggregation`."""


@dataclass
class Algo(Section):
    name: str = MISSING
    """Name of the choice: `algo=<name>`."""


@dataclass
class RL(Algo):
    """What every algorithm of the RL family has."""

    advantage: Advantage = MISSING
    loss: PolicyLoss = part(PolicyLoss)
    kl: KL = part(KL)
    shaping: Shaping = part(Shaping)
    correction: Correction = part(Correction)
    filter: Filter = part(Filter)
    ptx: PTX = part(PTX)
    epochs: int = number(1, ge=1)
    """Passes over one rollout."""
    stop_kl: Optional[float] = number(None, gt=0)
    """An update that finds `policy/update_kl` above this is the last one on its rollout. null: off."""


@dataclass
class PPO(RL):
    """Proximal policy optimization with a critic (arXiv 1707.06347)."""

    advantage: GAE = part(GAE)
    value: ValueLoss = part(ValueLoss)


@dataclass
class GRPO(RL):
    """Group-relative policy optimization, without a critic (arXiv 2402.03300)."""

    advantage: Group = part(Group)


@dataclass
class Reinforce(RL):
    """Policy gradient on reward-to-go, without a critic and without groups."""

    advantage: Returns = part(Returns)


@dataclass
class ReMax(RL):
    """Policy gradient against a greedy response (arXiv 2310.10505), without a critic and without groups."""

    advantage: Greedy = part(Greedy)


@dataclass
class Supervised(Algo):
    """What every objective has that learns from given texts, without sampling."""

    epochs: int = number(1, ge=1)
    """Passes over the data; counts where `steps` is 0."""


@dataclass
class SFT(Supervised):
    """Supervised fine-tuning: -log p of the tokens to learn."""

    learn: str = choice("response", "response", "assistant", "all")
    """Tokens to learn: the last response; every turn of the assistant; every token (continued pre-training)."""
    aggregation: str = choice("token_mean", "token_mean", "sequence_mean")
    """As `algo.loss.aggregation` of the RL family, over one optimizer step and all ranks."""


@dataclass
class RM(Supervised):
    """Reward model on pairs (Bradley and Terry): -log sigmoid(r_chosen - r_rejected - margin)."""


@dataclass
class PRM(Supervised):
    """Process reward model: after each step of a solution, the odds of the tokens that stand for good and bad."""


@dataclass
class DPO(Supervised):
    """Direct preference optimization (arXiv 2305.18290), on pairs."""

    loss: str = choice("sigmoid", "sigmoid", "ipo")
    """sigmoid: DPO, and with `label_smoothing` cDPO. ipo: squared distance to 1 / (2 beta) (arXiv 2310.12036)."""
    beta: float = number(0.1, gt=0)
    label_smoothing: float = number(0.0, ge=0, lt=0.5)
    """Probability that a label is wrong (cDPO)."""
    nll_coef: float = number(0.0, ge=0)
    """Weight of the chosen responses' -log p, mean over their tokens and then over pairs."""


@dataclass
class SimPO(Supervised):
    """Preference optimization on mean logprobs, without a reference (arXiv 2405.14734), on pairs."""

    beta: float = number(2.0, gt=0)
    margin: float = number(1.0, ge=0)
    """By which the chosen response is to be ahead, gamma."""


@dataclass
class ORPO(Supervised):
    """Fine-tuning on chosen responses with an odds ratio to the rejected ones (arXiv 2403.07691), on pairs."""

    coef: float = number(0.1, ge=0)
    """Weight of the odds ratio, lambda."""


PAIRS = (RM, DPO, SimPO, ORPO)
"""Objectives whose examples are two rows each: chosen, rejected, chosen, rejected ..."""


@dataclass
class KTO(Supervised):
    """Kahneman-Tversky optimization (arXiv 2402.01306), on single responses that are desirable or not."""

    beta: float = number(0.1, gt=0)
    desirable_weight: float = number(1.0, ge=0)
    undesirable_weight: float = number(1.0, ge=0)


@dataclass
class Teacher(Section):
    path: str = MISSING
    """Local folder or hub id of a language model with the same vocabulary."""
    hub: str = choice("huggingface", "huggingface", "modelscope")
    revision: Optional[str] = None


@dataclass
class KD(Supervised):
    """Knowledge distillation: (1 - coef) * SFT + coef * divergence between teacher and policy."""

    teacher: Teacher = part(Teacher)
    coef: float = number(0.4, ge=0, le=1)
    direction: str = choice("forward", "forward", "reverse")
    """forward: KL(teacher || policy). reverse: KL(policy || teacher)."""
    temperature: float = number(1.0, gt=0)
    """Divides the logits of both; the divergence is scaled by its square."""
    top_k: int = number(0, ge=0)
    """Over the teacher's k likeliest tokens, the rest taken as one. 0: the whole vocabulary."""


# -------------------------------------------------------------------------------------------------------- model


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


# ------------------------------------------------------------------------------------------------------ cluster


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


@dataclass
class Engine(Section):
    """What samples."""

    name: str = choice("hf", "hf", "vllm")
    """`hf`: a decode loop over the transformers model. `vllm`: vLLM, in a Ray actor or in this process."""
    tensor_parallel: int = number(1, ge=0)
    """GPUs per engine. 0: the smallest number that fits, chosen before the run starts and recorded in `run.yaml`."""
    memory_fraction: float = number(0.5, gt=0, le=1)
    """Share of a GPU's memory that vLLM may take, weights included."""
    kv_cache_gib: float = number(1.0, gt=0)
    """Memory for the KV cache where the engine runs on a CPU."""
    max_sequences: int = number(256, ge=1)
    """Responses that are sampled at the same time."""
    enforce_eager: bool = True
    """No CUDA graphs, no compilation: starts faster, samples slower."""
    sleep: bool = False
    """Give the engine's GPU memory back while training; for engines that share GPUs with training roles."""
    dtype: str = choice("float32", "float32", "bfloat16", "float16")
    """Type of the engine's weights."""
    parity_tolerance: Optional[float] = number(None, gt=0)
    """After each weight sync, the largest mean |logprob difference| to the policy at which the run goes on.
    null: 0.001 where engine and strategy compute in float32, 0.05 otherwise."""


# --------------------------------------------------------------------------------------------- roles and rollout


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


@dataclass
class Rollout(Section):
    prompts_per_step: int = number(128, ge=1)
    samples_per_prompt: int = number(1, ge=1)
    """Responses to each prompt; the group of group baselines."""
    max_prompt_tokens: int = number(1024, ge=1)
    """Longer prompts are dropped before the run, and counted."""
    max_response_tokens: int = number(1024, ge=1)
    min_response_tokens: int = number(0, ge=0)
    temperature: float = number(1.0, gt=0, le=10)
    """Also divides the logits wherever the policy's logprobs are computed."""
    top_p: float = number(1.0, gt=0, le=1)
    top_k: int = number(0, ge=0)
    """Sample among the k likeliest tokens. 0: all."""
    stop: List[str] = field(default_factory=list)
    """Strings that end a response; the string stays in it."""


# --------------------------------------------------------------------------------------------- data and reward


@dataclass
class Data(Section):
    name: str = MISSING
    """Name of the choice: `data=<name>`."""
    path: Optional[str] = None
    """A .jsonl, .json, .csv, .parquet or .arrow file, a folder of them, a saved dataset, or the id of one on `hub`."""
    hub: str = choice("huggingface", "huggingface", "modelscope")
    revision: Optional[str] = None
    """Branch, tag or commit on the hub. null: the default branch."""
    subset: Optional[str] = None
    split: str = "train"
    """Also a part of one: `train[:1000]`, `train[10%:20%]`. Of a file, only the part counts."""
    streaming: bool = False
    """Read rows as they arrive, without downloading the dataset first: for sets that do not fit."""
    weight: float = number(1.0, gt=0)
    """Share in a blend, relative to its other sources."""
    prompt_column: Optional[str] = "prompt"
    """Text, or a list of chat messages. null: each of a pair's two columns holds the whole conversation."""
    label_column: Optional[str] = None
    """What the reward compares with; passed on as it is."""
    response_column: Optional[str] = None
    """Supervised: the response, text or messages. null: `prompt_column` holds the whole conversation or text."""
    response_marker: Optional[str] = None
    """Supervised, of whole texts: the response is what follows this text for the last time, e.g. `Assistant:`."""
    chosen_column: str = "chosen"
    """Pairs: the better response, or the whole conversation with it."""
    rejected_column: str = "rejected"
    """Pairs: the worse one."""
    margin_column: Optional[str] = None
    """Pairs: by how much the chosen one is better, for the reward model."""
    desirable_column: Optional[str] = None
    """Single responses: true (or 1) if this one is desirable. null: pairs are taken apart."""
    steps_column: Optional[str] = None
    """Labels of a solution's steps, a list: true or false, `step_tokens`, or probabilities of good."""
    placeholder: Optional[str] = None
    """One token of the text that ends each step. null: the response is a list of steps."""
    step_tokens: List[str] = field(default_factory=lambda: ["+", "-"])
    """One token each that stands for a good and for a bad step."""
    images_column: Optional[str] = None
    """Images of a row, for models that read some: one or a list, each a path from the data's file or folder, bytes, or
    {bytes, path}; or messages with images in their parts. null: there are none."""
    max_tokens: int = number(0, ge=0)
    """Supervised: longest row. 0: `model.context_tokens`."""
    overlong: str = choice("drop", "drop", "cut")
    """Supervised: longer rows are dropped, or cut at the end (and then teach no end); counted either way."""
    strict: bool = False
    """Stop at the first row that cannot be used, with file, row and column, instead of counting it."""
    template: Optional[str] = None
    """Text around a prompt, with `{prompt}` where it goes."""
    chat: bool = False
    """Render through the tokenizer's chat template; a text prompt becomes one user turn."""
    chat_template: Optional[str] = None
    """In place of the tokenizer's chat template: a Jinja template, or a file with one."""
    system: Optional[str] = None
    """System message for `chat`."""
    limit: Optional[int] = number(None, ge=1)
    """Use the first `limit` rows."""
    rule: str = choice("exact", "exact", "echo", "math")
    """The natural check of this data, which `reward=rule` takes."""


@dataclass
class ToyData(Data):
    """Letters to repeat: prompt `c`, best response `cccc`. Made by the project, offline.

    Supervised objectives also get `chosen` and `rejected`; process reward models, a response in four steps.
    """

    response_column: Optional[str] = "response"
    steps_column: Optional[str] = "verdicts"
    placeholder: Optional[str] = "p"
    step_tokens: List[str] = field(default_factory=lambda: ["o", "n"])
    rows: int = number(256, ge=1)
    letters: int = number(8, ge=2, le=26)
    """Different prompts. Chance is one in the tokenizer's vocabulary."""


@dataclass
class Blend(Data):
    """Several sources, each with its own columns and template; `weight` is the share of each."""

    sources: Dict[str, Data] = field(default_factory=dict)
    until: str = choice("first", "first", "all", "once")
    """Drawn by weight until the first source is used up; until all are, the others over again; or, without weights,
    each row once."""


@dataclass
class Reward(Section):
    name: str = MISSING
    """Name of the choice: `reward=<name>`."""
    weight: float = 1.0
    """Factor inside a composite."""


@dataclass
class RuleReward(Reward):
    rule: str = choice("${data.rule}", "exact", "echo", "math")
    """exact: response equals the label. echo: share of the response that repeats the prompt. math: answers agree."""
    timeout_s: float = number(5.0, gt=0)
    """Time limit for one answer; over it the answer counts as wrong, and is counted."""


@dataclass
class FunctionReward(Reward):
    path: str = MISSING
    """`file.py:function` or `package.module:function`; called once with the whole batch."""
    kwargs: Dict[str, Any] = field(default_factory=dict)
    """Passed on to the function."""


@dataclass
class ModelReward(Reward):
    path: str = MISSING
    """A sequence classifier with one output, local folder or hub id."""
    hub: str = choice("huggingface", "huggingface", "modelscope")
    revision: Optional[str] = None
    tokens_per_microbatch: int = number(16_384, ge=1)


@dataclass
class ProcessReward(ModelReward):
    """A process reward model, as `algo=prm` makes them: a language model that judges each step of a response.

    A step's reward is the probability of the token for good, of the two in `step_tokens`, after the step.
    """

    separator: str = "\n"
    """Text between the steps of a response. Empty: each character is a step."""
    template: str = "{step}\n"
    """A step as the model reads it, one after the other: as in its training data, its placeholder included."""
    placeholder: Optional[str] = None
    """The token of `template` at which the model judges. null: the last one."""
    step_tokens: List[str] = field(default_factory=lambda: ["+", "-"])
    """One token each that stands for a good and for a bad step."""
    outcome: str = choice("none", "none", "sum", "mean", "min", "last")
    """none: each step's reward counts at its last token, for algorithms that credit tokens. Otherwise the response's
    reward is the sum, mean or smallest of its steps' rewards, or the last one."""


@dataclass
class CompositeReward(Reward):
    """The sum of `parts`, each times its weight; every part's value is logged."""

    parts: Dict[str, Reward] = field(default_factory=dict)


# --------------------------------------------------------------------------------------------- task and tracking


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
class Eval(Section):
    """Evaluation during training: responses to prompts of its own, judged by a reward of its own."""

    every: int = number(0, ge=0)
    """Steps between evaluations; there is also one before the first step and one after the last. 0: none at all."""
    data: Optional[Data] = None
    """Prompts: `data@eval.data=<name>`. null: those of the training."""
    reward: Optional[Reward] = None
    """Judge: `reward@eval.reward=<name>`. null: the training's; a rule that comes with the data is `eval.data`'s."""
    holdout: float = number(0.05, gt=0, lt=1)
    """Supervised, where `eval.data` is null: share of the training rows that is kept for evaluation."""
    limit: Optional[int] = number(None, ge=1)
    """Use the first `limit` rows. null: as the data says."""
    source_column: Optional[str] = None
    """Column whose values name data sources; each gets metrics of its own, `eval/SOURCE/...`."""
    samples_per_prompt: int = number(1, ge=1)
    """Responses to each prompt; lengths, stop strings and top-k as in `rollout`."""
    temperature: float = number(1.0, gt=0, le=10)
    top_p: float = number(1.0, gt=0, le=1)
    k: List[int] = field(default_factory=lambda: [1])
    """Of pass@k and, above 1, maj@k."""
    correct_at: float = 1.0
    """A response is correct if its reward is at least this."""


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


@dataclass
class Checkpoint(Section):
    every: int = number(0, ge=0)
    """Steps between saves. 0: only at the end."""
    keep: int = number(2, ge=1)
    """Newest checkpoints that stay."""
    best: Optional[str] = None
    """Metric, such as `eval/pass@1`. Whenever it improves, the run is saved with the exported model, and that
    checkpoint, `checkpoints/best`, stays until the next best."""
    best_mode: str = choice("max", "max", "min")
    """Whether the largest or the smallest is the best."""
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

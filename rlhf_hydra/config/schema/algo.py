"""`algo`, of runs that sample."""

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from rlhf_hydra.config.schema.data import Data
from rlhf_hydra.config.schema.section import Section, choice, number, part


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
    data: Optional[Data] = None
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

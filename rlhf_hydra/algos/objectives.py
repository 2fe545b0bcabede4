"""What supervised runs minimise: type of config -> Objective. The losses of single items first, then their sums.

A loss is a weighted sum over tokens, rows or pairs whose weights come from the totals of the whole optimizer step (or
of the whole evaluation), so losses, gradients and metrics of micro-batches and ranks add up exactly.

Symbols: b rows, of which 2i and 2i + 1 are the chosen and the rejected response of pair i; T tokens; M tokens of
the mask. logp = sum of a response's token log-probabilities under the policy, ref = that under the reference.
Rows without a token in the mask count nowhere, nor do pairs with such a row: an empty mask gives loss 0 and gradient 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_hydra.algos.losses import StepTotals, loss_weights
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import DPO, KD, KTO, ORPO, PRM, RM, SFT, SimPO, Supervised

Metrics = dict[str, Tensor]


# ------------------------------------------------------------------------------------------------------ single items


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """-log sigmoid(r_c - r_r - margin) (arXiv 2204.05862; margin: 2307.09288). Finite for any finite gap."""
    return -F.logsigmoid(chosen - rejected - margin)


def step_odds(odds: Tensor, good: Tensor) -> Tensor:
    """Cross-entropy over two tokens: -p log sigmoid(d) - (1 - p) log sigmoid(-d), d = z_good - z_bad (2312.08935).

    p = `good`, the label, 0 or 1, or a probability. Same shape -> same shape.
    """
    return -good * F.logsigmoid(odds) - (1 - good) * F.logsigmoid(-odds)


def dpo(gap: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO (arXiv 2305.18290), cDPO with e = label_smoothing: -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).

    h = `gap` = (logp_c - logp_r) - (ref_c - ref_r), of sums over tokens.
    """
    return -(1 - label_smoothing) * F.logsigmoid(beta * gap) - label_smoothing * F.logsigmoid(-beta * gap)


def ipo(gap: Tensor, beta: float) -> Tensor:
    """IPO (arXiv 2310.12036): (h - 1 / (2 beta))^2, h as in `dpo`."""
    return (gap - 1 / (2 * beta)).square()


def simpo(chosen: Tensor, rejected: Tensor, beta: float, margin: float) -> Tensor:
    """SimPO (arXiv 2405.14734): -log sigmoid(beta (m_c - m_r) - gamma), m = mean of a response's log-probabilities."""
    return -F.logsigmoid(beta * (chosen - rejected) - margin)


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """ORPO (arXiv 2403.07691): -log sigmoid(log odds_c - log odds_r), log odds = m - log(1 - e^m); m as in `simpo`."""
    return -F.logsigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(mean: Tensor) -> Tensor:
    """log(P / (1 - P)) of log P = `mean`, which is held below -1e-6, where the odds are a million."""
    mean = mean.clamp(max=-1e-6)
    return mean - torch.log(-torch.expm1(mean))


def kto(ratio: Tensor, desirable: Tensor, kl: float, cfg: KTO) -> Tensor:
    """KTO (arXiv 2402.01306): w_d (1 - sigmoid(beta (r - z))) if desirable, w_u (1 - sigmoid(beta (z - r))) if not.

    r = `ratio` = logp - ref; z = `kl` = max(0, mean of r over responses to other prompts), no gradient. [b] -> [b].
    """
    sign = 2 * desirable - 1
    weight = torch.where(desirable > 0.5, cfg.desirable_weight, cfg.undesirable_weight)
    return weight * torch.sigmoid(-cfg.beta * sign * (ratio - kl))


# ------------------------------------------------------------------------------------------------------------ totals


@dataclass(frozen=True)
class Totals(StepTotals):
    """What an optimizer step, or an evaluation, counts over all its micro-batches and ranks."""

    pairs: int = 0
    """Pairs of which both responses have tokens."""
    desirable: int = 0
    """Responses with tokens that are labelled as desirable."""
    kl: float = 0.0
    """KTO's z, in nats a response."""

    @staticmethod
    def count(batch: RolloutBatch, in_pairs: bool) -> "Totals":
        valid = batch.response_mask.any(1)
        desirable = 0 if batch.labels is None else int((valid & (batch.labels > 0.5)).sum())
        pairs = int((valid[0::2] & valid[1::2]).sum()) if in_pairs else 0
        return Totals(tokens=int(batch.response_mask.sum()), rows=int(valid.sum()), pairs=pairs, desirable=desirable)

    def __add__(self, other: "Totals") -> "Totals":
        tokens, rows = self.tokens + other.tokens, self.rows + other.rows
        return replace(
            self, tokens=tokens, rows=rows, pairs=self.pairs + other.pairs, desirable=self.desirable + other.desirable
        )


def pair_weights(batch: RolloutBatch, totals: Totals) -> Tensor:
    """1 / pairs for each pair that counts. [b / 2]"""
    valid = batch.response_mask.any(1)
    return (valid[0::2] & valid[1::2]).float() / max(totals.pairs, 1)


def row_weights(batch: RolloutBatch, totals: Totals) -> Tensor:
    """1 / rows for each row that counts. [b]"""
    return batch.response_mask.any(1).float() / max(totals.rows, 1)


def sums(logprobs: Tensor, batch: RolloutBatch) -> Tensor:
    """logp of each response. [b, T] -> [b]"""
    return logprobs.float().masked_fill(~batch.response_mask, 0).sum(1)


def means(logprobs: Tensor, batch: RolloutBatch) -> Tensor:
    """logp of each response divided by its tokens. [b, T] -> [b]"""
    return sums(logprobs, batch) / batch.response_mask.sum(1).clamp(min=1)


# -------------------------------------------------------------------------------------------------------- objectives


def sft_loss(logprobs: Tensor, batch: RolloutBatch, totals: Totals, cfg: SFT) -> tuple[Tensor, Metrics]:
    """Mean of -log p over tokens, or over responses of their token means. `logprobs` [b, T]."""
    weights = loss_weights(batch.response_mask, cfg.aggregation, totals, max_response_tokens=1)
    loss = -(weights * logprobs.float().masked_fill(~batch.response_mask, 0)).sum()
    return loss, {"loss": loss}


def rm_loss(scores: Tensor, batch: RolloutBatch, totals: Totals, cfg: RM) -> tuple[Tensor, Metrics]:
    """Mean of `bradley_terry` over pairs. `scores` [b], read at the last token of each row.

    `reward_mean` and `reward_square` are means over all rewards, chosen and rejected.
    """
    weights, margin = pair_weights(batch, totals), 0.0 if batch.labels is None else batch.labels[0::2]
    chosen, rejected = scores[0::2], scores[1::2]
    loss = (weights * bradley_terry(chosen, rejected, margin)).sum()
    pooled = {"reward_mean": (chosen + rejected) / 2, "reward_square": (chosen**2 + rejected**2) / 2}
    metrics = {name: (weights * value).sum() for name, value in pooled.items()}
    return loss, {"loss": loss, **compared(chosen, rejected, weights), **metrics}


def prm_loss(odds: Tensor, batch: RolloutBatch, totals: Totals, cfg: PRM) -> tuple[Tensor, Metrics]:
    """Mean of `step_odds` over steps. `odds` [b, T]: d at the token that ends each step.

    `accuracy`: share of steps whose likelier token is the label's; a label of 0.5 is neither's.
    """
    weights, good = batch.response_mask.float() / max(totals.tokens, 1), given(batch.step_labels, "step_labels")
    odds = odds.float().masked_fill(~batch.response_mask, 0)
    loss = (weights * step_odds(odds, good)).sum()
    return loss, {"loss": loss, "accuracy": (weights * (odds * (good - 0.5) > 0)).sum()}


def dpo_loss(logprobs: Tensor, batch: RolloutBatch, totals: Totals, cfg: DPO) -> tuple[Tensor, Metrics]:
    """Mean of `dpo` or `ipo` over pairs, and nll_coef times that of the chosen responses' mean -log p."""
    weights = pair_weights(batch, totals)
    ratio = sums(logprobs, batch) - given(batch.ref_totals, "ref_totals")
    gap = ratio[0::2] - ratio[1::2]
    per_pair = ipo(gap, cfg.beta) if cfg.loss == "ipo" else dpo(gap, cfg.beta, cfg.label_smoothing)
    metrics = compared(cfg.beta * ratio[0::2], cfg.beta * ratio[1::2], weights)
    if cfg.nll_coef > 0:
        nll = -means(logprobs, batch)[0::2]
        per_pair = per_pair + cfg.nll_coef * nll
        metrics["nll"] = (weights * nll).sum()
    loss = (weights * per_pair).sum()
    return loss, {"loss": loss, **metrics}


def simpo_loss(logprobs: Tensor, batch: RolloutBatch, totals: Totals, cfg: SimPO) -> tuple[Tensor, Metrics]:
    """Mean of `simpo` over pairs."""
    weights, mean = pair_weights(batch, totals), means(logprobs, batch)
    loss = (weights * simpo(mean[0::2], mean[1::2], cfg.beta, cfg.margin)).sum()
    return loss, {"loss": loss, **compared(cfg.beta * mean[0::2], cfg.beta * mean[1::2], weights)}


def orpo_loss(logprobs: Tensor, batch: RolloutBatch, totals: Totals, cfg: ORPO) -> tuple[Tensor, Metrics]:
    """Mean over pairs of the chosen response's mean -log p + coef * `odds_ratio`."""
    weights, mean = pair_weights(batch, totals), means(logprobs, batch)
    chosen, rejected = mean[0::2], mean[1::2]
    loss = (weights * (cfg.coef * odds_ratio(chosen, rejected) - chosen)).sum()
    metrics = compared(cfg.coef * chosen, cfg.coef * rejected, weights)
    return loss, {"loss": loss, "nll": -(weights * chosen).sum(), **metrics}


def kto_loss(logprobs: Tensor, batch: RolloutBatch, totals: Totals, cfg: KTO) -> tuple[Tensor, Metrics]:
    """Mean of `kto` over responses. A kind of response that the step lacks has no reward."""
    weights, desirable = row_weights(batch, totals), given(batch.labels, "labels")
    ratio = sums(logprobs, batch) - given(batch.ref_totals, "ref_totals")
    loss = (weights * kto(ratio, desirable, totals.kl, cfg)).sum()
    right = (ratio - totals.kl) * (2 * desirable - 1) > 0
    metrics = {"loss": loss, "accuracy": (weights * right).sum(), "kl": row_weights(batch, totals).sum() * totals.kl}
    for name, member, count in (
        ("desirable_reward", desirable, totals.desirable),
        ("undesirable_reward", 1 - desirable, totals.rows - totals.desirable),
    ):
        if count:
            metrics[name] = (weights * member * cfg.beta * ratio).sum() * (totals.rows / count)
    if 0 < totals.desirable < totals.rows:
        metrics["margin"] = metrics["desirable_reward"] - metrics["undesirable_reward"]
    return loss, metrics


def kd_loss(outputs: tuple[Tensor, Tensor], batch: RolloutBatch, totals: Totals, cfg: KD) -> tuple[Tensor, Metrics]:
    """Mean over tokens of (1 - coef) * -log p + coef * divergence (arXiv 1503.02531).

    `outputs`: logprobs [b, T] at temperature 1, and `divergence` from the teacher [b, T].
    """
    mask = batch.response_mask
    weights = mask.float() / max(totals.tokens, 1)
    nll, distance = ((weights * x.float().masked_fill(~mask, 0)).sum() for x in (-outputs[0], outputs[1]))
    loss = (1 - cfg.coef) * nll + cfg.coef * distance
    return loss, {"loss": loss, "nll": nll, "kl": distance}


def compared(chosen: Tensor, rejected: Tensor, weights: Tensor) -> Metrics:
    """Rewards of the two responses of each pair, and the share of pairs in which the chosen one's is larger."""
    return {
        "accuracy": (weights * (chosen > rejected)).sum(),
        "chosen_reward": (weights * chosen).sum(),
        "rejected_reward": (weights * rejected).sum(),
        "margin": (weights * (chosen - rejected)).sum(),
    }


def given(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"`{name}` is needed by this objective, and the batch has none")
    return value


# ------------------------------------------------------------------------------------------------------------- table

Output = Literal["logprobs", "scores", "choices", "divergence"]


@dataclass(frozen=True)
class Objective:
    """One row of the table. Pure: no state, so that driver and workers each hold a copy."""

    loss: Callable[[Any, RolloutBatch, Totals, Any], tuple[Tensor, Metrics]]
    """(what the model says, batch, totals, config) -> this micro-batch's share of the loss, and of each metric."""
    output: Output = "logprobs"
    """logprobs [b, T]; scores [b] of whole rows; choices [b, T], the odds at the ends of steps; or, with a
    teacher, divergence: logprobs and divergence [b, T]."""
    needs_reference: bool = False
    """Reads `ref_totals`."""
    needs_mismatched: bool = False
    """Reads `Totals.kl`, which is measured on responses to other prompts."""


OBJECTIVES: dict[type[Supervised], Objective] = {
    SFT: Objective(sft_loss),
    RM: Objective(rm_loss, output="scores"),
    PRM: Objective(prm_loss, output="choices"),
    DPO: Objective(dpo_loss, needs_reference=True),
    SimPO: Objective(simpo_loss),
    ORPO: Objective(orpo_loss),
    KTO: Objective(kto_loss, needs_reference=True, needs_mismatched=True),
    KD: Objective(kd_loss, output="divergence"),
}


def objective(cfg: Supervised) -> Objective:
    """The objective that a run config names; a team's class has that of the class which it extends."""
    return next(OBJECTIVES[kind] for kind in type(cfg).__mro__ if kind in OBJECTIVES)

"""`algo`, of runs that learn from given texts."""

from dataclasses import dataclass
from typing import Optional

from omegaconf import MISSING

from rlhf_hydra.config.schema.algo import Algo
from rlhf_hydra.config.schema.section import Section, choice, number, part


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

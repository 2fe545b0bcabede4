"""Objectives of supervised runs, by hand and by law."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from rlhf_hydra.algos import objectives
from rlhf_hydra.algos.divergence import coarse, divergence
from rlhf_hydra.algos.objectives import Totals, objective
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import DPO, KD, KTO, ORPO, PAIRS, PRM, RM, SFT, SimPO

EVERY = {
    "sft": SFT(name="sft"),
    "sft by rows": SFT(name="sft", aggregation="sequence_mean"),
    "rm": RM(name="rm"),
    "prm": PRM(name="prm"),
    "dpo": DPO(name="dpo", label_smoothing=0.1, nll_coef=0.2),
    "ipo": DPO(name="ipo", loss="ipo"),
    "simpo": SimPO(name="simpo"),
    "orpo": ORPO(name="orpo"),
    "kto": KTO(name="kto", undesirable_weight=2.0),
    "kd": KD(name="kd"),
}

LOG2 = math.log(2)


def pairs(logprobs, ref=None, labels=None):
    """Rows of token log-probabilities, chosen, rejected, ...: the batch, and the logprobs [b, T]."""
    count, width = len(logprobs), max(map(len, logprobs)) + 1
    mask = torch.zeros(count, width, dtype=torch.bool)
    values = torch.zeros(count, width)
    for row, found in enumerate(logprobs):
        mask[row, 1 : 1 + len(found)] = True
        values[row, 1 : 1 + len(found)] = tensor(found)
    batch = RolloutBatch(
        tokens=torch.zeros(count, width, dtype=torch.long),
        lengths=mask.sum(1) + 1,
        response_mask=mask,
        group=torch.arange(count),
        ref_totals=None if ref is None else tensor(ref),
        labels=None if labels is None else tensor(labels),
    )
    return batch, values


def value(cfg, batch, outputs, **totals):
    """Loss and metrics as numbers."""
    goal = objective(cfg)
    count = Totals.count(batch, isinstance(cfg, PAIRS))
    loss, metrics = goal.loss(outputs, batch, objectives.replace(count, **totals), cfg)
    assert metrics["loss"] == loss
    return {name: pytest.approx(float(found), abs=1e-5) for name, found in metrics.items()}


# ------------------------------------------------------------------------------------------------------------ by hand


def test_sft_is_a_mean_over_tokens_or_over_rows():
    batch, logprobs = pairs([[-1.0, -2.0, -3.0], [-6.0]])
    assert value(SFT(name="sft"), batch, logprobs) == {"loss": 3.0}  # (1 + 2 + 3 + 6) / 4
    by_rows = SFT(name="sft", aggregation="sequence_mean")
    assert value(by_rows, batch, logprobs) == {"loss": 4.0}  # (2 + 6) / 2


def test_reward_model():
    batch, _ = pairs([[0.0]] * 4)
    found = value(RM(name="rm"), batch, tensor([1.0, 0.0, 0.0, 2.0]))
    # -log sigmoid(1) = log(1 + e^-1) = 0.313262; -log sigmoid(-2) = 2.126928; mean 1.220095
    assert found["loss"] == 1.220095
    assert (found["accuracy"], found["chosen_reward"], found["rejected_reward"]) == (0.5, 0.5, 1.0)
    assert found["margin"] == -0.5
    assert (found["reward_mean"], found["reward_square"]) == (0.75, 1.25)  # of 1 0 0 2: 3 / 4, 5 / 4


def test_reward_model_with_a_margin_and_without_overflow():
    batch, _ = pairs([[0.0]] * 2, labels=[1.0, 1.0])
    assert value(RM(name="rm"), batch, tensor([3.0, 2.0]))["loss"] == LOG2  # -log sigmoid(3 - 2 - 1)
    far = tensor([-500.0, 500.0], requires_grad=True)
    loss, _ = objectives.rm_loss(far, batch, Totals.count(batch, True), RM(name="rm"))
    loss.backward()
    assert loss.item() == 1001.0  # log(1 + e^1001)
    assert far.grad.tolist() == [-1.0, 1.0]


def test_process_reward_model_with_hard_and_soft_labels():
    batch, odds = pairs([[0.0, math.log(3)], [math.log(3)]])
    good = torch.zeros_like(odds)
    good[0, 1], good[0, 2], good[1, 1] = 1.0, 0.0, 0.75
    found = value(PRM(name="prm"), batch.replace(step_labels=good), odds)
    # p(good) is 1/2, 3/4, 3/4: -log 1/2 = 0.693147; -log 1/4 = 1.386294; -3/4 log 3/4 - 1/4 log 1/4 = 0.562335
    assert found["loss"] == (0.693147 + 1.386294 + 0.562335) / 3
    assert found["accuracy"] == 1 / 3  # even odds are right about nothing; 3/4 agrees with 0.75


def test_dpo_family():
    batch, logprobs = pairs([[-1.0, -1.0], [-3.0]], ref=[-3.0, -2.0])
    # ratios -2 + 3 = 1 and -3 + 2 = -1, so h = 2; beta h = 1 with beta = 0.5
    plain = value(DPO(name="dpo", beta=0.5), batch, logprobs)
    assert plain["loss"] == 0.313262  # log(1 + e^-1)
    assert (plain["chosen_reward"], plain["rejected_reward"], plain["margin"]) == (0.5, -0.5, 1.0)
    assert plain["accuracy"] == 1.0
    smooth = value(DPO(name="cdpo", beta=0.5, label_smoothing=0.1, nll_coef=2.0), batch, logprobs)
    assert smooth["nll"] == 1.0  # (1 + 1) / 2 tokens
    assert smooth["loss"] == 0.9 * 0.313262 + 0.1 * 1.313262 + 2.0
    assert value(DPO(name="ipo", loss="ipo", beta=0.5), batch, logprobs)["loss"] == 1.0  # (2 - 1 / (2 * 0.5))^2


def test_simpo_compares_means():
    batch, logprobs = pairs([[-1.0, -1.0], [-1.0, -2.0, -3.0]])
    found = value(SimPO(name="simpo", beta=2.0, margin=1.0), batch, logprobs)
    assert found["loss"] == 0.313262  # -log sigmoid(2 (-1 + 2) - 1)
    assert (found["chosen_reward"], found["rejected_reward"]) == (-2.0, -4.0)


def test_orpo():
    batch, logprobs = pairs([[math.log(0.5)] * 2, [math.log(0.2)]])
    found = value(ORPO(name="orpo", coef=0.5), batch, logprobs)
    # odds 0.5 / 0.5 = 1 and 0.2 / 0.8 = 1/4: -log sigmoid(log 4) = -log(4/5) = 0.223144; nll = log 2
    assert found["nll"] == LOG2
    assert found["loss"] == LOG2 + 0.5 * 0.223144


def test_orpo_of_certain_responses_is_finite():
    batch, logprobs = pairs([[0.0], [-1e-9]])
    logprobs.requires_grad_()
    loss, _ = objectives.orpo_loss(logprobs, batch, Totals.count(batch, True), ORPO(name="orpo"))
    loss.backward()
    assert loss.isfinite() and logprobs.grad.isfinite().all()


def test_kto():
    batch, logprobs = pairs([[-1.0], [-2.0, -1.0], [-1.0]], ref=[-3.0, -3.0, -1.0], labels=[1.0, 0.0, 1.0])
    cfg = KTO(name="kto", beta=1.0, undesirable_weight=2.0)
    found = value(cfg, batch, logprobs, kl=0.5)
    # ratios 2, 0, 0; 1 - sigmoid(1.5) = 0.182426; 2 (1 - sigmoid(0.5)) = 0.755082; 1 - sigmoid(-0.5) = 0.622459
    assert found["loss"] == (0.182426 + 0.755082 + 0.622459) / 3
    assert (found["desirable_reward"], found["undesirable_reward"], found["margin"]) == (1.0, 0.0, 1.0)
    assert found["accuracy"] == 2 / 3  # the third is desirable and not above 0.5
    assert found["kl"] == 0.5


def test_kto_of_one_kind_of_response_reports_that_kind():
    batch, logprobs = pairs([[-1.0]], ref=[-1.0], labels=[0.0])
    found = value(KTO(name="kto"), batch, logprobs)
    assert found["loss"] == 0.5
    assert "undesirable_reward" in found and not {"desirable_reward", "margin"} & found.keys()


def test_distillation():
    batch, logprobs = pairs([[-1.0, -2.0], [-3.0]])
    found = value(KD(name="kd", coef=0.25), batch, (logprobs, -logprobs * 2))
    assert (found["nll"], found["kl"], found["loss"]) == (2.0, 4.0, 2.5)  # 3/4 * 2 + 1/4 * 4


STUDENT, TEACHER = tensor([[0.5, 0.25, 0.25]]).log(), tensor([[0.25, 0.25, 0.5]]).log()


@pytest.mark.parametrize(
    ("direction", "temperature", "top_k", "expected"),
    [
        ("forward", 1.0, 0, 0.25 * math.log(0.5) + 0.5 * math.log(2)),
        ("reverse", 1.0, 0, 0.5 * math.log(2) + 0.25 * math.log(0.5)),
        ("forward", 1.0, 1, 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)),  # {third}, {first, second}
        ("reverse", 1.0, 1, 0.25 * math.log(0.5) + 0.75 * math.log(0.75 / 0.5)),
        ("forward", 1.0, 2, 0.25 * math.log(0.5) + 0.5 * math.log(2)),  # the rest is one token: nothing is lost
        ("forward", 1.0, 9, 0.25 * math.log(0.5) + 0.5 * math.log(2)),  # more than there are
    ],
)
def test_divergence_by_hand(direction, temperature, top_k, expected):
    found = divergence(STUDENT, TEACHER, temperature, direction, top_k)
    assert found.tolist() == pytest.approx([expected], abs=1e-6)


def test_temperature_flattens_both_and_scales_by_its_square():
    # 2^2 KL of the roots of the probabilities, made to add up to 1
    p, q = (torch.softmax(x / 2, -1) for x in (TEACHER, STUDENT))
    assert divergence(STUDENT, TEACHER, 2.0, "forward").item() == pytest.approx(4 * (p * (p / q).log()).sum().item())


def test_the_rest_of_the_vocabulary_is_one_outcome():
    kept = coarse(STUDENT, tensor([[2]])).exp()
    assert kept.tolist() == [pytest.approx([0.25, 0.75])]


@given(st.integers(0, 1000), st.sampled_from(["forward", "reverse"]), st.integers(0, 6))
@settings(max_examples=30, deadline=None)
def test_a_divergence_is_never_negative_and_zero_between_equals(seed, direction, top_k):
    student, teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(seed))
    assert (divergence(student, teacher, 1.5, direction, top_k) > -1e-6).all()
    assert divergence(student, student, 1.5, direction, top_k).abs().max() < 1e-6
    # Merging outcomes loses information: the coarse divergence is at most the whole one.
    whole = divergence(student, teacher, 1.5, direction)
    assert (divergence(student, teacher, 1.5, direction, top_k) <= whole + 1e-5).all()


# ------------------------------------------------------------------------------------------------------------- by law


def lesson(seed=0, rows=8, width=5):
    """A batch with everything that any objective reads, the third pair without tokens in one row; and outputs."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, width + 1, (rows,), generator=g)
    columns = torch.arange(width)
    mask = (columns >= 1) & (columns < lengths[:, None])
    mask[4] = False
    batch = RolloutBatch(
        tokens=torch.randint(9, (rows, width), generator=g),
        lengths=lengths,
        response_mask=mask,
        group=torch.arange(rows) // 2,
        labels=(torch.rand(rows, generator=g) < 0.5).float(),
        step_labels=torch.rand(rows, width, generator=g) * mask,
        ref_totals=-3 * torch.rand(rows, generator=g),
    )
    logprobs = -2 * torch.rand(rows, width, generator=g) * mask
    return batch, logprobs, torch.randn(rows, generator=g)


def outputs_of(cfg, logprobs, scores):
    match objective(cfg).output:
        case "scores":
            return scores
        case "divergence":
            return logprobs, -logprobs
    return logprobs


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("size", [2, 4, 6])
def test_shares_of_parts_add_up_to_the_whole(name, size):
    cfg = EVERY[name]
    goal = objective(cfg)
    batch, logprobs, scores = lesson()
    totals = objectives.replace(Totals.count(batch, isinstance(cfg, PAIRS)), kl=0.3)
    whole, expected = goal.loss(outputs_of(cfg, logprobs, scores), batch, totals, cfg)
    found, metrics = 0.0, dict.fromkeys(expected, 0.0)
    for start in range(0, len(batch), size):
        rows = slice(start, start + size)
        outputs = outputs_of(cfg, logprobs[rows], scores[rows])
        part = batch[torch.arange(len(batch))[rows]]
        width = part.tokens.shape[1]
        if goal.output != "scores":
            outputs = tuple(x[:, :width] for x in outputs) if goal.output == "divergence" else outputs[:, :width]
        loss, summands = goal.loss(outputs, part, totals, cfg)
        found += loss.item()
        metrics = {key: value + float(summands[key]) for key, value in metrics.items()}
    assert found == pytest.approx(float(whole), rel=1e-5)
    assert metrics == pytest.approx({key: float(value) for key, value in expected.items()}, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_an_empty_mask_gives_no_loss_and_no_gradient(name):
    cfg = EVERY[name]
    goal = objective(cfg)
    batch, logprobs, scores = lesson()
    batch = batch.replace(response_mask=torch.zeros_like(batch.response_mask))
    logprobs, scores = logprobs.requires_grad_(), scores.requires_grad_()
    for totals in (Totals(tokens=9, rows=4, pairs=2, desirable=1), Totals(tokens=0, rows=0)):
        loss, metrics = goal.loss(outputs_of(cfg, logprobs, scores), batch, totals, cfg)
        assert loss == 0 and not any(metrics.values())
        gradient = torch.autograd.grad(loss, scores if goal.output == "scores" else logprobs)[0]
        assert not gradient.any()


def test_totals_add_up_and_pairs_with_an_empty_row_do_not_count():
    batch, _, _ = lesson()
    whole = Totals.count(batch, in_pairs=True)
    assert (whole.rows, whole.pairs) == (7, 3)
    halves = [Totals.count(part, in_pairs=True) for part in batch.split(4)]
    assert halves[0] + halves[1] == whole
    assert Totals.count(batch, in_pairs=False).pairs == 0


def test_what_lies_outside_the_mask_changes_nothing():
    batch, logprobs, scores = lesson()
    dirty = logprobs.masked_fill(~batch.response_mask, torch.nan)
    for cfg in EVERY.values():
        goal = objective(cfg)
        if goal.output == "scores":
            continue
        totals = Totals.count(batch, isinstance(cfg, PAIRS))
        clean = goal.loss(outputs_of(cfg, logprobs, scores), batch, totals, cfg)[0]
        assert goal.loss(outputs_of(cfg, dirty, scores), batch, totals, cfg)[0] == clean, cfg.name


def test_without_reference_totals_it_says_what_is_missing():
    batch, logprobs, _ = lesson()
    with pytest.raises(ValueError, match="ref_totals"):
        value(DPO(name="dpo"), batch.replace(ref_totals=None), logprobs)


def test_a_class_of_a_team_has_the_objective_of_the_class_that_it_extends():
    class Acme(KTO): ...

    assert objective(Acme()) is objective(KTO())

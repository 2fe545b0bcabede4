from dataclasses import replace

import pytest
import torch
from torch import tensor

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.algos.shaping import RewardNormalizer
from rlhf_hydra.algos.table import algorithm
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.config.schema import GRPO, KL, PPO, Correction, Group, PolicyLoss, Reinforce, Rollout, Shaping

ROLLOUT = Rollout(max_response_tokens=6)
FULL = dict(kl=KL(coef=0.1, estimator="k3", where="loss"), correction=Correction(weight="token", mask="geometric"))
CHOICES = {
    "ppo": PPO(name="ppo", kl=KL(coef=0.1)),
    "grpo": GRPO(name="grpo", **FULL),
    "reinforce": Reinforce(name="reinforce", loss=PolicyLoss(kind="reinforce")),
    "dr_grpo": GRPO(name="dr_grpo", advantage=Group(scale="none"), loss=PolicyLoss(aggregation="sequence_sum")),
    "gspo": GRPO(
        name="gspo", loss=PolicyLoss(kind="sequence_clip", aggregation="sequence_mean", entropy_coef=0.01), **FULL
    ),
    "cispo": GRPO(name="cispo", loss=PolicyLoss(kind="detached_clip")),
}
choices = pytest.mark.parametrize("name", CHOICES)


def credited(batch, name):
    return algorithm(CHOICES[name], ROLLOUT).assign_credit(batch, kl_coef=0.1)[0]


def noisy_logprobs(batch, seed=1):
    noise = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(seed))
    return (batch.old_logprobs + 0.3 * noise * batch.response_mask).requires_grad_()


def losses(name, batch, logprobs, totals=None):
    """Loss, gradient of the logprobs, metrics."""
    entropy = torch.ones_like(logprobs)
    loss, metrics = algorithm(CHOICES[name], ROLLOUT).policy_loss(
        logprobs, entropy, batch, totals or StepTotals.of(batch), kl_coef=0.1
    )
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.detach(), gradient, metrics


# -------------------------------------------------------------------------------------------------- what is needed


def test_needs_follow_from_the_config():
    ppo, grpo, plain = (algorithm(CHOICES[n], ROLLOUT) for n in ("ppo", "grpo", "dr_grpo"))
    assert (ppo.needs_critic, grpo.needs_critic) == (True, False)
    assert (ppo.needs_reference, grpo.needs_reference, plain.needs_reference) == (True, True, False)
    assert ppo.needs_old_logprobs(1)  # KL in the reward is taken before the update
    assert not grpo.needs_old_logprobs(1)  # exactly on-policy: the update's own forward gives them
    assert grpo.needs_old_logprobs(2)


def test_what_is_missing_is_named(random_batch):
    with pytest.raises(ValueError, match="`ref_logprobs` is needed here"):
        credited(random_batch().replace(ref_logprobs=None), "ppo")
    with pytest.raises(ValueError, match="`values` is needed here"):
        credited(random_batch().replace(values=None), "ppo")
    with pytest.raises(ValueError, match="`rollout_logprobs` is needed here"):
        batch = credited(random_batch(), "grpo").replace(rollout_logprobs=None)
        losses("grpo", batch, noisy_logprobs(batch))
    with pytest.raises(ValueError, match="`normalizer` is needed here"):
        cfg = GRPO(name="grpo", shaping=Shaping(normalize="running"))
        algorithm(cfg, ROLLOUT).assign_credit(random_batch(), 0)


# ---------------------------------------------------------------------------------------------------------- credit


def two_responses(**fields):
    """Prompt of one token, responses of two; rewards 1 and 0 in one group."""
    return RolloutBatch(
        tokens=torch.ones(2, 3, dtype=torch.long),
        lengths=tensor([3, 3]),
        response_mask=tensor([[False, True, True]] * 2),
        group=tensor([0, 0]),
        rewards=tensor([1.0, 0.0]),
        **fields,
    )


def test_grpo_credit_by_hand():
    batch, metrics = algorithm(CHOICES["grpo"], ROLLOUT).assign_credit(two_responses(), kl_coef=0.1)
    z = 0.5**0.5  # (1 - 1/2) / sqrt(1/2)
    assert batch.advantages.tolist() == [pytest.approx([0, z, z]), pytest.approx([0, -z, -z])]
    assert torch.equal(batch.returns, batch.advantages)
    assert metrics["reward/mean"] == 0.5
    assert "policy/kl" not in metrics  # measured in the loss, where it acts


def test_kl_in_the_reward_by_hand():
    old, ref = torch.zeros(2, 3), tensor([[0.0, -1.0, -3.0], [0.0, 0.0, 0.0]])
    cfg = GRPO(name="rloo", advantage=Group(baseline="leave_one_out", scale="none"), kl=KL(coef=0.5))
    batch, metrics = algorithm(cfg, ROLLOUT).assign_credit(
        two_responses(old_logprobs=old, ref_logprobs=ref), kl_coef=0.1
    )
    # scores 1 - 0 and 0 - 1; k1 = 1 and 3 at the coefficient of now, 0.1; return to go
    assert batch.token_rewards.flatten().tolist() == pytest.approx([0, -0.1, 0.7, 0, 0, -1])
    assert batch.advantages.flatten().tolist() == pytest.approx([0, 0.6, 0.7, 0, -1, -1])
    assert metrics["policy/kl"] == 1  # (1 + 3) / 4 tokens


def test_ppo_credit_is_whitened_gae():
    cfg = PPO(name="ppo")
    batch, metrics = algorithm(cfg, ROLLOUT).assign_credit(two_responses(values=torch.zeros(2, 3)), kl_coef=0)
    # A = 0.95, 1, 0, 0 before whitening; returns are not whitened
    assert batch.returns.flatten().tolist() == pytest.approx([0, 0.95, 1, 0, 0, 0])
    a = batch.advantages[batch.response_mask]
    assert float(a.mean()) == pytest.approx(0, abs=1e-6)
    assert float(a.var(correction=0)) == pytest.approx(1, abs=1e-5)
    assert metrics["critic/explained_variance"] == 0  # a critic that says 0 explains nothing


def test_process_rewards_are_added_where_they_were_earned():
    cfg = Reinforce(name="reinforce")
    cfg.advantage.whiten = "none"
    steps = tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.25]])
    batch, metrics = algorithm(cfg, ROLLOUT).assign_credit(two_responses(step_rewards=steps), kl_coef=0)
    assert batch.advantages.tolist() == [[0, 1.5, 1], [0, 0.25, 0.25]]
    assert metrics["reward/mean"] == 0.875  # 1.5 and 0.25


@pytest.mark.parametrize(("where", "expected"), [("before", 0.2), ("after", 0.4)])
def test_reward_clip_before_or_after_the_baseline(where, expected):
    cfg = GRPO(name="grpo", advantage=Group(scale="none"), shaping=Shaping(clip=0.4, clip_where=where))
    batch, metrics = algorithm(cfg, ROLLOUT).assign_credit(two_responses(), kl_coef=0)
    # before: 0.4 and 0, mean 0.2; after: 1 and 0, mean 0.5, and 0.5 is cut to 0.4
    assert batch.advantages[:, 1].tolist() == pytest.approx([expected, -expected])
    assert metrics["reward/mean"] == 0.5  # reports show what was earned


def test_running_normalisation_takes_its_state_from_the_run():
    cfg = Reinforce(name="reinforce", shaping=Shaping(normalize="running"))
    cfg.advantage.whiten = "none"
    normalizer = RewardNormalizer(cfg.shaping)
    batch, _ = algorithm(cfg, ROLLOUT).assign_credit(two_responses(), 0, normalizer)
    assert batch.advantages[:, 1].tolist() == [1, -1]  # mean 1/2, deviation 1/2
    assert normalizer.count == 2


@choices
def test_a_row_without_response_tokens_changes_nothing(name, random_batch):
    batch = random_batch()
    empty = ~batch.response_mask.any(1)
    assert empty.any()
    junk = batch.replace(rewards=batch.rewards.masked_fill(empty, torch.nan))
    alone = credited(batch[~empty], name)
    for other in (credited(batch, name), credited(junk, name)):
        assert torch.allclose(other.advantages[~empty], alone.advantages, atol=1e-6)
        assert (other.advantages[empty] == 0).all()


@choices
def test_permuting_rows_permutes_advantages(name, random_batch):
    batch, order = random_batch(), tensor([3, 1, 5, 0, 2, 4])
    assert torch.allclose(credited(batch[order], name).advantages, credited(batch, name).advantages[order], atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- losses


@choices
@pytest.mark.parametrize("size", [1, 2, 4])
def test_sharded_equals_unsharded(name, size, random_batch):
    batch = credited(random_batch(), name)
    logprobs, totals = noisy_logprobs(batch), StepTotals.of(batch)
    loss, gradient, metrics = losses(name, batch, logprobs)
    shards = [
        losses(name, part, logprobs.detach()[i : i + size, : part.tokens.shape[1]].requires_grad_(), totals)
        for i, part in zip(range(0, len(batch), size), batch.split(size), strict=True)
    ]
    assert torch.allclose(sum(s[0] for s in shards), loss, atol=1e-6)
    assert torch.equal(torch.cat([s[1] for s in shards]), gradient)
    for key, value in metrics.items():
        assert torch.allclose(sum(s[2][key] for s in shards), value, atol=1e-6), key


@choices
def test_what_lies_outside_the_mask_changes_nothing(name, random_batch):
    batch = credited(random_batch(), name)
    outside = ~batch.response_mask
    junk = {
        f: getattr(batch, f).masked_fill(outside, torch.nan)
        for f in ("old_logprobs", "rollout_logprobs", "ref_logprobs", "advantages", "values", "returns")
    }
    logprobs = noisy_logprobs(batch)
    bad = logprobs.detach().masked_fill(outside, torch.nan).requires_grad_()
    loss, gradient, metrics = losses(name, batch, logprobs)
    other_loss, other_gradient, other_metrics = losses(name, batch.replace(**junk), bad)
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    assert (gradient[outside] == 0).all()
    assert {k: float(v) for k, v in metrics.items()} == {k: float(v) for k, v in other_metrics.items()}


@choices
def test_on_policy_without_old_logprobs_equals_old_logprobs_of_now(name, random_batch):
    batch = credited(random_batch(), name)
    logprobs = noisy_logprobs(batch)
    given = losses(name, batch.replace(old_logprobs=logprobs.detach()), logprobs)
    absent = losses(name, batch.replace(old_logprobs=None), logprobs)
    assert torch.equal(given[0], absent[0])
    assert torch.equal(given[1], absent[1])
    assert float(absent[2]["policy/ratio"]) == pytest.approx(1)
    assert float(absent[2]["policy/clip_frac"]) == 0


@choices
@pytest.mark.parametrize("extreme", [-1e30, -1e4, 1e4])
def test_extreme_logprobs_give_finite_losses_and_gradients(name, extreme, random_batch):
    batch = credited(random_batch(), name)
    logprobs = torch.full(batch.tokens.shape, extreme).requires_grad_()
    loss, gradient, metrics = losses(name, batch, logprobs)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert all(value.isfinite() for value in metrics.values())


@choices
def test_a_microbatch_without_response_tokens_is_worth_nothing(name, random_batch):
    batch = credited(random_batch(), name)
    none = batch.replace(response_mask=torch.zeros_like(batch.response_mask))
    loss, gradient, metrics = losses(name, none, noisy_logprobs(batch))
    assert loss == 0
    assert (gradient == 0).all()
    assert all(value == 0 for value in metrics.values())


def test_policy_loss_by_hand_with_kl_entropy_and_correction():
    batch = two_responses(
        advantages=tensor([[0.0, 1, 1], [0, -1, -1]]),
        old_logprobs=torch.zeros(2, 3),
        ref_logprobs=tensor([[0.0, -2, 0], [0, 0, 0]]),
        rollout_logprobs=-tensor([[1.0, 2, 0.1], [1, 1, 1]]).log(),
    )
    cfg = GRPO(
        name="grpo",
        loss=PolicyLoss(entropy_coef=0.5),
        kl=KL(coef=1, estimator="k2", where="loss"),
        correction=Correction(weight="token", weight_low=0, mask="token"),
    )
    loss, metrics = algorithm(cfg, ROLLOUT).policy_loss(
        torch.zeros(2, 3), torch.full((2, 3), 0.3), batch, StepTotals.of(batch), kl_coef=0.1
    )
    # -(2 * 1 + 0 * 1) + (1 + 1) = 0 for the surrogate; 0.1 * 2^2 / 2 = 0.2; - 0.5 * 0.3 * 4 = -0.6; over 4 tokens
    assert float(loss) == pytest.approx(-0.1)
    assert float(metrics["policy/loss"]) == pytest.approx(-0.1)
    assert float(metrics["policy/kl"]) == pytest.approx(0.5)  # 2 / 4
    assert float(metrics["policy/entropy"]) == pytest.approx(0.3)
    assert float(metrics["engine/masked_frac"]) == 0.25
    assert float(metrics["engine/ratio"]) == pytest.approx((2 + 0.1 + 1 + 1) / 4)


def test_entropy_bonus_needs_the_entropy(random_batch):
    cfg = GRPO(name="grpo", loss=PolicyLoss(entropy_coef=0.1))
    batch = credited(random_batch(), "dr_grpo")
    with pytest.raises(ValueError, match="`entropy` is needed here"):
        algorithm(cfg, ROLLOUT).policy_loss(noisy_logprobs(batch), None, batch, StepTotals.of(batch), 0)


def test_value_loss_by_hand():
    batch = two_responses(values=torch.zeros(2, 3), returns=tensor([[0.0, 1, 1], [0, 0, 0]]))
    loss, metrics = algorithm(CHOICES["ppo"], ROLLOUT).value_loss(
        tensor([[9.0, 1.0, 0.1], [9.0, 0, 0]]), batch, StepTotals.of(batch)
    )
    # token 1 cut to 0.2: 0.8^2 / 2; token 2: 0.9^2 / 2; the others 0; over 4 tokens
    assert float(loss) == pytest.approx((0.32 + 0.405) / 4)
    assert float(metrics["critic/loss"]) == pytest.approx(float(loss))
    assert float(metrics["critic/clip_frac"]) == 0.25
    assert float(metrics["critic/value_mean"]) == pytest.approx(1.1 / 4)
    assert float(metrics["critic/return_mean"]) == pytest.approx(0.5)


def test_value_loss_sharded_equals_unsharded(random_batch):
    batch, ppo = credited(random_batch(), "ppo"), algorithm(CHOICES["ppo"], ROLLOUT)
    values, totals = batch.values + 0.3, StepTotals.of(batch)
    whole, _ = ppo.value_loss(values, batch, totals)
    parts = [ppo.value_loss(values[i : i + 2], batch[i : i + 2], totals)[0] for i in (0, 2, 4)]
    assert torch.allclose(sum(parts), whole, atol=1e-6)


def test_an_algorithm_travels_to_other_processes(random_batch):
    import pickle

    original = algorithm(CHOICES["grpo"], ROLLOUT)
    assert pickle.loads(pickle.dumps(original)) == original
    assert replace(original, max_response_tokens=1) != original

"""Options of the loop, each in a whole run in this process."""

import json
import math

import pytest
import torch
from driving import SMALL, metrics, run

from rlhf_hydra.dump import replay

ONCE = "policy.samples_per_update=16"

OPTIONS = {
    "kl_k2_loss": ["algo=grpo", "algo.kl.estimator=k2"],
    "kl_k3_reward": ["algo=grpo", "algo.kl.where=reward"],
    "kl_abs": ["algo=ppo", "algo.kl.estimator=abs"],
    "kl_clamp": ["algo=ppo", "algo.kl.clamp=0.1"],
    "kl_adaptive": ["algo=ppo", "algo.kl.controller=adaptive", "algo.kl.horizon=100"],
    "reference_ema": ["algo=grpo", "reference.ema=0.9"],
    "reference_refreshed": ["algo=grpo", "reference.refresh_every=3"],
    "clip_higher": ["algo=grpo", "algo.loss.clip_high=0.4"],
    "dual_clip": ["algo=ppo", "algo.loss.dual_clip=3"],
    "entropy_bonus": ["algo=grpo", "algo.loss.entropy_coef=0.01", "rollout.temperature=1.2"],
    "sequence_mean": ["algo=grpo", "algo.loss.aggregation=sequence_mean"],
    "sequence_sum": ["algo=grpo", "algo.loss.aggregation=sequence_sum"],
    "truncated_importance": ["algo=grpo", "algo.correction.weight=token", "rollout.top_k=8"],
    "icepop": ["algo=grpo", "algo.correction.weight=token", "algo.correction.mask=token"],
    "sequence_weight": ["algo=grpo", "algo.correction.weight=sequence", "rollout.top_p=0.95"],
    "sequence_mask": ["algo=grpo", "algo.correction.mask=sequence"],
    "geometric_mask": ["algo=grpo", "algo.correction.mask=geometric", "rollout.temperature=0.9"],
    "filter_mean": ["algo=grpo", "algo.filter.by=mean", "algo.filter.max_rounds=2"],
    "filter_std": ["algo=grpo", "algo.filter.by=std", "algo.filter.max_rounds=2"],
    "filter_oversampled": [
        "algo=grpo",
        "algo.filter.by=mean",
        "algo.filter.oversample=2",
        "algo.correction.weight=token",
        "engine.max_sequences=64",
    ],
    "pretraining_mix": ["algo=grpo", "data@algo.ptx.data=toy", "algo.ptx.coef=0.05", "algo.ptx.samples_per_update=8"],
    "value_free": ["algo=ppo", "algo.value.clip=null"],
    "critic_warm_up": ["algo=ppo", "critic.warmup_steps=2"],
    "lora": ["algo=grpo", "policy.lora.rank=16", "policy.optim.lr=2e-2"],
    "lora_both": ["algo=ppo", "policy.lora.rank=16", "policy.optim.lr=2e-2", "critic.lora.rank=8"],
    "muon": ["algo=grpo", "policy.optim.name=muon", "policy.optim.lr=2e-2"],
    "stopped_by_kl": ["algo=grpo", "algo.epochs=2", "algo.stop_kl=0.05"],
}
SIZES = ["model=tiny", "data=toy", "rollout.prompts_per_step=16", "rollout.samples_per_prompt=8", "steps=12"]
SIZES += ["policy.samples_per_update=64", "data.letters=4", "rollout.max_response_tokens=2"]
SIZES += ["policy.optim.lr=5e-3", "policy.optim.warmup_ratio=0.1"]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_improves_and_stays_finite(option, tmp_path):
    rows = run(tmp_path, *SIZES, *OPTIONS[option])
    assert all(value is not None for row in rows for value in row.values())  # what is not finite is written as null
    assert sum(row["policy/skipped"] for row in rows if "policy/skipped" in row) == 0
    rewards = [row["reward/mean"] for row in rows]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


def test_experts_learn_with_their_router_loss(tiny_experts, tmp_path):
    rows = run(tmp_path, *SIZES, "algo=grpo", f"model.path={tiny_experts}", "policy.router_coef=0.01")
    rewards = [row["reward/mean"] for row in rows]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1
    assert all(1.8 < row["policy/router_loss"] < 3 for row in rows)  # 2, the experts per token, where they are even
    assert all(row["engine/parity"] < 1e-5 for row in rows)


def test_in_the_warm_up_only_the_critic_learns(tmp_path):
    rows = run(
        tmp_path,
        *SMALL,
        "algo=ppo",
        "critic.warmup_steps=2",
        "policy.optim.warmup_ratio=0",
        "steps=4",
        "checkpoint.every=1",
        "checkpoint.keep=9",
    )
    assert [row["policy/updates"] for row in rows] == [0, 0, 2, 2]
    assert ["policy/loss" in row for row in rows] == [False, False, True, True]
    assert all("critic/loss" in row for row in rows)
    first, second, third = (weights(tmp_path, step) for step in (1, 2, 3))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(second[name], third[name]) for name in second)
    assert all(row["policy/kl"] == pytest.approx(0, abs=1e-6) for row in rows[:3])  # the third samples before it learns
    # The schedule is the policy's own: 4 updates in 2 steps, cosine, the first at the full rate.
    # p = 0, 1/4: mean of 1 and 0.1 + 0.9 (1 + cos(pi / 4)) / 2
    assert rows[2]["policy/lr"] / 4e-3 == pytest.approx((1 + 0.1 + 0.45 * (1 + math.cos(math.pi / 4))) / 2)


def weights(folder, step, role="policy"):
    return torch.load(folder / "checkpoints" / f"step-{step:06d}" / role / "trainer.pt", weights_only=True)["model"]


def test_updates_stop_where_the_kl_is_too_large(tmp_path):
    options = [*SMALL, "algo=grpo", "algo.epochs=4", "steps=2", "policy.optim.lr=1e-2"]
    (free, _), (held, _) = run(tmp_path / "a", *options), run(tmp_path / "b", *options, "algo.stop_kl=1e-5")
    assert free["policy/updates"] == 8
    assert 1 <= held["policy/updates"] < 8


def test_given_texts_are_learned_beside_the_rollouts(tmp_path):
    """Of 8 letters the rollouts ask for 2; the texts teach all, and a critic's warm-up leaves them alone."""
    options = ["data@algo.ptx.data=toy", "algo.ptx.data.letters=8", "algo.ptx.coef=2", "algo.ptx.samples_per_update=8"]
    few = ["data.letters=2", "rollout.max_response_tokens=4", "policy.optim.warmup_ratio=0", "steps=16"]
    rows = run(tmp_path, *SMALL, "algo=ppo", *few, *options, "critic.warmup_steps=2", "checkpoint.every=8")
    assert ["policy/ptx_loss" in row for row in rows[:3]] == [False, False, True]
    assert rows[-1]["policy/ptx_loss"] < rows[2]["policy/ptx_loss"] / 2
    taken = json.loads((tmp_path / "checkpoints/step-000008/driver.json").read_text())["state"]["texts"]["taken"]
    assert taken == (8 - 2) * 2 * 8  # steps, updates of 8 of 16 rows, texts


@pytest.mark.parametrize("cut", ["rollout.top_p=0.7", "rollout.top_k=3", "rollout.min_response_tokens=3"])
def test_importance_weights_are_one_whatever_restricts_the_draw(cut, tmp_path):
    """A mask of 1 % around u = 1 leaves nothing out, also where the temperature is not 1."""
    icepop = ["algo.correction.mask=token", "algo.correction.mask_low=0.99", "algo.correction.mask_high=1.01"]
    rows = run(
        tmp_path,
        *SMALL,
        "algo=grpo",
        "policy.samples_per_update=16",
        "rollout.temperature=0.7",
        cut,
        *icepop,
        "steps=3",
    )
    assert all(row["engine/masked_frac"] == 0 for row in rows)
    assert all(row["engine/ratio"] == pytest.approx(1, abs=1e-4) for row in rows)


@pytest.mark.parametrize("option", ["reference.refresh_every=2", "reference.ema=0.5"])
def test_the_reference_follows_and_is_resumed(option, tmp_path):
    options = [*SMALL, "algo=grpo", option, "steps=4"]
    straight = run(tmp_path / "a", *options)
    run(tmp_path / "b", *options, "checkpoint.every=3", "checkpoint.keep=5")
    last = tmp_path / "b" / "checkpoints" / "step-000004"
    reference = torch.load(last / "reference" / "reference.pt", weights_only=True)
    policy = weights(tmp_path / "b", 4)
    same = all(torch.equal(tensor, policy[f"lm.{name}"]) for name, tensor in reference.items())
    assert same == (option == "reference.refresh_every=2")
    for file in sorted(last.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    last.rmdir()
    assert run(tmp_path / "b", *options, resume=True) == straight


def test_a_step_that_is_not_finite_is_left_out_and_at_last_stops_the_run(tmp_path, capsys):
    """An entropy bonus of 1e38 overflows float32. The dump has the given texts too."""
    options = [*SMALL, "algo=grpo", "algo.loss.entropy_coef=1e38", "guard.max_skips=3", "steps=9"]
    options += ["data@algo.ptx.data=toy", "algo.ptx.coef=0.1"]
    with pytest.raises(SystemExit):
        run(tmp_path, *options)
    rows = metrics(tmp_path)
    assert [row["policy/skipped"] for row in rows] == [2, 2]
    assert "4 optimizer steps in a row" in " ".join(capsys.readouterr().out.split())
    dump = tmp_path / "dumps" / "step-000002"
    assert json.loads((dump / "step.json").read_text())["step"] == 2
    found = replay(dump)
    assert found["policy/ptx_loss"] > 0
    assert found["policy/skipped"] == 2 and not math.isfinite(found["policy/grad_norm"])


def test_limits_warn_or_stop(tmp_path, capsys):
    options = [*SMALL, "algo=grpo", "guard.entropy_min=5", "steps=2"]
    assert len(run(tmp_path / "warned", *options)) == 2
    assert "below guard.entropy_min=5" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        run(tmp_path / "stopped", *options, "guard.action=stop")
    assert len(metrics(tmp_path / "stopped")) == 1
    assert (tmp_path / "stopped" / "dumps" / "step-000001" / "batch.pt").exists()


def test_remax_asks_for_one_greedy_response_a_prompt(tmp_path):
    rows = run(tmp_path, *SMALL, "algo=remax", "rollout.samples_per_prompt=1", "policy.samples_per_update=8", "steps=2")
    assert all("reward/greedy" in row for row in rows)

"""Whole runs in this process."""

import json
from pathlib import Path

import pytest
from driving import SMALL, algorithms, compose, largest_difference, metrics, run
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_hydra.config.schema import RL
from rlhf_hydra.tracking import jsonl


@pytest.mark.parametrize("algo", algorithms(RL))
def test_every_algorithm_learns_the_toy_task(algo, tmp_path):
    rows = run(tmp_path, f"algo={algo}")
    rewards = [row["reward/mean"] for row in rows]
    assert rewards[0] < 0.2  # one letter in nineteen
    assert sum(rewards[-5:]) / 5 >= 0.9


@pytest.mark.parametrize("strategy", ["single", "deepspeed"])
@pytest.mark.parametrize("algo", ["ppo", "grpo"])
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(algo, strategy, tmp_path):
    options = [*SMALL, f"algo={algo}", f"strategy.name={strategy}", "steps=3"]
    first = run(tmp_path / "first", *options)
    assert run(tmp_path / "second", *options) == first
    assert run(tmp_path / "other", *options, "seed=1") != first


@pytest.mark.parametrize(
    "options",
    [
        ["algo=ppo", "algo.kl.controller=adaptive", "algo.epochs=2"],
        ["algo=grpo", "strategy.name=deepspeed", "policy.ema=0.9"],
        ["algo=reinforce", "policy.samples_per_update=16", "algo.shaping.normalize=running", "policy.ema=0.9"],
        ["algo=grpo", "data@algo.ptx.data=toy", "algo.ptx.coef=0.1", "algo.ptx.samples_per_update=5"],
        ["algo=dapo", "data=blend"],
        ["algo=dapo", "algo.filter.oversample=2.5", "algo.correction.weight=token", "engine.max_sequences=16"],
        ["algo=ppo", "policy.lora.rank=4", "policy.lora.dropout=0.5", "critic.lora.rank=4", "policy.ema=0.9"],
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped(options, tmp_path):
    straight = run(tmp_path / "straight", *SMALL, *options, "steps=6")
    run(tmp_path / "resumed", *SMALL, *options, "steps=6", "checkpoint.every=3", "checkpoint.keep=5")
    cut_back(tmp_path / "resumed", 3)
    assert run(tmp_path / "resumed", *SMALL, *options, "steps=6", resume=True) == straight
    assert weights(tmp_path / "resumed") == weights(tmp_path / "straight")
    if (tmp_path / "straight/model-ema").exists():
        assert weights(tmp_path / "resumed", "model-ema") == weights(tmp_path / "straight", "model-ema")


def test_the_seed_decides_which_rows_of_a_blend_come_when(tmp_path):
    def data(seed):
        run(tmp_path / str(seed), *SMALL, "data=blend", "algo=grpo", "steps=1", f"seed={seed}")
        saved = json.loads((tmp_path / str(seed) / "checkpoints/step-000001/driver.json").read_text())
        return saved["state"]["prompts"]["fingerprint"]

    assert data(0) != data(1)


def test_what_a_run_leaves(tmp_path):
    run(tmp_path, *SMALL, "algo=ppo", "steps=2")
    row = metrics(tmp_path)[-1]
    relied_on = {"step", "reward/mean", "policy/loss", "policy/kl", "policy/clip_frac", "critic/loss"}
    relied_on |= {"response/tokens_mean", "tokens/generated", "engine/logprob_diff"}
    assert relied_on <= row.keys()
    times = jsonl.read(tmp_path / jsonl.METRICS)[-1].keys()
    assert {"time/step_s", "time/generate_s", "time/score_s", "time/train_s", "time/sync_s"} <= times
    assert (tmp_path / "curves.png").stat().st_size > 1000
    samples = jsonl.read(tmp_path / jsonl.SAMPLES)
    assert {"prompt", "response", "label", "reward"} <= samples[0].keys()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "model")("c", return_tensors="pt")
    assert model(**tokens).logits.shape[-1] == model.config.vocab_size


def test_engine_and_policy_agree_after_every_sync(tmp_path):
    rows = run(tmp_path, *SMALL, "algo=grpo", "rollout.temperature=0.7", "rollout.top_p=0.9", "steps=3")
    assert all(row["engine/parity"] < 1e-5 for row in rows)
    assert all(row["engine/logprob_diff"] < 1e-4 for row in rows)


def test_a_run_that_fails_says_so_and_keeps_its_last_checkpoint(tmp_path, capsys):
    reward = tmp_path / "reward.py"
    reward.write_text(
        "calls = []\ndef score(samples):\n    calls.append(1)\n    return [0.0 if len(calls) < 3 else None] * 16\n"
    )
    options = ["reward=function", f"reward.path={reward}:score", "checkpoint.every=1"]
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", *SMALL, "algo=grpo", *options, "steps=5")
    assert stop.value.code == 1
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001", "step-000002"]
    assert "score" in capsys.readouterr().out


def test_nothing_is_computed_that_nothing_reads(tmp_path):
    """No reference without a KL term; no second pass for old logprobs where the update is exactly on-policy."""
    rows = run(tmp_path, *SMALL, "algo=dr_grpo", "policy.samples_per_update=16", "steps=2")
    assert all(row["policy/ratio"] == 1.0 for row in rows)
    assert "policy/kl" not in rows[0]
    assert compose("algo=dr_grpo", *SMALL).algo.kl.coef == 0


def cut_back(folder: Path, step: int) -> None:
    """As if the run had been killed after `step`."""
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            for file in sorted(path.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            path.rmdir()


def weights(folder: Path, model: str = "model") -> bytes:
    return (folder / model / "model.safetensors").read_bytes()


def test_two_engines_and_one_give_the_same(tmp_path):
    one = run(tmp_path / "one", *SMALL, "algo=grpo", "steps=3")
    two = run(tmp_path / "two", *SMALL, "algo=grpo", "steps=3", "cluster.placement.engine.workers=2")
    assert largest_difference(one, two) < 1e-5

"""How two runs differ."""

import io
import json

import pytest
from rich.console import Console
from run_folders import leave_run

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.sweep.compare import compare, print_comparison

CURVES = {"reward/mean": {1: 0.1, 2: 0.2, 3: 0.3}, "policy/kl": {1: 0.0, 2: 0.01, 3: 0.02}}
FACTS = {
    "commit": "aaa",
    "dirty": False,
    "packages": {"torch": "2.13.0", "ray": "2.60.0"},
    "data": {"rows": 256, "sha": "f00"},
    "model": {"revision": "main"},
    "hardware": {"gpu": "none"},
}


def two(tmp_path, a=(), b=(), curves=CURVES, others=None):
    """Two run folders with these overrides and curves, and what differs between them."""
    folders = [leave_run(tmp_path / "a", a, curves), leave_run(tmp_path / "b", b, others or curves)]
    return folders, compare(*folders)


def printed(folders):
    console = Console(file=io.StringIO(), width=120)
    print_comparison(*folders, console=console)
    return console.file.getvalue()


def test_a_default_that_was_written_out_is_no_difference(tmp_path):
    folders, found = two(tmp_path, ["policy.optim.beta2=0.99", "outputs=/x"], ["seed=42", "engine.sleep=false"])
    assert found.config == {} and found.parting is None
    assert "The configs are the same" in printed(folders)
    assert "2 of 2 metrics agree to 1e-06 over 3 steps" in printed(folders)


def test_config_differences_are_those_of_the_resolved_configs(tmp_path):
    folders, found = two(
        tmp_path, ["algo.kl.coef=0.02"], ["algo.loss.dual_clip=3", "checkpoint.best=eval/mean", "eval.every=1"]
    )
    assert found.config == {
        "algo.kl.coef": (0.02, 0.01),
        "algo.loss.dual_clip": ("null", 3.0),
        "eval.every": (0, 1),
        "checkpoint.best": ("null", "eval/mean"),
    }
    assert "algo.kl.coef         0.02  0.01" in printed(folders)


def test_another_choice_shows_the_keys_that_only_one_side_has(tmp_path):
    _, found = two(tmp_path, ["algo=ppo"], ["algo=grpo", "rollout.samples_per_prompt=16"])
    assert found.config["algo.name"] == ("ppo", "grpo")
    assert found.config["algo.advantage.lam"] == (0.95, "-")
    assert found.config["algo.advantage.baseline"] == ("-", "mean")
    assert found.config["rollout.samples_per_prompt"] == (8, 16)


def test_curve_differences_by_hand(tmp_path):
    others = {
        "reward/mean": {1: 0.1, 2: 0.2 + 5e-7, 3: 0.5, 4: 0.6},  # within the tolerance at 2; 0.2 apart at 3
        "policy/kl": {1: 0.3, 2: 0.01, 3: 0.06},  # 0.3, 0, 0.04
        "critic/loss": {1: 1.0},
        "time/step_s": {1: 9.0},
    }
    folders, found = two(tmp_path, curves=CURVES | {"time/step_s": {1: 1.0}}, others=others)
    reward, kl, critic = found.curves
    assert (reward.last, len(reward.gaps), reward.at, reward.first, reward.alone) == ((0.3, 0.6), 3, 3, 3, 4)
    assert reward.gaps[3] == pytest.approx(0.2)
    assert (kl.last, kl.gaps[1], kl.at, kl.first, kl.alone) == ((0.02, 0.06), 0.3, 1, 1, None)
    assert (critic.metric, critic.last, critic.gaps, critic.first) == ("critic/loss", (None, 1.0), {}, None)
    assert found.parting == 1
    lines = {line.split()[0]: line.split()[1:] for line in printed(folders).splitlines() if "/" in line.split(" ")[0]}
    assert lines["reward/mean"] == ["0.3", "0.6", "0.2", "3", "3"]
    assert lines["critic/loss"] == ["-", "1", "-", "-", "-"]


def test_provenance_is_compared_key_by_key(tmp_path):
    folders, _ = two(tmp_path)
    (folders[0] / "provenance.json").write_text(json.dumps(FACTS))
    other = FACTS | {"commit": "bbb", "packages": {"torch": "2.14.0", "ray": "2.60.0", "vllm": "0.33.0"}}
    (folders[1] / "provenance.json").write_text(json.dumps(other))
    found = compare(*folders)
    wanted = {"commit": ("aaa", "bbb"), "packages.torch": ("2.13.0", "2.14.0"), "packages.vllm": ("-", "0.33.0")}
    assert found.provenance == wanted
    assert "packages.torch  2.13.0  2.14.0" in printed(folders)


def test_what_was_not_recorded_is_said_to_be_unknown(tmp_path):
    folders, _ = two(tmp_path)
    (folders[0] / "provenance.json").write_text(json.dumps(FACTS))
    found = compare(*folders)
    assert found.provenance == {} and found.unknown == ("b",)
    assert "Code, packages and machine are unknown: no provenance.json in b." in printed(folders)


def test_a_damaged_run_is_compared_as_far_as_it_goes(tmp_path):
    folders, _ = two(tmp_path, b=["seed=1"])
    with (folders[1] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    assert compare(*folders).config == {"seed": (42, 1)}
    assert "metrics.jsonl, line 4: cut short, left out" in printed(folders)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    folders, _ = two(tmp_path)
    with pytest.raises(Failure, match="nowhere: there is no such folder"):
        compare(folders[0], tmp_path / "nowhere")

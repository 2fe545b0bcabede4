"""A run as an experiment file, and back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.export import composes_to, experiment_yaml
from rlhf_hydra.config.failure import Failure

KEYS = {
    "algo": ["ppo", "grpo", "dapo", "reinforce"],
    "algo.kl.coef": ["0", "0.01", "2e-3"],
    "algo.stop_kl": ["null", "0.1"],
    "policy.optim.lr": ["1e-6", "0.0005"],
    "rollout.samples_per_prompt": ["8"],
    "rollout.stop": ["[]", "['a b',c]"],
    "engine.sleep": ["true", "false"],
    "seed": ["1", "42"],
    "outputs": ["elsewhere"],
    "tracking": ["jsonl", "none"],
}


def write(folder, text):
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "experiment/mine.yaml").write_text(f"# @package _global_\n{text}")
    return folder


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in KEYS.items()}))
def test_what_is_exported_composes_to_the_same_run(tmp_path, composer, asked):
    run = composer.compose([f"{key}={value}" for key, value in asked.items()]).run
    folder = write(tmp_path, experiment_yaml(run, composer))
    assert composes_to(run, folder, ["experiment=mine"]) == []


EXPORTS = {
    "": "",
    "seed=42 algo=ppo algo.kl.coef=0.01 outputs=elsewhere": "",  # all of it is so anyway
    "data.system='1e-5'": "data:\n  system: '1e-5'\n",  # else it would be read as a number, and become 1e-05
    "seed=7 algo.kl.coef=0.02": "algo:\n  kl:\n    coef: 0.02\nseed: 7\n",
    "algo=grpo rollout.samples_per_prompt=8": "defaults:\n- _self_\n- override /algo: grpo\n",  # its own default is 8
    "data@eval.data=toy eval.data.rows=16 eval.every=1": (
        "defaults:\n- _self_\n- override /data@eval.data: toy\neval:\n  every: 1\n  data:\n    rows: 16\n"
    ),
    "reward=composite +reward@reward.parts.len=function reward.parts.len.path=json:dumps reward.parts.len.weight=2": (
        "defaults:\n- /reward@reward.parts.len: function\n- _self_\n- override /reward: composite\n"
        "reward:\n  parts:\n    len:\n      weight: 2.0\n      path: json:dumps\n"
    ),
    "reward=composite +reward@reward.parts.all=composite reward.parts.all.parts.rule.weight=2": (
        "defaults:\n- /reward@reward.parts.all: composite\n- _self_\n- override /reward: composite\n"
        "reward:\n  parts:\n    all:\n      parts:\n        rule:\n          weight: 2.0\n"
    ),
    "reward=function reward.path=json:dumps reward.kwargs.deep.key=3": (
        "defaults:\n- _self_\n- override /reward: function\n"
        "reward:\n  path: json:dumps\n  kwargs:\n    deep:\n      key: 3\n"
    ),
}


@pytest.mark.parametrize("typed", EXPORTS)
def test_only_the_difference_is_written(composer, tmp_path, typed):
    run = checked_run([f"++{word}" if "kwargs" in word else word for word in typed.split()], composer)
    text = experiment_yaml(run, composer)
    assert text == EXPORTS[typed]
    assert composes_to(run, write(tmp_path, text), ["experiment=mine"]) == []


def test_an_experiment_becomes_what_it_chose(composer):
    text = experiment_yaml(checked_run(["experiment=gsm8k_grpo", "seed=1"], composer), composer)
    assert "override /algo: grpo" in text and "seed: 1" in text and "experiment" not in text


def test_a_team_choice_needs_the_team_folder(composer, tmp_path):
    (tmp_path / "team/algo").mkdir(parents=True)
    (tmp_path / "team/algo/ours.yaml").write_text("defaults: [ppo, _self_]\nname: ours\nkl: {coef: 0.05}\n")
    team = Composer(str(tmp_path / "team"))
    run = checked_run(["algo=ours", "seed=3"], team)
    text = experiment_yaml(run, team)
    assert text == "defaults:\n- _self_\n- override /algo: ours\nseed: 3\n"
    folder = write(tmp_path / "best", text)
    search = f"hydra.searchpath=[file://{tmp_path}/team]"
    assert composes_to(run, folder, ["experiment=mine", search]) == []
    with pytest.raises(Failure, match="there is no algo=ours here"):
        experiment_yaml(run, composer)


def test_what_a_file_lacks_is_named(composer, tmp_path):
    run = checked_run(["seed=3"], composer)
    assert composes_to(run, write(tmp_path, "steps: 7\n"), ["experiment=mine"]) == ["steps", "seed"]

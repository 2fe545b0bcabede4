"""The composition is Hydra's, file for file, and a run is typed and frozen."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import is_free
from rlhf_hydra.config.schema import (
    GRPO,
    PPO,
    CompositeReward,
    FunctionReward,
    Group,
    ModelReward,
    RuleReward,
    RunConfig,
)
from rlhf_hydra.config.store import find_conf_dir, new_folder

GROUPS = ("algo", "model", "cluster", "data", "reward", "tracking", "task", "experiment")
NEEDS = {
    "algo=kd": ["algo.teacher.path=x"],
    "data=jsonl": ["data.path=x"],
    "reward=function": ["reward.path=x"],
    "reward=model": ["reward.path=x"],
    "reward=process": ["reward.path=x"],
}
"""What some choices leave to the user."""
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((find_conf_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize("override", ["seed=1", *OPTIONS])
def test_same_config_as_hydra(composer, override):
    overrides = [override, *NEEDS.get(override, []), "policy.optim.lr=1e-5", "rollout.stop=[a,b]"]
    composed = composer.compose(overrides)
    with hydra.initialize_config_dir(str(find_conf_dir()), version_base="1.3"):
        expected = OmegaConf.to_object(hydra.compose("config", overrides))
    assert composed.problems == []
    assert composed.run == expected
    assert isinstance(expected, RunConfig) and type(composed.run.algo) is type(expected.algo)


def test_composing_twice_gives_the_same_run(composer):
    first = composer.compose(["algo=grpo", "engine.dtype=bfloat16"]).run
    other = composer.compose(["policy.optim.lr=0.5"]).run
    assert composer.compose(["algo=grpo", "engine.dtype=bfloat16"]).run == first
    assert other.engine.dtype == "float32"


def test_choices_bring_their_own_classes(composer):
    assert type(checked_run([], composer).algo) is PPO
    assert type(checked_run(["algo=grpo"], composer).algo) is GRPO


def test_an_algorithm_brings_only_its_own_keys(composer):
    assert not {"lam", "gamma"} & set(vars(checked_run(["algo=grpo"], composer).algo.advantage))


def test_a_variant_of_an_algorithm_inherits_what_it_does_not_change(composer):
    grpo, variant = (
        checked_run([f"algo={name}", "model=llama3-8b", "cluster=a100x8"], composer) for name in ("grpo", "dr_grpo")
    )
    assert variant.rollout == grpo.rollout
    assert grpo.algo.advantage == Group() and variant.algo.advantage == Group(scale="none")


def test_a_run_is_frozen_to_its_leaves(composer):
    run = checked_run([], composer)
    for section, name in [
        (run, "steps"),
        (run.policy.optim, "lr"),
        (run.reward, "rule"),
        (run.cluster.placement.policy, "gpus"),
    ]:
        with pytest.raises(FrozenInstanceError, match=name):
            setattr(section, name, 1)


def test_the_rule_of_a_reward_is_that_of_the_data(composer):
    assert checked_run([], composer).reward == RuleReward(name="rule", rule="echo")
    assert checked_run(["data=gsm8k", "model=smollm2-135m"], composer).reward == RuleReward(name="rule", rule="math")


def test_rewards_compose(composer):
    run = checked_run(
        ["reward=composite", "+reward@reward.parts.judge=model", "reward.parts.judge.path=org/judge"], composer
    )
    assert run.reward == CompositeReward(
        name="composite",
        parts={"rule": RuleReward(name="rule", rule="echo"), "judge": ModelReward(name="model", path="org/judge")},
    )


def test_arguments_of_a_function_need_no_plus(composer):
    reward = composer.compose(
        ["reward=function", "reward.path=a:b", "reward.kwargs.x=1", "reward.kwargs.y.z=2"]
    ).run.reward
    assert reward == FunctionReward(name="function", path="a:b", kwargs={"x": 1, "y": {"z": 2}})
    assert is_free("reward.kwargs.x") and is_free("reward.kwargs.y.z") and not is_free("reward.path")


def test_origins_name_the_file_or_the_command_line(composer, monkeypatch):
    monkeypatch.chdir(find_conf_dir().parent)
    origins = composer.compose(["model=tiny", "seed=3", "experiment=gsm8k_grpo"]).origins
    assert origins["seed"] == "command line"
    assert origins["model.heads"] == "conf/model/tiny.yaml"
    assert origins["rollout.max_prompt_tokens"] == "conf/experiment/gsm8k_grpo.yaml"
    assert "policy.optim.beta1" not in origins


def test_another_name_of_a_cluster_is_that_cluster(composer):
    for alias, name in {"8xA100-80G": "a100x8", "4x4090-24G": "rtx4090x4"}.items():
        assert checked_run([f"cluster={alias}"], composer) == checked_run([f"cluster={name}"], composer)


def test_globs_of_a_grid_show_no_schema(composer):
    axes = composer.axes(["algo=glob(*)", "model=tiny"])
    assert axes["algo"] == tuple(f"algo={file.stem}" for file in sorted((find_conf_dir() / "algo").glob("*.yaml")))
    assert axes["model"] == ("model=tiny",)


def test_the_folder_of_a_sweep_is_made_once(composer, tmp_path):
    assert composer.sweep_folder([f"hydra.sweep.dir={tmp_path}/mine"], "outputs") == tmp_path / "mine"
    first, second = (composer.sweep_folder([], f"{tmp_path}/out, put") for _ in range(2))
    assert first != second and first.parent == second.parent == tmp_path / "out, put" / "sweep"


def test_run_folders_do_not_collide(tmp_path):
    names = [Path(new_folder(str(tmp_path / "run"))).name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names

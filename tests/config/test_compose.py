"""The composition is Hydra's, file for file, and a run is typed and frozen."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import is_free
from rlhf_hydra.config.errors import ConfigError
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
OPTIONS = [f"{group}={file.stem}" for group in GROUPS for file in sorted((find_conf_dir() / group).glob("*.yaml"))]


@pytest.mark.parametrize("override", ["seed=1", *OPTIONS])
def test_same_config_as_hydra(composer, override):
    filled = ["data=jsonl", "data.path=x"] if override == "data=jsonl" else [override]
    filled += ["reward.path=x"] if override in ("reward=function", "reward=model") else []
    overrides = [*filled, "policy.optim.lr=1e-5", "rollout.stop=[a,b]"]
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


def test_a_grid_is_the_product_in_the_order_of_the_command_line(composer):
    grid = composer.expand(["algo=ppo,grpo", "model=tiny", "seed=range(1,3)"])
    assert [" ".join(point) for point in grid] == [
        "algo=ppo model=tiny seed=1",
        "algo=ppo model=tiny seed=2",
        "algo=grpo model=tiny seed=1",
        "algo=grpo model=tiny seed=2",
    ]


def test_a_grid_is_expanded_one_run_at_a_time(composer):
    axes = [f"{key}=range(1,1000)" for key in ("seed", "steps", "checkpoint.every", "checkpoint.keep")]
    assert next(composer.expand(axes)) == ["seed=1", "steps=1", "checkpoint.every=1", "checkpoint.keep=1"]


def test_globs_of_a_grid_show_no_schema(composer):
    grid = list(composer.expand(["algo=glob(*)"]))
    assert [f"algo={file.stem}" for file in sorted((find_conf_dir() / "algo").glob("*.yaml"))] == [p[0] for p in grid]


def test_intervals_are_refused(composer):
    with pytest.raises(ConfigError, match=r"algo.kl.coef .*interval"):
        list(composer.expand(["algo.kl.coef=interval(0,1)"]))


def test_run_folders_do_not_collide(tmp_path):
    names = [Path(new_folder(str(tmp_path / "run"))).name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names

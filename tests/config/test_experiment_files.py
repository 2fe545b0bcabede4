"""A run becomes the shortest experiment file that makes it again; files that say more than they need are named."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.export import composes_to, export
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.lint import lint
from rlhf_hydra.config.saved import save_run_yaml
from rlhf_hydra.config.store import find_conf_dir


def saved(folder: Path, run, command: str = "python -m rlhf_hydra") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_run_yaml(run, folder / "run.yaml", command)
    return folder


CHOICES: dict[str, list[Any]] = {
    "algo": ["ppo", "grpo", "dapo", "reinforce_pp"],
    "model": ["tiny", "smollm2-135m", "llama3-8b"],
    "cluster": ["local", "cpu", "a100x8"],
    "tracking": ["none", "jsonl"],
    "data@eval.data": ["toy"],
    "reward": ["rule", "composite"],
}
VALUES: dict[str, list[Any]] = {
    "algo.kl.coef": [0, 0.01, 0.03],
    "policy.optim.lr": ["1e-6", "5e-3"],
    "engine.tensor_parallel": [0, 1],
    "engine.memory_fraction": [0.3, 0.5],
    "seed": [42, 1],
    "rollout.stop": ["[]", '["a","b c"]'],
    "data.template": ["null", "'\"Q: {prompt}: \\#\"'"],
    "algo.loss.dual_clip": ["null", 3],
    "checkpoint.best": ["null", "reward/mean"],
    "data.rule": ["echo", "exact"],
    "outputs": ["elsewhere"],
}
OVERRIDES = st.fixed_dictionaries(
    {}, optional={key: st.sampled_from(list(map(str, values))) for key, values in {**CHOICES, **VALUES}.items()}
).map(lambda chosen: [f"{key}={value}" for key, value in chosen.items()])


@settings(max_examples=8, deadline=None)
@given(overrides=OVERRIDES)
def test_what_is_exported_composes_to_the_same_run(composer, tmp_path_factory, overrides):
    try:
        run = checked_run(overrides, composer)
    except ConfigError:  # refused by a rule: never a run
        return
    folder = saved(tmp_path_factory.mktemp("run"), run)
    file = export(folder, "again")
    assert composes_to(run, folder / "export", ["experiment=again"]) == []
    assert lint(Composer(str(folder / "export"))) == []
    assert len(file.read_text().splitlines()) < 40


def test_the_file_holds_choices_and_differences_alone(composer, tmp_path):
    words = ["algo=grpo", "cluster=a100x8", "model=llama3-8b", "data.rule=exact", "rollout.samples_per_prompt=4"]
    folder = saved(tmp_path / "run", checked_run([*words, "seed=42"], composer), "python -m rlhf_hydra algo=grpo")
    text = export(folder, "mine").read_text()
    assert text.startswith("# @package _global_\n# From a run of: python -m rlhf_hydra algo=grpo\n")
    assert yaml.safe_load(text) == {
        "defaults": [
            "_self_",
            {"override /algo": "grpo"},
            {"override /model": "llama3-8b"},
            {"override /cluster": "a100x8"},
        ],
        "data": {"rule": "exact"},  # reward.rule follows, and engine.tensor_parallel=1 is what 0 becomes again
        "rollout": {"samples_per_prompt": 4},
    }


def test_parts_of_a_reward_and_an_evaluation_are_choices(composer, tmp_path):
    words = ["reward=composite", "+reward@reward.parts.judge=model", "reward.parts.judge.path=org/judge"]
    words += ["data@eval.data=toy", "eval.every=2", "eval.data.rows=8"]
    folder = saved(tmp_path / "run", checked_run(words, composer))
    export(folder, "mine")
    assert checked_run(["experiment=mine"], Composer(str(folder / "export"))) == checked_run(words, composer)


def test_nothing_is_overwritten(composer, tmp_path):
    folder = saved(tmp_path / "run", checked_run([], composer))
    export(folder, "mine", str(tmp_path / "team"))
    with pytest.raises(Failure, match="mine.yaml is there already"):
        export(folder, "mine", str(tmp_path / "team"))


def test_a_choice_that_is_not_here(composer, tmp_path):
    (tmp_path / "team/algo").mkdir(parents=True)
    (tmp_path / "team/algo/ours.yaml").write_text("defaults:\n  - ppo\n  - _self_\n\nname: ours\nkl:\n  coef: 0.05\n")
    run = checked_run(["algo=ours"], Composer(str(tmp_path / "team")))
    with pytest.raises(Failure, match="there is no algo=ours here.*--config-dir"):
        export(saved(tmp_path / "a", run), "mine")
    command = f"python -m rlhf_hydra --config-dir {tmp_path / 'team'} algo=ours"  # which export reads
    assert "override /algo: ours" in export(saved(tmp_path / "b", run, command), "mine").read_text()


# ------------------------------------------------------------------------------------------------------------ lint


def test_experiments_that_come_with_the_project_say_nothing_twice(composer):
    assert list((find_conf_dir() / "experiment").glob("*.yaml")) and lint(composer) == []


def test_what_an_experiment_repeats_is_named(tmp_path):
    file = tmp_path / "experiment/mine.yaml"
    file.parent.mkdir()
    file.write_text(
        "# @package _global_\ndefaults:\n  - override /algo: ppo\n  - override /data: toy\n  - _self_\n"
        "algo:\n  kl:\n    coef: 0.01\n    target: 0.3\npolicy:\n  optim:\n    lr: 0.004\nseed: 42\nsteps: 41\n"
    )
    found = lint(Composer(str(tmp_path)))
    assert [re.sub(r" \(.*/conf", " (conf", line.removeprefix(str(file))) for line in found] == [
        ": override /algo: ppo is the choice without it",
        ": override /data: toy is the choice without it",
        ":8: algo.kl.coef=0.01 is what it is without it (conf/algo/ppo.yaml:7)",
        ":12: policy.optim.lr=0.004 is what it is without it (conf/model/tiny.yaml:28)",
        ":13: seed=42 is what it is without it (default)",
    ]


def test_an_experiment_that_does_not_compose_is_named(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/a.yaml").write_text("# @package _global_\nstepps: 3\n")
    (tmp_path / "experiment/b.yaml").write_text("# @package _global_\ndefaults:\n  - override /algo: pppo\n")
    first, second = lint(Composer(str(tmp_path)))
    assert "stepps=3" in first and "Did you mean steps?" in first and "algo=pppo" in second

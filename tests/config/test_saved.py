"""run.yaml holds a run completely."""

import shlex
from pathlib import Path

import pytest
import yaml

from rlhf_hydra.config.check import checked_resume, checked_run
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.export import composes_to, export
from rlhf_hydra.config.saved import load_run_yaml, look_at_run_yaml, save_run_yaml, saved_command, words_of
from rlhf_hydra.config.schema import Group
from rlhf_hydra.config.store import find_conf_dir

RUNS = [
    *(f"algo={file.stem}" for file in sorted((find_conf_dir() / "algo").glob("*.yaml")) if file.stem != "kd"),
    "algo=kd algo.teacher.path=org/teacher",
    *(f"cluster={file.stem}" for file in sorted((find_conf_dir() / "cluster").glob("*.yaml"))),
    """data=gsm8k model=smollm2-135m 'rollout.stop=["a","b c","#"]'""",
    """data=jsonl data.path=org/prompts 'data.template="Q: {prompt}\nA:"'""",
    "reward=function reward.path=json:dumps reward.kwargs.obj=1",
    "reward=composite +reward@reward.parts.judge=model reward.parts.judge.path=org/judge reward.parts.judge.weight=0.1",
    "experiment=gsm8k_grpo model.revision=1e3 policy.optim.lr=1e-7",
    "tracking=wandb algo.loss.dual_clip=3 steps=7",
]


def save(run, folder: Path) -> Path:
    save_run_yaml(run, folder / "run.yaml", "python -m rlhf_hydra")
    return folder / "run.yaml"


@pytest.mark.parametrize("typed", RUNS)
def test_round_trip(composer, tmp_path, typed):
    run = checked_run(shlex.split(typed), composer)
    path = save(run, tmp_path)
    again = load_run_yaml(path)
    assert again == run == look_at_run_yaml(path)
    assert types(again) == types(run)
    assert [file.name for file in tmp_path.iterdir()] == ["run.yaml"]


def test_a_command_of_several_lines(composer, tmp_path):
    word = "data.system='be kind:\n\n - and short'"
    run = checked_run([word], composer)
    save_run_yaml(run, tmp_path / "run.yaml", shlex.join(["python", "-m", "rlhf_hydra", word]))
    assert load_run_yaml(tmp_path / "run.yaml") == run
    assert words_of(saved_command(tmp_path / "run.yaml")) == (None, [word])
    experiment = export(tmp_path, "kind")
    assert composes_to(run, experiment.parents[1], ["experiment=kind"]) == []


def types(section) -> dict[str, type]:
    return {name: type(value) for name, value in vars(section).items() if not name.startswith("_")}


def test_what_the_file_shows(composer, tmp_path):
    tree = yaml.safe_load(save(checked_run(["cluster=a100x8", "model=llama3-8b"], composer), tmp_path).read_text())
    assert tree["algo"]["_schema_"] == "algo/ppo"
    assert tree["reward"]["rule"] == "echo"  # not the reference to the data
    assert tree["engine"]["tensor_parallel"] == 1  # not the 0 that asks to choose
    assert tree["algo"]["kl"]["coef"] == 0.01


def test_resume_changes_single_keys(composer, tmp_path):
    save(checked_run(["algo=grpo"], composer), tmp_path)
    run = checked_resume(tmp_path, ["steps=99", "policy.optim.lr=1e-5", "algo.advantage.scale=none"])
    assert (run.steps, run.policy.optim.lr, run.algo.advantage) == (99, 1e-5, Group(scale="none"))
    assert run.task.name == "train"  # the run goes on as what it is


@pytest.mark.parametrize(
    ("typed", "pieces"),
    [
        ("algo=ppo", ["a resumed run keeps the algo that it began with", "algo.KEY=VALUE"]),
        ("algo.advantage.lam=1", ["is a key of algo=ppo", "this run has algo=grpo"]),
        ("policy.optim.lrr=1", ["Did you mean policy.optim.lr?"]),
        ("steps=x", ["steps=x (command line): must be a whole number"]),
        ("policy.optim.lr=9", ["policy.optim.lr=9.0 (command line): must be more than 0 and at most 1"]),
        ("policy.samples_per_update=3", ["responses are no multiple of it"]),
    ],
)
def test_resume_refuses(composer, tmp_path, typed, pieces):
    save(checked_run(["algo=grpo"], composer), tmp_path)
    with pytest.raises(ConfigError) as error:
        checked_resume(tmp_path, [typed])
    assert [piece for piece in pieces if piece not in str(error.value)] == [], str(error.value)


def test_resume_reports_all_mistakes_at_once(composer, tmp_path):
    save(checked_run([], composer), tmp_path)
    with pytest.raises(ConfigError) as error:
        checked_resume(tmp_path, ["steps=x", "model=tiny"])
    assert [problem.key for problem in error.value.problems] == ["steps", "model"]


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no .*run.yaml"):
        checked_resume(tmp_path)


def test_a_file_of_another_version(composer, tmp_path):
    path = save(checked_run([], composer), tmp_path)
    path.write_text(path.read_text().replace("steps:", "passes:"))
    with pytest.raises(ConfigError, match=r"is not a run.yaml of this version.*passes"):
        load_run_yaml(path)


def test_a_file_that_lacks_a_key(composer, tmp_path):
    path = save(checked_run([], composer), tmp_path)
    path.write_text(path.read_text().replace("  vocab_size:", "  # vocab_size:"))
    with pytest.raises(ConfigError, match=r"is not a run.yaml of this version: it lacks model.vocab_size"):
        load_run_yaml(path)

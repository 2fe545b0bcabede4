"""Every option, and every algorithm x model x cluster, is sound, or is refused by a rule that stands here."""

from itertools import product

import pytest

from rlhf_hydra.config.store import find_conf_dir


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (find_conf_dir() / group).glob("*.yaml"))


ALIASES = {"8xA100-80G", "4x4090-24G"}  # compared with what they stand for in test_compose
CLUSTERS = [name for name in options("cluster") if name not in ALIASES]
SMALL = {"tiny", "smollm2-135m", "qwen2.5-0.5b"}


SUPERVISED = {"sft", "rm", "prm", "dpo", "ipo", "cdpo", "simpo", "orpo", "kto", "kd"}
NEEDED = {"kd": ["algo.teacher.path=org/teacher"]}


def refusals(algo: str, model: str, cluster: str) -> set[str]:
    """The table of what does not fit: of the algorithms, it only matters whether they sample."""
    if algo in SUPERVISED:
        return supervised_refusals(model, cluster)
    if cluster in ("local", "cpu"):
        return set() if model in SMALL else {"host_memory"}
    if cluster == "gpu1":
        return set() if model in SMALL else {"engine_memory", "gpu_memory", "host_memory"}
    if model == "llama3-70b":
        return {"engine_memory", "gpu_memory", "host_memory"} if cluster == "rtx4090x4" else {"gpu_memory"}
    return set()


def supervised_refusals(model: str, cluster: str) -> set[str]:
    """One role: no engine, and the large model fits where the others' reference and critic took its place."""
    if model in SMALL:
        return set()
    if cluster in ("local", "cpu", "gpu1"):
        return {"gpu_memory", "host_memory"} if (model, cluster) == ("llama3-70b", "gpu1") else {"host_memory"}
    if model != "llama3-70b" or cluster == "a100x16":
        return set()
    return {"gpu_memory", "host_memory"} if cluster == "rtx4090x4" else {"gpu_memory"}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_algorithm_and_model(problems, cluster):
    table = {}
    for algo, model in product(options("algo"), options("model")):
        found = problems(f"algo={algo}", f"model={model}", f"cluster={cluster}", *NEEDED.get(algo, []))
        table[algo, model] = {problem.rule for problem in found}
    assert table == {(algo, model): refusals(algo, model, cluster) for algo, model in table}


def test_there_is_every_choice_that_the_readme_promises():
    assert set(options("algo")) >= {"ppo", "grpo"}
    sizes = {"tiny", "smollm2-135m", "qwen2.5-0.5b", "qwen2.5-7b", "qwen3-8b", "llama3-8b", "llama3-70b", "mistral-7b"}
    assert set(options("model")) >= sizes
    assert set(options("cluster")) >= {"local", "cpu", "a100x8", "a100x16", "h100x8", "rtx4090x4", *ALIASES}
    assert set(options("data")) >= {"toy", "gsm8k", "jsonl"}
    assert set(options("reward")) >= {"rule", "function", "model", "composite"}
    assert set(options("tracking")) >= {"none", "jsonl", "tensorboard", "wandb", "mlflow"}


OTHERS = [
    *[(f"{group}={name}", set()) for group in ("tracking", "experiment") for name in options(group)],
    ("task=train", set()),
    ("task=check", set()),
    ("task=resume", {"resume"}),  # needs run=FOLDER
    *[(f"task={name}", set()) for name in ("rerun", "export", "lint")],
    *[(f"task={name}", {"runs_to_read"}) for name in ("report", "compare")],
    ("task=sweep_resume", {"resume"}),
    ("sweep=grid", set()),
    ("sweep=random", set()),
    ("sweep=optuna", {"sweep"}),  # needs an objective
    ("sweep=optuna eval.every=1", set()),
    ("data=toy", set()),
    ("data=gsm8k model=smollm2-135m", set()),
    ("data=gsm8k", {"letters_only"}),  # model=tiny writes no numbers
    ("data=geometry3k algo=grpo model=qwen2.5-vl-7b cluster=a100x8", set()),
    ("data=geometry3k model=smollm2-135m", {"images"}),  # algo=ppo has a critic
    ("data=jsonl", {"data_source"}),  # needs data.path
    ("data=jsonl data.path=org/prompts", set()),
    ("data=blend", set()),
    ("data=prompt_collection reward=model reward.path=org/judge", set()),
    ("data=prompt_collection", {"reward_labels"}),
    ("data=openorca", {"reward_labels"}),  # answers to learn from, none to compare with
    ("data=math_shepherd", {"reward_labels"}),
    ("data=ultrafeedback", {"reward_labels"}),
    ("data=preference_mixture", {"reward_labels", "prompt_column"}),  # pairs
    ("data=hh", {"reward_labels", "prompt_column"}),
    ("reward=rule", set()),
    ("reward=composite", set()),
    ("reward=function", {"missing"}),  # needs reward.path
    ("reward=function reward.path=json:dumps", set()),
    ("reward=process", {"missing"}),  # needs reward.path
    ("reward=process reward.path=org/judge", set()),
    ("reward=process reward.path=org/judge algo=reinforce", set()),
    ("reward=process reward.path=org/judge algo=grpo", {"step_credit"}),  # compares whole responses
    ("reward=process reward.path=org/judge algo=grpo reward.outcome=min", set()),
    ("reward=model", {"missing"}),  # needs reward.path
    ("reward=model reward.path=org/judge", set()),
]


@pytest.mark.parametrize(("typed", "rules"), OTHERS)
def test_every_other_option(problems, typed, rules):
    assert {problem.rule for problem in problems(*typed.split())} == rules


def test_no_option_is_left_out():
    tried = {
        word for typed, _ in OTHERS for word in typed.split() if word.partition("=")[0] in ("data", "reward", "task")
    }
    assert tried == {f"{group}={name}" for group in ("data", "reward", "task") for name in options(group)}

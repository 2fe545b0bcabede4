"""Tokens stand in no file that a run writes."""

import pytest

from rlhf_hydra.config.check import checked_resume, checked_run
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.explain import explain
from rlhf_hydra.config.saved import load_run_yaml, save_run_yaml
from rlhf_hydra.config.secrets import is_exposed, redact, redacted

SHAPE = "hf_" + "abcDEF0123" * 3
"""Looks like a token, and is none."""
JUDGE = ["reward=function", "reward.path=json:dumps"]


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "correct-horse-battery")
    return "correct-horse-battery"


def test_values_of_secret_variables_become_references_to_them(key, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-but-long")  # is named after tokenizers
    monkeypatch.setenv("SOME_TOKEN", "1")  # is too short to be one
    assert redacted(f"key: {key}!") == "key: ${oc.env:JUDGE_API_KEY}!"
    assert redacted("1 false-but-long") == "1 false-but-long"
    nested = {"key": f"a {key}", "api_key": "x", "n": [1, key]}
    assert redact(nested) == {"key": "a ***", "api_key": "***", "n": [1, "***"]}


@pytest.mark.parametrize(
    "token",
    [
        SHAPE,
        "sk-proj-" + "x1" * 12,
        "ghp_" + "a1" * 18,
        "AKIA" + "A1" * 8,
        "xoxb-1234567890-abc",
        "wandb_v1_" + "a1" * 12,
    ],
)
def test_what_looks_like_a_token_is_blotted_out(token):
    assert redacted(f"a {token} b") == "a *** b"
    assert is_exposed(token)


def test_a_password_in_an_address_is_blotted_out():
    assert redacted("at https://joe:hunter2@host:80/x?y@z") == "at https://***@host:80/x?y@z"
    assert is_exposed("http://:hunter2@host") and not is_exposed("http://host:80/a@b:c@d")


def test_no_message_shows_a_secret(key, problems, composer):
    (problem,) = problems(f"reward.kwrgs.key={SHAPE}")
    assert SHAPE not in str(problem) and "***" in str(problem)
    composed = composer.compose([*JUDGE, "reward.kwargs.obj=${oc.env:JUDGE_API_KEY}"])
    assert key not in explain(composed, "reward.kwargs.obj") + explain(composed, "all")


@pytest.mark.parametrize("text", ["", "sk-short", "hf_hub", "Qwen/Qwen2.5-0.5B-Instruct", "0123456789abcdef" * 3])
def test_other_texts_stay(text):
    assert redacted(text) == text and not is_exposed(text)


def test_a_secret_from_the_environment_is_not_written_and_comes_back(key, composer, tmp_path):
    run = checked_run([*JUDGE, "reward.kwargs.obj=${oc.env:JUDGE_API_KEY}"], composer)
    save_run_yaml(run, tmp_path / "run.yaml", f"python -m rlhf_hydra reward.kwargs.obj={key}")
    assert key not in (tmp_path / "run.yaml").read_text()
    assert load_run_yaml(tmp_path / "run.yaml") == run
    assert run.reward.kwargs == {"obj": key}


def test_a_run_without_its_secret_is_not_resumed(key, composer, tmp_path, monkeypatch):
    run = checked_run([*JUDGE, "reward.kwargs.obj=${oc.env:JUDGE_API_KEY}"], composer)
    save_run_yaml(run, tmp_path / "run.yaml", "python -m rlhf_hydra")
    monkeypatch.delenv("JUDGE_API_KEY")
    with pytest.raises(ConfigError, match="'JUDGE_API_KEY' not found"):
        checked_resume(tmp_path)


def test_a_token_in_a_config_is_refused_and_not_shown(problems):
    (problem,) = problems(*JUDGE, f"reward.kwargs.obj={SHAPE}")
    assert problem.rule == "secret" and problem.key == "reward.kwargs.obj"
    assert SHAPE not in str(problem) and "${oc.env:API_KEY}" in problem.fix


def test_a_text_with_a_dollar_is_no_reference(composer, tmp_path):
    run = checked_run(["data.template='\\${x} {prompt}'"], composer)
    save_run_yaml(run, tmp_path / "run.yaml", "python -m rlhf_hydra")
    assert run.data.template == "${x} {prompt}" and load_run_yaml(tmp_path / "run.yaml") == run

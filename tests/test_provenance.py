"""What a run writes down about its code, packages, data, model and machine; and a run that is repeated."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest

from rlhf_hydra import provenance
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.saved import save_run_yaml
from rlhf_hydra.config.schema import GRPO, Filter, FunctionReward, Model
from rlhf_hydra.sweep.compare import verdict
from rlhf_hydra.tasks import saved_run

WORDS = "python -m rlhf_hydra --config-dir team algo=grpo seed=3"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout of its own: one commit, one changed file, one new file."""
    root = tmp_path / "checkout"
    (root / "conf").mkdir(parents=True)
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    (root / "conf/a.yaml").write_text("one\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def test_code_is_a_commit_and_what_differs_from_it(repository):
    commit, diff = provenance.code()
    assert commit is not None and len(commit) == 40 and diff == ""
    (repository / "conf/a.yaml").write_text("two\n")
    (repository / "conf/größe b.yaml").write_text("new\n")
    (repository / "notes.txt").write_text("of no account\n")
    again, diff = provenance.code()
    assert again == commit and "-one\n+two\n" in diff and "+new\n" in diff and "account" not in diff


def test_a_checkout_without_a_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/a.yaml").write_text("one\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    commit, diff = provenance.code()
    assert commit is None and "+one\n" in diff


def test_the_difference_is_a_patch_whatever_git_is_told_to_show(repository):
    for key, value in {"color.ui": "always", "diff.external": "false"}.items():
        subprocess.run(["git", "-C", str(repository), "config", key, value], check=True)
    (repository / "conf/a.yaml").write_text("two\n")
    assert "-one\n+two\n" in provenance.code()[1]


def test_a_run_that_began_in_another_directory_says_so(tmp_path, monkeypatch):
    run = Composer().compose(["data=jsonl", "data.path=prompts.jsonl"]).run
    monkeypatch.chdir(tmp_path)
    save_run_yaml(run, tmp_path / "run.yaml", WORDS)
    provenance.write(tmp_path, run, WORDS, {})
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(ConfigError, match=f"began in another directory\n    cd {tmp_path}, or") as found:
        saved_run(Namespace(overrides=["task=rerun", f"run={tmp_path}"], multirun=False))
    assert [problem.key for problem in found.value.problems] == ["data.path", "run"]


def test_without_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.code() == (None, "")


def test_the_record_of_a_run(repository, make_run, tmp_path):
    (repository / "conf/a.yaml").write_text("two\n")
    run = make_run(seed=3)
    provenance.write(tmp_path, run, WORDS, {"engine.tensor_parallel": 0})
    record = provenance.read(tmp_path)
    assert record["command"] == WORDS and record["overrides"] == ["algo=grpo", "seed=3"]
    assert record["directory"] == os.getcwd()
    assert record["asked"] == {"engine.tensor_parallel": 0} and record["seeds"] == {"seed": 3}
    assert record["dirty"] is True and record["diff_sha"] == provenance.digest((tmp_path / "code.diff").read_bytes())
    assert record["packages"].keys() >= {"torch", "hydra-core", "omegaconf"}
    assert record["hardware"]["cpus"] == len(os.sched_getaffinity(0)) and record["hardware"]["memory_gib"] > 0
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))


def test_what_is_known_later_is_filled_in_once(make_run, tmp_path):
    provenance.write(tmp_path, make_run(), WORDS, {})
    provenance.add(tmp_path, data={"fingerprint": "a"})
    provenance.add(tmp_path, data={"fingerprint": "b"})
    assert provenance.read(tmp_path)["data"] == {"fingerprint": "a"}


def test_a_resumed_run_records_what_has_changed(repository, make_run, tmp_path):
    provenance.write(tmp_path, make_run(seed=3), WORDS, {})
    first = provenance.read(tmp_path)
    (repository / "conf/a.yaml").write_text("two\n")
    provenance.write(tmp_path, make_run(seed=3), WORDS, {})
    now = provenance.read(tmp_path)
    (resumed,) = now.pop("resumed")
    assert now == first
    assert resumed.keys() == {"at", "dirty", "diff_sha"} and resumed["dirty"] is True


def test_no_secret_is_written(repository, make_run, tmp_path, monkeypatch):
    monkeypatch.setenv("ACME_TOKEN", "correct-horse-battery")
    (repository / "conf/a.yaml").write_text("token: correct-horse-battery\n")
    provenance.write(tmp_path, make_run(), f"{WORDS} reward.kwargs.key=correct-horse-battery", {})
    for name in ("provenance.json", "code.diff"):
        text = (tmp_path / name).read_text()
        assert "correct-horse-battery" not in text and "${oc.env:ACME_TOKEN}" in text


def test_files_that_the_config_names_are_fingerprinted(make_run, tmp_path):
    score, keep = tmp_path / "score.py", tmp_path / "keep.py"
    score.write_text("a")
    keep.write_text("b")
    algo = GRPO(name="grpo", filter=Filter(by="function", path=f"{keep}:keep"))
    run = make_run(reward=FunctionReward(name="function", path=f"{score}:score"), algo=algo)
    assert provenance.own_files(run) == {str(keep): provenance.digest(b"b"), str(score): provenance.digest(b"a")}


def test_a_downloaded_model_is_known_by_its_commit(tmp_path):
    folder = tmp_path / ("0123456789" * 4)
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    record = provenance.model_record(Model(name="m", path="org/m", revision="main"), str(folder))
    sha = provenance.digest(b"{}")
    assert record == {"path": "org/m", "hub": "huggingface", "revision": folder.name, "config_sha": sha}


# ----------------------------------------------------------------------------------------------------------- rerun


def finished(folder, rows, **record):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "provenance.json").write_text(json.dumps(record))
    return folder


ROWS = [{"step": 0, "eval/mean": 0.1}, {"step": 1, "a": 1.0, "time/step_s": 3.0}, {"step": 1, "eval/mean": 0.2}]


def test_runs_with_the_same_numbers(tmp_path):
    quicker = [{**row, "time/step_s": 1.0} for row in ROWS]
    one, other = finished(tmp_path / "one", ROWS, commit="x"), finished(tmp_path / "other", quicker, commit="x")
    is_same, text = verdict(one, other)
    assert is_same and f"same as {one}: all metrics of 2 steps are equal" in text
    assert "code, data, model, packages and machine are the same" in text


def test_runs_that_part_say_where_and_what_is_different(tmp_path):
    later = [ROWS[0], {**ROWS[1], "a": 1.0 + 1e-9}, ROWS[2]]
    one = finished(tmp_path / "one", ROWS, commit="x", packages={"torch": "2.1", "ray": "2"})
    other = finished(tmp_path / "other", later, commit="y", packages={"torch": "2.2", "ray": "2"})
    is_same, text = verdict(one, other)
    assert not is_same and text.splitlines()[1:] == [
        "  step 1: a 1.0 -> 1.000000001",
        "  commit: x -> y",
        "  packages.torch: 2.1 -> 2.2",
    ]


def test_a_run_that_ended_earlier(tmp_path):
    is_same, text = verdict(finished(tmp_path / "one", ROWS), finished(tmp_path / "other", ROWS[:1]))
    assert not is_same and "step 1 is in the first run alone" in text and "has no provenance.json" in text

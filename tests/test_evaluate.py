"""Evaluation during training, in this process; and the best checkpoint, which it usually decides."""

import json

import pytest
from driving import SMALL, compose, metrics, run
from transformers import AutoModelForCausalLM

from rlhf_hydra.checkpoint import FOLDER
from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.evaluate import Judged, measure
from rlhf_hydra.tracking.plot import PANELS

GRPO = [*SMALL, "algo=grpo", "steps=5"]
EVAL = ["eval.every=2", "eval.limit=6", "eval.samples_per_prompt=4", "eval.k=[1,4]"]


def split(rows):
    """Rows of the training, and of the evaluations."""
    is_eval = ["eval/mean" in row for row in rows]
    return [row for row, e in zip(rows, is_eval, strict=True) if not e], [
        row for row, e in zip(rows, is_eval, strict=True) if e
    ]


def test_the_metrics_by_hand():
    """Two prompts, three responses each; correct from 0.5: 2 of 3, and none of 3.

    pass@1 = (2/3 + 0) / 2; pass@2 = (1 - C(1,2)/C(3,2) + 0) / 2 = 1/2. maj@2 looks at the first two: x and y tie, of
    which x is right: 1/2; z: wrong. maj@3: x wins: 1; z wins, wrong: 0.
    """
    first = [Judged(1.0, "x", 3, False), Judged(0.0, "y", 5, True), Judged(0.5, "x", 4, False)]
    second = [Judged(0.0, "z", 1, False), Judged(0.25, "z", 1, False), Judged(0.25, None, 10, True)]
    assert measure([first, second], [1, 2, 3], correct_at=0.5) == {
        "mean": pytest.approx(2 / 6),
        "tokens_mean": pytest.approx(24 / 6),
        "truncated_frac": pytest.approx(2 / 6),
        "pass@1": pytest.approx(1 / 3),
        "pass@2": pytest.approx(1 / 2),
        "pass@3": pytest.approx(1 / 2),
        "maj@2": pytest.approx(1 / 4),
        "maj@3": pytest.approx(1 / 2),
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, run(folder, *GRPO, *EVAL)


def test_training_is_the_same_with_and_without(evaluated, tmp_path):
    folder, rows = evaluated
    assert split(rows)[0] == run(tmp_path, *GRPO)
    assert (folder / "model/model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()


def test_evaluates_before_every_n_steps_and_after(evaluated):
    rows = split(evaluated[1])[1]
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    assert {"eval/mean", "eval/pass@1", "eval/pass@4", "eval/maj@4", "eval/tokens_mean"} <= rows[0].keys()
    assert rows[0].keys() & PANELS.keys()


def test_evaluations_of_the_same_weights_agree(tmp_path):
    """What moves between two evaluations is the policy: with a rate of 1e-12 nothing does."""
    rows = split(run(tmp_path, *GRPO, *EVAL, "policy.optim.lr=1e-12"))[1]
    assert len({json.dumps({**row, "step": 0}) for row in rows}) == 1


@pytest.mark.parametrize("keep", [["checkpoint.every=3"], ["checkpoint.every=2"], ["checkpoint.best=eval/mean"]])
def test_a_resumed_run_equals_one_that_never_stopped(keep, tmp_path):
    options = [*GRPO, *EVAL, *keep, "checkpoint.keep=9"]
    straight = run(tmp_path, *options)
    for checkpoint in (tmp_path / FOLDER).glob("step-000005"):
        checkpoint.rename(tmp_path / "gone")
    assert run(tmp_path, *options, resume=True) == straight


def test_a_run_that_is_stopped_in_an_evaluation_resumes_with_it(tmp_path):
    """The judge of the evaluations sends SIGTERM in the one after step 2."""
    judge = tmp_path / "judge.py"
    judge.write_text(
        "import os, signal\nfrom pathlib import Path\n"
        "def score(samples, mark):\n"
        "    with Path(mark).open('a') as file:\n        file.write('.')\n"
        "    if Path(mark).read_text() == '..':\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return [float(len(s.response)) for s in samples]\n"
    )
    options = [*GRPO, *EVAL, "reward@eval.reward=function", f"eval.reward.path={judge}:score", "eval.correct_at=4"]
    options += ["checkpoint.best=eval/mean"]
    (tmp_path / "mark-straight").write_text("---")
    straight = run(tmp_path / "straight", *options, f"+eval.reward.kwargs.mark={tmp_path}/mark-straight")
    stopped = [*options, f"+eval.reward.kwargs.mark={tmp_path}/mark"]
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "stopped", *stopped)
    assert stop.value.code == 128 + 15
    assert [row["step"] for row in metrics(tmp_path / "stopped")] == [0, 1, 2]
    assert run(tmp_path / "stopped", *stopped, resume=True) == straight
    best = [sorted(p.name for p in (tmp_path / name / FOLDER).iterdir()) for name in ("straight", "stopped")]
    assert "best" in best[0] and [n for n in best[1] if n != "step-000002"] == [
        n for n in best[0] if n != "step-000002"
    ]


def test_other_data_another_judge_and_sources(tmp_path):
    data = tmp_path / "held-out.jsonl"
    sources = {"a": "x", "b": "y", "c": "y"}
    data.write_text("".join(json.dumps({"prompt": c, "label": c * 4, "from": s}) + "\n" for c, s in sources.items()))
    own = ["data@eval.data=jsonl", f"eval.data.path={data}", "reward@eval.reward=rule", "eval.reward.rule=exact"]
    rows = split(run(tmp_path / "run", *GRPO, *own, "eval.every=5", "eval.source_column=from"))[1]
    assert {"eval/x/mean", "eval/y/mean", "eval/y/pass@1"} <= rows[0].keys()
    both = (rows[-1]["eval/x/mean"] + 2 * rows[-1]["eval/y/mean"]) / 3
    assert rows[-1]["eval/mean"] == pytest.approx(both)


def test_the_best_checkpoint_stays_with_its_models(tmp_path):
    """Fewest tokens are those of some step in the middle; `keep` alone would leave the last one."""
    options = [*GRPO, "policy.ema=0.9", "checkpoint.every=1", "checkpoint.keep=1"]
    options += ["checkpoint.best=response/tokens_mean", "checkpoint.best_mode=min"]
    rows = run(tmp_path, *options)
    wanted = min(rows, key=lambda row: row["response/tokens_mean"])["step"]
    assert wanted < 5
    kept = ["best", f"step-{wanted:06d}", "step-000005"]
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == kept
    for name in ("model", "model-ema"):
        AutoModelForCausalLM.from_pretrained(tmp_path / FOLDER / "best" / name)
    run(tmp_path, *options, resume=True)
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == kept


@pytest.mark.parametrize(("name", "seen"), [("eval/pas@1", "eval/pass@1"), ("reward/maen", "reward/mean")])
def test_a_best_metric_that_is_none_ends_the_run(name, seen, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, *GRPO, *EVAL, f"checkpoint.best={name}")
    said = " ".join(capsys.readouterr().out.split())
    assert f"checkpoint.best={name} is no metric of this run" in said and seen in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["eval.every=1", "eval.k=[1,8]"], "pass@k needs k from 1 to eval.samples_per_prompt=1"),
        (["checkpoint.best=eval/mean"], "the run evaluates nothing"),
        (["data@eval.data=jsonl"], "eval.data.path: no source of prompts"),
        (["data@eval.data=jsonl", "eval.data.path=there/is/none.jsonl"], "eval.data.path=there/is/none.jsonl"),
        (["reward@eval.reward=function"], "eval.reward.path"),
    ],
)
def test_mistakes_are_found_before_the_run(options, says):
    with pytest.raises(ConfigError) as error:
        checked_run(["model=tiny", "data=toy", *options])
    assert says in str(error.value)


def test_the_run_file_brings_the_evaluation_back(tmp_path):
    from rlhf_hydra.config.saved import load_run_yaml, save_run_yaml

    asked = compose(*GRPO, "data@eval.data=gsm8k", "reward@eval.reward=rule", "eval.every=2")
    save_run_yaml(asked, tmp_path / "run.yaml", "python -m rlhf_hydra")
    found = load_run_yaml(tmp_path / "run.yaml")
    assert found.eval == asked.eval and type(found.eval.reward) is type(asked.eval.reward)

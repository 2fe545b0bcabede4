"""What a sweep says in the end, and while it runs."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.overview import study
from rlhf_hydra.sweep.runs import read_sweep
from rlhf_hydra.sweep.status import write
from rlhf_hydra.sweep.table import Screen
from rlhf_hydra.sweep.terminal import print_report


@pytest.fixture
def told(plan):
    """What is said about trials that ended with these states and last metrics."""

    def tell(*overrides: str, results: list[tuple[str, dict[str, float]]], seeds: int = 1) -> list[str]:
        axes = {"steps": [str(n + 1) for n in range(len(results) // seeds)]}
        values = ",".join(axes["steps"])
        book = plan(f"steps={values}", f"sweep.seeds={seeds}", *overrides)
        for trial, (state, metrics) in zip(book.trials.values(), results, strict=True):
            write(trial.folder, replace(trial.status, state=state))
            (trial.folder / "metrics.jsonl").write_text(json.dumps({"step": 3, **metrics}) + "\n")
        console = Console(file=io.StringIO(), width=150)
        book.head = Objective.of(next(iter(book.trials.values())).run).describe() | {"command": "-m", "axes": axes}
        book.write()
        print_report(study(read_sweep([book.folder]), book.folder), console)
        return console.file.getvalue().splitlines()

    return tell


def test_the_best_comes_first_and_broken_conditions_are_named(told):
    results = [
        ("done", {"eval/pass@1": 0.5, "policy/kl": 0.1}),
        ("done", {"eval/pass@1": 0.9, "policy/kl": 9.0}),
        ("done", {"eval/pass@1": 0.7, "policy/kl": 0.2}),
        ("failed", {"eval/pass@1": 0.1}),
    ]
    said = told("eval.every=5", 'sweep.constraints=["kl <= 1"]', results=results)
    assert said[0].endswith(": 3 done, 1 failed")
    assert [line.split()[0] for line in said if line.startswith("#")][:4] == ["#2", "#0", "#1", "#3"]
    assert "best                  #2: eval/pass@1 0.7" in said
    assert "Not policy/kl <= 1, so not the best: #1." in said
    assert said[-1].startswith("run what is missing   python -m rlhf_hydra task=sweep_resume run=")


def test_conditions_are_named_once_and_say_what_is_not_there(told):
    results = [("done", {"eval/pass@1": 0.5, "policy/kl": 9.0}), ("done", {"eval/pass@1": 0.9, "policy/kl": 8.0})]
    said = told("eval.every=5", 'sweep.constraints=["kl <= 1","klx <= 1"]', results=results)
    assert "Not policy/kl <= 1, so not the best: #0, #1." in said
    assert "Not klx <= 1 (there is no klx), so not the best: #0, #1." in said
    assert "None is the best: all break a condition; metrics: eval/pass@1, policy/kl." in said


def test_repeats_are_one_line_with_mean_and_deviation(told):
    results = [("done", {"eval/pass@1": value}) for value in (0.9, 0.1, 0.6, 0.5)]
    said = told("eval.every=5", results=results, seeds=2)
    # 0.55, 0.05 sqrt(2) = 0.071 apart; 0.5, 0.4 sqrt(2) = 0.57
    assert [line.split()[:6] for line in said if line.startswith("#")] == [
        ["#2", "×2", "done", "2", "0.550", "±"],
        ["#0", "×2", "done", "1", "0.50", "±"],
    ]
    assert "best                  #2 ×2: eval/pass@1 0.550 ± 0.071" in said


def test_without_a_judge_nothing_is_the_best(told):
    said = told(results=[("done", {"reward/mean": 0.9})])
    assert any(line.startswith("None is the best: nothing was evaluated, and reward/mean") for line in said)
    assert not any("sweep_resume" in line for line in said)  # nothing is left to run


def test_an_objective_that_is_not_there_is_said_with_those_that_are(told):
    said = told("sweep.objective=eval/accuracy", results=[("done", {"reward/mean": 0.9})])
    assert "None is the best: there is no eval/accuracy; metrics: reward/mean." in said


def test_a_full_terminal_shows_what_matters_now_a_line_each(plan):
    book = plan("steps=range(10,30)", "algo.kl.coef=0.01", 'rollout.stop=["a long word to stop at and","another"],[]')
    for trial in list(book.trials.values())[:31]:
        write(trial.folder, replace(trial.status, state="done"))
    failed = list(book.trials.values())[30]
    write(failed.folder, replace(failed.status, state="failed"))
    console = Console(file=io.StringIO(), width=80, height=14)
    console.print(Screen(book.trials, Objective(None), console).table())
    # a title, a header, and 10 trials; two lines are left for what is said above
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines[0] == "30 done, 9 waiting, 1 failed"
    assert lines[1].split() == ["trial", "state", "steps", "rollout.stop", "step", "reward", "left"]
    assert [line.split()[0] for line in lines[2:]] == [f"#{number}" for number in range(30, 40)]
    assert lines[2].split()[1:3] == ["failed", "25"] and "…" in lines[2]


def test_the_time_to_go_by_hand(plan):
    book = plan("seed=0,1,2,3", "steps=11")
    done, running, *_ = book.trials.values()
    screen = Screen(book.trials, Objective(None), Console(file=io.StringIO(), width=150), expected=6)
    assert screen.table().title == "4 waiting, 2 to come"
    write(done.folder, replace(done.status, state="done", started=1000.0, ended=1060.0, earlier_s=40.0))
    write(running.folder, replace(running.status, state="running", started=1000.0))
    (running.folder / "metrics.jsonl").write_text('{"step": 1, "time/step_s": 2.0}\n')
    screen = Screen(book.trials, Objective(None), Console(file=io.StringIO(), width=150), expected=6)
    # 10 steps of 2 s, and 2 + 2 trials of 100 s, one at a time: 420 s
    assert screen.table().title == "1 done, 1 running, 2 waiting, 2 to come, about 7:00 to go"

"""What a sweep says in the end, and while it runs."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.status import write
from rlhf_hydra.sweep.table import Screen


@pytest.fixture
def told(plan):
    """What is said about trials that ended with these states and last metrics."""

    def tell(*overrides: str, results: list[tuple[str, dict[str, float]]]) -> list[str]:
        book = plan(f"seed=range(0,{len(results)})", *overrides)
        for trial, (state, metrics) in zip(book.trials.values(), results, strict=True):
            write(trial.folder, replace(trial.status, state=state))
            (trial.folder / "metrics.jsonl").write_text(json.dumps({"step": 3, **metrics}) + "\n")
        console = Console(file=io.StringIO(), width=150)
        run = next(iter(book.trials.values())).run
        Screen(book.trials, Objective.of(run), console).sum_up(book.folder)
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
    rows = [line.split("│")[3].strip() for line in said if line.startswith("│")]
    assert rows == ["seed=2", "seed=0", "seed=1", "seed=3"]
    assert any(line.startswith("best    2-") and "eval/pass@1 0.7  seed=2" in line for line in said)
    assert any(line.strip().startswith("1-") and "does not satisfy policy/kl <= 1" in line for line in said)
    assert said[-1].startswith("go on   python -m rlhf_hydra task=sweep_resume run=")


def test_without_a_judge_nothing_is_the_best(told):
    said = told(results=[("done", {"reward/mean": 0.9})])
    assert any(line.startswith("best    none: the training reward alone is no judge") for line in said)
    assert said[-1].startswith("folder  ")  # all is done: nothing to go on with


def test_an_objective_that_is_not_there_is_said_with_those_that_are(told):
    said = told("sweep.objective=eval/accuracy", results=[("done", {"reward/mean": 0.9})])
    assert any("there is no eval/accuracy; metrics: reward/mean" in line for line in said)


def test_a_full_terminal_shows_what_matters_now(plan):
    book = plan("steps=range(10,30)")
    for trial in list(book.trials.values())[:15]:
        write(trial.folder, replace(trial.status, state="done"))
    last = list(book.trials.values())[14]
    write(last.folder, replace(last.status, state="failed"))
    screen = Screen(book.trials, Objective(None), Console(file=io.StringIO(), width=150, height=14))
    # 14 lines hold 6 trials: the failed one and the five that wait
    assert list(screen.table().columns[0].cells) == [trial.key for trial in list(book.trials.values())[14:]]

"""Searches by Optuna, with answers that are made up here: what it is told, and what it is asked again."""

import json
from dataclasses import replace

import pytest

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.progress import Progress
from rlhf_hydra.sweep.search import Study
from rlhf_hydra.sweep.space import Space
from rlhf_hydra.sweep.status import write
from rlhf_hydra.sweep.trial import Book

KL = "algo.kl.coef=tag(log,interval(1e-3,1e-1))"
SEARCH = ["sweep=optuna", "sweep.objective=reward/mean"]


@pytest.fixture
def search(composer, tmp_path):
    """The study of a command line, as a start of `-m` opens it."""

    def start(*overrides: str) -> Study:
        space, book = Space.of(composer, [*SEARCH, *overrides]), Book.open(tmp_path)
        run = composer.compose([*SEARCH, *(line for line in overrides if line.startswith("sweep."))]).run

        def accept(point):
            return book.add(point, checked_run(point.overrides, composer), ["python", "-m", "rlhf_hydra"])

        return Study(space, run.sweep, Objective.of(run), tmp_path, accept)

    return start


def log(trial, step: int, **metrics: float) -> None:
    row = {"step": step, **{name.replace("_", "/"): value for name, value in metrics.items()}}
    with (trial.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def end(study: Study, trial, state: str = "done", **changes) -> None:
    write(trial.folder, replace(trial.status, state=state, **changes))
    study.finished(trial, trial.status, Progress(trial.folder))


def told(study: Study) -> list[tuple[str, list[float] | None]]:
    return [(trial.state.name, trial.values) for trial in study.study.trials]


def test_every_point_is_told_its_value_and_has_the_parameters_of_its_run(search):
    study, trials = search(KL, "steps=10,20", "sweep.trials=6"), []
    while trial := study.take():
        trials.append(trial)
        log(trial, 1, reward_mean=0.0)
        log(trial, 2, reward_mean=trial.run.algo.kl.coef)
        end(study, trial)
    assert len(trials) == 6
    assert told(study) == [("COMPLETE", [trial.run.algo.kl.coef]) for trial in trials]
    for asked, trial in zip(study.study.trials, trials, strict=True):
        assert asked.params["algo.kl.coef"] == pytest.approx(trial.run.algo.kl.coef, rel=1e-3)
        assert asked.params["steps"] == f"steps={trial.run.steps}"


def test_a_failed_point_is_run_again_and_the_search_can_be_made_longer(search):
    study = search(KL, "sweep.trials=2")
    failed, done = study.take(), study.take()
    assert study.take() is None
    end(study, failed, "failed")
    log(done, 1, reward_mean=0.5)
    end(study, done)
    assert told(study) == [("RUNNING", None), ("COMPLETE", [0.5])]

    longer = search(KL, "sweep.trials=3")
    again, new = longer.take(), longer.take()
    assert again.key == failed.key and new.key not in (failed.key, done.key)
    assert longer.take() is None
    log(again, 1, reward_mean=0.25)
    end(longer, again)
    assert told(longer)[:2] == [("COMPLETE", [0.25]), ("COMPLETE", [0.5])]


def test_what_was_done_when_the_sweep_died_is_told_at_the_next_start(search):
    trial = search(KL, "sweep.trials=1").take()
    log(trial, 1, reward_mean=0.75)
    write(trial.folder, replace(trial.status, state="done"))
    study = search(KL, "sweep.trials=1")
    assert study.take() is None and told(study) == [("COMPLETE", [0.75])]


def test_the_same_point_twice_is_one_trial_that_answers_both(search):
    study = search("steps=10,20", "sweep.trials=6")
    first = study.take()
    second = study.take()  # what it asks in between is among these two
    assert {first.run.steps, second.run.steps} == {10, 20} and study.take() is None
    for trial in (first, second):
        log(trial, 1, reward_mean=float(trial.run.steps))
        end(study, trial)
    assert len(told(study)) == 6
    for frozen in study.study.trials:
        assert frozen.values == [float(frozen.params["steps"].removeprefix("steps="))]


def test_a_point_with_seeds_is_worth_their_mean(search):
    study = search(KL, "sweep.trials=1", "sweep.seeds=2")
    one, two = study.take(), study.take()
    assert (one.run.seed, two.run.seed) == (42, 43)
    log(one, 1, reward_mean=0.25)
    end(study, one)
    assert told(study) == [("RUNNING", None)]
    log(two, 1, reward_mean=0.75)
    end(study, two)
    assert told(study) == [("COMPLETE", [0.5])]  # (0.25 + 0.75) / 2


def test_the_median_pruner_ends_what_does_worse(search):
    study = search(KL, "sweep.trials=7", "sweep.pruner=median")
    for _ in range(5):  # the pruner waits for as many
        trial = study.take()
        log(trial, 1, reward_mean=1.0)
        assert study.prunes(trial, Progress(trial.folder)) == ""
        end(study, trial)
    better, worse = study.take(), study.take()
    log(better, 1, reward_mean=2.0)
    log(worse, 1, reward_mean=0.5)
    assert study.prunes(better, Progress(better.folder)) == ""
    reason = study.prunes(worse, Progress(worse.folder))
    assert reason == "pruned at step 1: reward/mean 0.5 is worse than that of others"
    end(study, worse, "stopped", pruned=True)
    assert told(study)[6][0] == "PRUNED"
    assert search(KL, "sweep.trials=7", "sweep.pruner=median").take().key == better.key


def test_two_objectives_and_a_condition(search):
    search_line = ["sweep.sampler=nsga2", "sweep.against=policy/kl", 'sweep.constraints=["kl <= 1"]', "sweep.trials=2"]
    study = search(KL, *search_line)
    tame, wild = study.take(), study.take()
    log(tame, 1, reward_mean=0.5, policy_kl=0.5)
    log(wild, 1, reward_mean=0.9, policy_kl=3.0)
    end(study, tame)
    end(study, wild)
    assert told(study) == [("COMPLETE", [0.5, 0.5]), ("COMPLETE", [0.9, 3.0])]
    assert [direction.name for direction in study.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [trial.constraints for trial in study.study.trials] == [{"policy/kl <= 1": -0.5}, {"policy/kl <= 1": 2.0}]


def test_a_point_that_is_no_sound_run_is_told_to_have_failed(search):
    # 32 prompts x 8 samples do not divide into updates of 100
    study = search("policy.samples_per_update=64,100", "sweep.trials=4")
    trial = study.take()
    assert trial.run.policy.samples_per_update == 64
    assert study.take() is None
    assert {trial.state.name for trial in study.study.trials} == {"RUNNING", "FAIL"}
    again = search("policy.samples_per_update=64,100", "sweep.trials=4")
    assert list(study.refused) == list(again.refused) == ["policy.samples_per_update=100"]
    assert "no multiple of it" in again.refused["policy.samples_per_update=100"]


def test_an_objective_that_no_trial_has_is_said(search):
    study = search(KL, "sweep.objective=eval/pass@9")
    trial = study.take()
    log(trial, 1, reward_mean=0.5)
    with pytest.raises(Failure, match="no metric eval/pass@9; they have: reward/mean"):
        end(study, trial)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.conditions import Condition, parse_condition
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.schema import ReportTask
from rlhf_hydra.sweep.objective import Objective, averaged

READ = {
    "kl <= 15": Condition("policy/kl", "<=", 15.0),
    "policy/entropy>0.1": Condition("policy/entropy", ">", 0.1),
    " eval/pass@1 >= 5e-1 ": Condition("eval/pass@1", ">=", 0.5),
    "reward < -2": Condition("reward/mean", "<", -2.0),
}


@pytest.mark.parametrize("text", READ)
def test_a_condition_is_read(text):
    assert parse_condition(text) == READ[text]


@pytest.mark.parametrize("text", ["kl", "kl = 3", "kl <= x", "__import__('os') <= 1", "kl <= 1 or 1", "1 <= kl", ""])
def test_anything_else_is_no_condition(text):
    with pytest.raises(ValueError):
        parse_condition(text)


@given(value=st.floats(-10, 10), bound=st.floats(-10, 10), sign=st.sampled_from(["<=", ">="]))
def test_a_condition_holds_where_nothing_exceeds_its_bound(value, bound, sign):
    condition = Condition("x", sign, bound)
    assert condition.holds({"x": value}) == (condition.excess({"x": value}) <= 0)


def test_a_metric_that_is_not_there_satisfies_nothing():
    condition = Condition("x", "<=", 1.0)
    assert not condition.holds({}) and condition.excess({}) == float("inf")


def objective(composer, *overrides):
    return Objective.of(checked_run(overrides, composer))


def test_the_training_reward_is_never_the_judge_unless_it_is_named(composer):
    assert objective(composer).metric is None and objective(composer).shown == "reward/mean"
    assert objective(composer, "eval.every=5").metric == "eval/pass@1"
    assert objective(composer, "eval.every=5", "eval.k=[4,2]", "eval.samples_per_prompt=4").metric == "eval/pass@2"
    assert objective(composer, "eval.every=5", "sweep.objective=reward/mean").metric == "reward/mean"


def test_a_supervised_sweep_wants_the_smallest_evaluation_loss(composer):
    found = objective(composer, "algo=dpo", "eval.every=5")
    assert (found.metric, found.direction) == ("eval/loss", "min")
    unjudged = objective(composer, "algo=dpo", "eval.every=0")
    assert (unjudged.metric, unjudged.shown, unjudged.direction) == (None, "train/loss", "min")
    assert objective(composer, "algo=rm", "eval.every=5", "sweep.objective=eval/accuracy").direction == "max"
    assert objective(composer, "algo=rm", "sweep.objective=eval/loss", "sweep.direction=max").direction == "max"


def test_a_report_may_ask_for_another_objective(composer):
    sweep = objective(composer, "algo=dpo", "eval.every=5", 'sweep.constraints=["kl <= 15"]')
    task = ReportTask(name="report", objective="eval/accuracy")
    assert (sweep.changed(task).metric, sweep.changed(task).direction) == ("eval/accuracy", "max")
    assert sweep.changed(task).conditions == sweep.conditions
    assert sweep.changed(ReportTask(name="report")) == sweep


def test_ties_go_to_the_lower_kl_and_then_to_the_first():
    wanted = Objective("eval/loss", "min")
    kls = {"a": {}, "b": {"policy/kl": 3.0}, "c": {"policy/kl": 2.0}, "d": {}}
    assert wanted.ranked({key: {"eval/loss": 1.0} | kl for key, kl in kls.items()}) == ["c", "b", "a", "d"]


def test_repeats_are_worth_the_mean_of_what_all_of_them_have():
    assert averaged([{"x": 1.0, "y": 2.0}, {"x": 2.0}]) == {"x": 1.5}


def test_the_best_first_and_nothing_that_breaks_a_condition(composer):
    found = {
        "a": {"eval/pass@1": 0.5, "policy/kl": 1.0},
        "b": {"eval/pass@1": 0.9, "policy/kl": 20.0},
        "c": {"eval/pass@1": 0.7, "policy/kl": 3.0},
        "d": {"policy/kl": 0.0},
    }
    line = ["eval.every=5", 'sweep.constraints=["kl <= 15"]']
    assert objective(composer, *line).ranked(found) == ["c", "a"]
    assert objective(composer, *line, "sweep.direction=min").ranked(found) == ["a", "c"]
    assert objective(composer, *line).violations(found["b"]) == ["policy/kl <= 15"]
    assert objective(composer).ranked(found) == []


WRONG = {
    'sweep.constraints=["kl = 15"]': "sweep.constraints.*METRIC <= NUMBER",
    "sweep=optuna": "sweep.objective.*nothing is evaluated\\n.*reward/mean",
    "sweep=optuna algo=sft eval.every=0": "sweep.objective.*nothing is evaluated\\n.*train/loss",
    "sweep=optuna eval.every=1 sweep.against=policy/kl sweep.pruner=median": "sweep.pruner.*two objectives",
    "sweep.trials=3": "is a key of sweep=random, sweep=optuna",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_sweep_that_makes_no_sense_is_refused(composer, typed):
    overrides = [typed] if '"' in typed else typed.split()
    with pytest.raises(ConfigError, match=WRONG[typed]):
        checked_run(overrides, composer)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.conditions import Condition, parse_condition
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.sweep.objective import Objective

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
    assert objective(composer).metric is None
    assert objective(composer, "eval.every=5").metric == "eval/pass@1"
    assert objective(composer, "eval.every=5", "eval.k=[4,2]", "eval.samples_per_prompt=4").metric == "eval/pass@2"
    assert objective(composer, "eval.every=5", "sweep.objective=reward/mean").metric == "reward/mean"


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
    "sweep=optuna": "sweep.objective.*nothing is evaluated",
    "sweep=optuna eval.every=1 sweep.against=policy/kl sweep.pruner=median": "sweep.pruner.*two objectives",
    "sweep.trials=3": "is a key of sweep=random, sweep=optuna",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_sweep_that_makes_no_sense_is_refused(composer, typed):
    overrides = [typed] if '"' in typed else typed.split()
    with pytest.raises(ConfigError, match=WRONG[typed]):
        checked_run(overrides, composer)

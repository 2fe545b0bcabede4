from argparse import Namespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.overrides import Interval
from rlhf_hydra.config.schema import RandomSweep
from rlhf_hydra.sweep.space import Space
from rlhf_hydra.tasks import checked_runs


def test_a_grid_is_every_combination_the_last_key_fastest(composer):
    found = [p.overrides for p in Space.of(composer, ["algo=ppo,grpo", "model=tiny", "seed=range(1,3)"]).points()]
    assert found == [
        ["algo=ppo", "model=tiny", "seed=1"],
        ["algo=ppo", "model=tiny", "seed=2"],
        ["algo=grpo", "model=tiny", "seed=1"],
        ["algo=grpo", "model=tiny", "seed=2"],
    ]


def test_what_varies_tells_runs_apart(points):
    assert points("algo=ppo", "seed=choice(1,2)") == [["seed=1"], ["seed=2"]]


def test_a_range_of_fractions_counts_as_it_reads(points):
    """In binary fractions 3 x 0.3 is below 0.9, and 3 x 0.1 is above 0.3."""
    assert points("algo.kl.coef=range(0,0.9,0.3)") == [[f"algo.kl.coef={value}"] for value in (0.0, 0.3, 0.6)]
    assert points("algo.kl.coef=range(0.1,0.4,0.1)") == [[f"algo.kl.coef={value}"] for value in (0.1, 0.2, 0.3)]


def test_one_run_has_nothing_of_its_own(points):
    assert points("algo=ppo") == [[]]


def test_a_large_grid_is_not_made_in_advance(composer):
    axes = [f"{key}=range(1,1000)" for key in ("seed", "steps", "checkpoint.every", "checkpoint.keep")]
    first = next(Space.of(composer, axes).points())
    assert first.overrides == ["seed=1", "steps=1", "checkpoint.every=1", "checkpoint.keep=1"]


def test_zipped_lists_go_together(points):
    found = points("algo.kl.coef=0.1,0.2", "seed=1,2", "steps=3,4", "sweep.zip=[[algo.kl.coef,steps]]")
    assert found == [
        ["algo.kl.coef=0.1", "seed=1", "steps=3"],
        ["algo.kl.coef=0.1", "seed=2", "steps=3"],
        ["algo.kl.coef=0.2", "seed=1", "steps=4"],
        ["algo.kl.coef=0.2", "seed=2", "steps=4"],
    ]


def test_seeds_repeat_each_combination_from_the_seed_on(points):
    assert points("seed=7", "sweep.seeds=2", "steps=1,2") == [
        ["seed=7", "steps=1"],
        ["seed=8", "steps=1"],
        ["seed=7", "steps=2"],
        ["seed=8", "steps=2"],
    ]
    assert points("sweep.seeds=3") == [["seed=42"], ["seed=43"], ["seed=44"]]


WRONG = {
    "sweep.zip=[[steps,seed]] steps=1,2 seed=1,2,3": "do not pair",
    "sweep.zip=[[steps,seed]] steps=1,2": r"do not pair .steps: \['1', '2'\], seed: \[\]",
    "sweep.zip=[[seed,steps]] steps=1,2": "do not pair",
    "sweep.seeds=2 seed=1,2": "the seed has several values already",
    "sweep.seeds=1,2": "does not decide what a run finds",
    "sweep=random,grid": "does not decide what a run finds",
    "sweep.zip=[[steps,seed],[seed,checkpoint.keep]] steps=1,2 seed=1,2 checkpoint.keep=1,2": "seed stands in two zips",
    "algo=glob(zz*)": r"algo=glob\(zz\*\) .*has no value to choose from",
    "seed=range(3,1)": "has no value to choose from",
    "seed=range(1,3,0)": "has no value to choose from",
    "outputs=a,b": "does not decide what a run finds",
    "tracking=none,jsonl": "does not decide what a run finds",
    "hydra.sweep.dir=a,b": "does not decide what a run finds",
    "cluster.address=a:1,b:2": "does not decide what a run finds",
    "algo.kl.coef=interval(0,1)": "algo.kl.coef .*cannot be swept over an interval",
    "sweep=random algo.kl.coef=interval(1,0)": "is not an interval",
    "sweep=random algo.kl.coef=tag(log,interval(0,1))": "bounds above 0",
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_does_not_go_together_is_refused(composer, typed):
    with pytest.raises(ConfigError, match=WRONG[typed]):
        list(Space.of(composer, typed.split()).points())


KL = "algo.kl.coef=tag(log,interval(1e-3,1e-1))"


@given(seed=st.integers(0, 10**6), trials=st.integers(1, 12), more=st.integers(0, 12))
def test_a_longer_random_search_begins_with_the_shorter_one(seed, trials, more):
    def found(count: int) -> list[list[str]]:
        values = {"kl": Interval("kl", 1e-3, 1e-1, True, False), "steps": ("steps=1", "steps=2")}
        return [point.own for point in Space(values, RandomSweep(name="random", trials=count), seed).points()]

    short, long = found(trials), found(trials + more)
    assert len(short) == trials and long[:trials] == short
    assert len({tuple(own) for own in long}) == trials + more


def test_random_trials_of_a_small_space_are_all_of_it(points):
    found = points("sweep=random", "sweep.trials=100", "steps=1,2,3", "checkpoint.keep=int(interval(1,4))")
    assert len(found) == 12 == len({tuple(own) for own in found})


def test_a_narrow_interval_has_few_values(points):
    found = points("sweep=random", "sweep.trials=9", "rollout.temperature=interval(1.0,1.002)")
    assert sorted(own[0] for own in found) == [f"rollout.temperature={value}" for value in ("1.0", "1.001", "1.002")]


@given(
    low=st.floats(1e-8, 1e3), factor=st.floats(1.01, 1e6), share=st.floats(0, 1, exclude_max=True), is_log=st.booleans()
)
def test_an_interval_keeps_its_bounds(low, factor, share, is_log):
    axis = Interval("x", low, low * factor, is_log=is_log, is_whole=False)
    assert axis.low <= float(axis.at(share).removeprefix("x=")) <= axis.high


@given(low=st.integers(-5, 5), width=st.integers(1, 9), share=st.floats(0, 1, exclude_max=True))
def test_whole_numbers_reach_both_bounds(low, width, share):
    axis = Interval("x", low, low + width, is_log=False, is_whole=True)
    assert low <= int(axis.at(share).removeprefix("x=")) <= low + width
    assert axis.at(0.0) == f"x={low}" and axis.at(1 - 1e-9) == f"x={low + width}"


def test_halfway_on_a_logarithmic_interval_is_the_geometric_mean():
    # sqrt(1e-7 * 1e-5) = 1e-6
    assert Interval("lr", 1e-7, 1e-5, is_log=True, is_whole=False).at(0.5) == "lr=1e-06"


def test_a_search_is_checked_at_its_bounds(points):
    found = points("sweep=optuna", "sweep.objective=reward/mean", KL, "steps=1,2,3")
    assert found == [
        ["algo.kl.coef=0.001", "steps=1"],
        ["algo.kl.coef=0.1", "steps=1"],
        ["algo.kl.coef=0.001", "steps=2"],
        ["algo.kl.coef=0.001", "steps=3"],
    ]


def test_of_a_grid_with_many_errors_some_are_shown(composer):
    """All 30 values of both keys are wrong; each run has one error of either."""
    asked = Namespace(overrides=["policy.optim.lr=range(-3.0,0,0.1)", "steps=-1"], multirun=True)
    with pytest.raises(ConfigError) as error:
        list(checked_runs(asked, composer))
    lines = str(error.value).splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 20 and lines[-1] == "and 11 other errors"

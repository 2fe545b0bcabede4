"""What is concluded from a set of trials, by hand."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import trial

from rlhf_hydra.config.conditions import parse_condition
from rlhf_hydra.sweep import findings
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.settings import settings

KL, REWARD, EVAL, LENGTH = findings.KL, findings.REWARD, findings.EVAL, findings.LENGTH


def at(name, kl, value, **more):
    """A trial that ends at this KL and evaluation."""
    return trial(name, {KL: {1: 0.0, 2: kl}, EVAL: {0: 0.1, 2: value}}, **more)


def names(found):
    return [each.name for each in found]


def frontier(trials, direction="max"):
    return names(findings.frontier(settings(trials), Objective(EVAL, direction)))


# -------------------------------------------------------------------------------------------------------- frontier


def test_the_frontier_by_hand():
    trials = [
        at("low", 0.1, 0.3),
        at("beaten", 0.3, 0.4),  # `middle` has less KL and more reward
        at("middle", 0.2, 0.5),
        at("same", 0.2, 0.5),  # as good as `middle`, so neither beats the other
        at("high", 0.5, 0.9),
        at("dear", 0.6, 0.9),  # `high` reaches it at a lower KL
        at("failed", 0.05, 0.99, state="failed"),
        trial("blind", {EVAL: {2: 1.0}}),  # no KL was measured
    ]
    assert frontier(trials) == ["low", "middle", "same", "high"]


def test_the_frontier_of_a_loss_is_the_lower_one():
    trials = [at("low", 0.1, 0.5), at("beaten", 0.2, 0.6), at("high", 0.3, 0.2)]
    assert frontier(trials, "min") == ["low", "high"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_who_is_beaten_is_not_on_the_frontier_and_everyone_else_is(points):
    trials = [at(str(number), *map(float, point)) for number, point in enumerate(points)]
    kept = set(map(int, frontier(trials)))

    def beats(a, b):
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    assert kept == {n for n, point in enumerate(points) if not any(beats(other, point) for other in points)}


def test_a_path_pairs_the_values_of_a_step_and_starts_at_no_kl():
    run = trial("t", {KL: {1: 0.01, 2: 0.02, 3: 0.03}, EVAL: {0: 0.1, 2: 0.5, 4: 0.6}})
    assert findings.path(settings([run])[0], EVAL) == [(0, 0.0, 0.1), (2, 0.02, 0.5)]  # nobody knows the KL of step 4


# ------------------------------------------------------------------------------------------------------------ best


def best(*trials, objective=EVAL, direction="max", constraints=()):
    wanted = Objective(objective, direction, [parse_condition(text) for text in constraints])
    return next(iter(names(findings.ranking(settings(trials), wanted))), None)


def test_the_best_has_the_best_last_evaluation_and_ties_go_to_the_lower_kl():
    peaked = trial("peaked", {KL: {2: 0.3}, EVAL: {1: 0.9, 2: 0.2}})
    trials = [at("far", 0.4, 0.6), at("near", 0.2, 0.6), at("worse", 0.1, 0.5), peaked]
    assert best(*trials) == "near"
    assert best(*trials, direction="min") == "peaked"
    assert best(*trials, objective=KL, direction="min") == "worse"
    assert best(at("failed", 0.1, 0.9, state="failed"), at("done", 0.3, 0.2)) == "done"
    assert best(at("running", 0.1, 0.9, state="running")) is None


@pytest.mark.parametrize(
    ("constraint", "winner"),
    [("kl <= 0.3", "near"), ("policy/kl < 0.2", "tame"), ("eval >= 0.9", None), ("policy/entropy > 0.1", None)],
)
def test_who_breaks_a_constraint_is_not_the_best(constraint, winner):
    trials = [at("far", 0.4, 0.7), at("near", 0.2, 0.6), at("tame", 0.1, 0.5)]
    assert best(*trials, constraints=(constraint,)) == winner


def test_training_reward_alone_makes_no_best_unless_it_is_named():
    trials = [trial("a", {REWARD: {1: 0.1, 2: 0.9}}), trial("b", {REWARD: {1: 0.1, 2: 0.5}})]
    assert best(*trials, objective=None) is None
    assert best(*trials, objective=REWARD) == "a"


# ------------------------------------------------------------------------------------------------------------ seeds


def repeated(lr, *ends, first=0, **more):
    """Trials of one setting, with seeds 1, 2, ... and these evaluations at the end."""
    return [
        trial(f"#{first + n}", {EVAL: {0: 0.1, 2: end}, KL: {2: 0.1}}, lr=lr, seed=1 + n, **more)
        for n, end in enumerate(ends)
    ]


def test_a_lucky_seed_does_not_win():
    trials = [*repeated(1, 0.9, 0.1), *repeated(2, 0.6, 0.5, first=2)]
    assert best(*trials) == "#2 ×2"  # (0.6 + 0.5) / 2 = 0.55 against (0.9 + 0.1) / 2 = 0.5
    luckless = trial("#9", {EVAL: {2: 0.95}}, state="failed", lr=2, seed=3)
    assert best(*trials, luckless) == "#0 ×2"  # a setting counts when all of its seeds are done
    assert best(*repeated(1, 0.5, 0.7), trial("calm", {EVAL: {2: 0.6}, KL: {2: 0.05}})) == "calm"  # ties: lower KL


def test_means_and_deviations_over_seeds_by_hand():
    (setting,) = settings(repeated(1, 0.2, 0.4, 0.9))
    # mean 1.5 / 3 = 0.5; deviations -0.3, -0.1, 0.4: sqrt((0.09 + 0.01 + 0.16) / 2) = 0.360555
    assert setting.last(EVAL) == pytest.approx(0.5) and setting.deviation(EVAL) == pytest.approx(0.360555)
    assert setting.curve(EVAL) == pytest.approx({0: 0.1, 2: 0.5}) and setting.band(EVAL)[2] == pytest.approx(0.360555)
    assert (setting.name, setting.states, setting.value("seed")) == ("#0 ×3", "done", "1, 2, 3")


def test_numbers_are_those_of_the_seeds_that_are_done_until_none_is():
    done, failed = repeated(1, 0.5)[0], trial("#1", {EVAL: {0: 0.3}}, state="failed", lr=1, seed=2)
    (setting,) = settings([done, failed])
    assert (setting.state, setting.states) == ("failed", "1 done, 1 failed")
    assert setting.last(EVAL) == 0.5 and setting.deviation(EVAL) is None and setting.band(EVAL) == {}
    (begun,) = settings([failed, trial("#2", {}, state="waiting", lr=1, seed=3)])
    assert begun.last(EVAL) == 0.3 and begun.state == "failed"


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ({"lr": 1, "seed": 1}, {"lr": 1, "seed": 2}, 1),
        ({"lr": 1, "seed": 1}, {"lr": 2, "seed": 2}, 2),
        ({"lr": 1, "seed": 1}, {"lr": 1, "seed": 1}, 2),  # the same run again is no repeat
        ({"lr": 1, "outputs": "a", "seed": 1}, {"lr": 1, "outputs": "b", "seed": 2}, 1),
        ({}, {}, 2),  # nothing is known of either
    ],
)
def test_repeats_differ_in_their_seed_alone(one, other, count):
    assert len(settings([trial("a", {}, **one), trial("b", {}, **other)])) == count


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12))
def test_every_trial_is_in_one_setting(runs):
    trials = [trial(str(n), {}, lr=lr, seed=seed) for n, (lr, seed) in enumerate(runs)]
    found = settings(trials)
    assert sorted(int(each.name) for setting in found for each in setting.trials) == list(range(len(runs)))
    assert all(len(set(setting.seeds)) == len(setting.trials) for setting in found)


# -------------------------------------------------------------------------------------------------- effects, sweeps


def grid():
    cells = [(0.01, 1, 0.4), (0.01, 2, 0.8), (0.1, 1, 0.2), (0.1, 2, 0.4)]
    return [at(f"{c}-{e}", 0.1, v, algo__kl__coef=c, algo__epochs=e, steps=9, outputs=f"/x/{v}") for c, e, v in cells]


def test_main_effects_by_hand():
    found = settings([*grid(), at("failed", 0.1, 0.0, state="failed", algo__kl__coef=0.1, algo__epochs=1)])
    first, second = findings.effects(found, findings.swept(found), EVAL)
    # 1 epoch: (0.4 + 0.2) / 2 = 0.3, 2: (0.8 + 0.4) / 2 = 0.6; coef 0.01: 0.6, 0.1: 0.3. The failed one counts not.
    assert [(level.at, level.reached) for level in first.levels] == [(0.01, [0.4, 0.8]), (0.1, [0.2, 0.4])]
    assert first.means == pytest.approx([0.6, 0.3]) and first.span == pytest.approx(0.3)
    assert second.key == "algo.epochs" and second.means == pytest.approx([0.3, 0.6])


def test_swept_keys_are_overrides_that_differ_and_no_places():
    assert findings.swept(settings(grid())) == {"algo.kl.coef": [0.01, 0.1], "algo.epochs": [1, 2]}
    assert findings.swept(settings(grid()), ["algo.epochs"]) == {"algo.epochs": [1, 2]}
    assert findings.swept(settings(repeated(1, 0.5, 0.6) + repeated(2, 0.5, 0.6))) == {"lr": [1, 2]}


# --------------------------------------------------------------------------------------------------- reward hacking

STEPS = range(1, 21)
RISING = {step: 0.1 + 0.04 * step for step in STEPS}
FLAT = {step: 0.5 + 0.01 * (-1) ** step for step in STEPS}


def signs(**curves):
    known = {"reward": REWARD, "kl": KL, "length": LENGTH, "evaluation": EVAL}
    return findings.signs(trial("t", {known[name]: curve for name, curve in curves.items()}))


def evaluated(*values):
    return {"evaluation": {5 * number: value for number, value in enumerate(values)}}


@pytest.mark.parametrize(
    ("curves", "sign"),
    [
        ({"kl": {s: 0.001 * 1.4**s for s in STEPS}}, "KL runs away"),
        ({"kl": {s: 0.05 * s for s in STEPS}}, ""),  # as much in the second half as in the first
        ({"kl": {s: 1 - 0.8**s for s in STEPS}}, ""),  # it settles
        ({"kl": {s: 0.3 + 0.02 * (-1) ** s for s in STEPS}}, ""),  # it is noise
        ({"kl": {s: 1e-5 * 1.4**s for s in STEPS}}, ""),  # it ends at 0.008
        ({"length": {s: 100 + 10 * s for s in STEPS}}, "responses grow longer: 125 -> 285 tokens"),
        ({"length": {s: 300 - 12 * s for s in STEPS}}, "responses grow shorter: 270 -> 78 tokens"),
        ({"length": {s: 100 + 4 * s for s in STEPS}}, ""),  # 110 -> 174
        (evaluated(0.1, 0.3, 0.5, 0.4, 0.3), "evaluation falls: 0.5 at its best, 0.35 in the end"),  # 0.15 of 0.4
        (evaluated(0.1, 0.3, 0.5, 0.45, 0.4), ""),  # 0.075 of 0.4
        (evaluated(0.5, 0.4, 0.3, 0.2), "evaluation falls"),  # nothing gained, so any loss counts
        (evaluated(0.1, 0.4, 0.5, 0.5, 0.3), ""),  # the last one alone
        (evaluated(0.5, 0.4, 0.5, 0.4, 0.5, 0.3), ""),  # usually 0.1 from its neighbours, now 0.1 below its best
        (evaluated(0.5, 0.4, 0.3), ""),  # three values are no curve
    ],
)
def test_signs_of_reward_hacking(curves, sign):
    found = signs(reward=RISING, **curves)
    assert len(found) == bool(sign) and "".join(found).startswith(sign)
    assert signs(reward=FLAT, **curves) == []  # where the reward does not rise there is nothing to game
    assert signs(**curves) == []
    short = {step: value for step, value in RISING.items() if step < findings.MIN_STEPS}
    assert signs(reward=short, **curves) == []


def test_several_signs_are_all_named():
    found = signs(reward=RISING, kl={s: 0.001 * 1.4**s for s in STEPS}, **evaluated(0.1, 0.3, 0.5, 0.3, 0.2))
    assert [sign.split()[0] for sign in found] == ["KL", "evaluation"]


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_noise_is_seldom_a_sign(steps):
    """200 runs of a KL that grows evenly, with a tenth of noise, and of an evaluation that rises and then stays, with
    0.025."""
    rng, found = random.Random(0), []
    for _ in range(200):
        kl = {s: 0.5 * s / steps * rng.gauss(1, 0.1) for s in range(1, steps + 1)}
        values = [0.3 + 0.5 * (1 - 0.4**n) + rng.gauss(0, 0.025) for n in range(8)]
        found += signs(reward={s: s / steps for s in kl}, kl=kl, **evaluated(*values))
    assert len(found) <= 4


def test_many_numbers_are_taken_in_quarters():
    """Alone each would have an effect, as large as the settings differ."""
    ends = [0.5, 0.1, 0.3, 0.3, 0.2, 0.4, 0.6, 0.4, 0.9, 0.7]
    trials = [at(str(n), 0.1, end, lr=10.0**-n, kind="ab"[n % 2]) for n, end in enumerate(ends, start=1)]
    found = settings(trials)
    lr, kind = findings.effects(found, findings.swept(found), EVAL)
    assert [level.name for level in lr.levels] == [
        "1e-10 to 1e-09",
        "1e-08 to 1e-06",
        "1e-05 to 0.0001",
        "0.001 to 0.1",
    ]
    # (0.9 + 0.7) / 2, (0.6 + 0.4 + 0.4) / 3, (0.2 + 0.3) / 2, (0.3 + 0.1 + 0.5) / 3
    assert lr.means == pytest.approx([0.8, 1.4 / 3, 0.25, 0.3])
    assert [level.at for level in lr.levels] == [1e-10, 1e-07, 1e-05, 1e-02]
    assert kind.means == pytest.approx([0.5, 0.38])


def test_a_key_of_which_one_value_is_left_has_no_effect():
    left = [at("a", 0.1, 0.5, lr=1), at("b", 0.1, 0.5, state="failed", lr=2)]
    assert findings.effects(settings(left), findings.swept(settings(left)), EVAL) == []

import math

from rlhf_hydra.algos.guards import Watch
from rlhf_hydra.config.schema import Guard


def step(watch, skipped, updates=2):
    return watch.skipped_too_often({"policy/skipped": skipped, "policy/updates": updates})


def test_skips_in_a_row_add_up_and_a_good_step_forgets_them():
    watch = Watch(Guard(max_skips=3))
    # two of two; one of two, so the row may be broken and one is left; none; two; two more: four
    assert [step(watch, n) is None for n in (2, 1, 0, 2, 2)] == [True, True, True, True, False]
    assert "4 optimizer steps in a row" in step(Watch(Guard(max_skips=3)), 4, updates=4)


def test_the_count_goes_on_after_a_resume():
    first, second = Watch(Guard(max_skips=3)), Watch(Guard(max_skips=3))
    assert step(first, 2) is None
    second.load_state(first.state())
    assert step(second, 2) is not None


def test_a_step_without_updates_breaks_nothing():
    assert Watch(Guard(max_skips=1)).skipped_too_often({}) is None


def test_limits_by_hand():
    watch = Watch(Guard(kl_max=0.5, entropy_min=0.1, reward_drop=0.3))
    assert list(watch.limits({"policy/kl": 0.5, "policy/entropy": 0.1, "reward/mean": 0.8})) == []
    found = list(watch.limits({"policy/kl": 0.6, "policy/entropy": 0.05, "reward/mean": 0.4}))
    assert [text.split()[0] for text in found] == ["policy/kl", "policy/entropy", "reward/mean"]
    assert "best, 0.8" in found[2]
    assert list(watch.limits({})) == []


def test_no_limit_is_broken_unless_it_is_set():
    assert list(Watch(Guard()).limits({"policy/kl": 1e9, "policy/entropy": 0.0, "reward/mean": -1e9})) == []


def test_the_best_reward_is_kept_through_a_resume_and_is_json():
    watch = Watch(Guard(reward_drop=0.1))
    assert watch.state() == {"skips": 0, "best": None}
    list(watch.limits({"reward/mean": 0.7}))
    list(watch.limits({"reward/mean": math.nan}))
    again = Watch(Guard(reward_drop=0.1))
    again.load_state(watch.state())
    assert len(list(again.limits({"reward/mean": 0.5}))) == 1

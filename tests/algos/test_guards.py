import math

import pytest

from rlhf_hydra.algos.guards import SkipGuard, non_finite


def test_non_finite_names_the_culprits():
    assert non_finite({"a": 1.0, "b": math.nan, "c": -math.inf}) == ["b", "c"]


def test_guard_skips_counts_and_forgets_after_a_good_step():
    guard = SkipGuard(limit=2)
    steps = [1.0, math.nan, 1.0, math.inf]
    assert [guard.skips({"policy/loss": x}) for x in steps] == [False, True, False, True]
    assert guard.state() == {"skipped": 2, "in_a_row": 1}


def test_guard_gives_up_in_a_row_and_after_a_resume():
    first, second = SkipGuard(limit=2), SkipGuard(limit=2)
    first.skips({"policy/grad_norm": math.nan})
    second.load_state(first.state())
    with pytest.raises(FloatingPointError, match="2 steps in a row were not finite, the last in policy/grad_norm"):
        second.skips({"policy/grad_norm": math.nan})

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.algos.passk import majority, pass_at_k


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 1) == 0.25
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)  # one of the six pairs holds no correct sample
    assert pass_at_k(4, 0, 4) == 0
    assert pass_at_k(4, 3, 2) == 1
    assert 0 < pass_at_k(10_000, 1, 100) < 1


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_all_subsets_that_pass(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    subsets = list(combinations(correct, k))
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("wrong", [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1)])
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(ValueError, match="1 <= k"):
        pass_at_k(*wrong)


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["4", "4", "5"], [True, True, False], 1),
        (["4", "5", "5"], [True, False, False], 0),
        (["4", "5"], [True, False], 0.5),  # a tie shares the vote
        ([None, None, "4"], [False, False, True], 1),  # no answer is not elected
        ([None], [False], 0),
        ([], [], 0),
    ],
)
def test_majority_by_hand(answers, correct, expected):
    assert majority(answers, correct) == expected

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.data.packing import balance, first_fit, partition

LENGTHS = st.lists(st.integers(1, 60), max_size=40)
WORKERS = st.integers(1, 5)
BUDGET = st.integers(1, 100)


def loads(lengths, bins):
    return [sum(lengths[row] for row in bin_) for bin_ in bins]


def lower_bound(lengths, num_workers, max_tokens):
    """Micro-batches a worker that no packing can go below: rows over half the budget, and the sum, each need bins."""
    halves = sum(2 * length > max_tokens for length in lengths)
    full = -(-sum(min(length, max_tokens) for length in lengths) // max_tokens)
    return max(1, -(-max(halves, full) // num_workers))


@given(LENGTHS, WORKERS, BUDGET)
def test_every_row_sits_in_one_place(lengths, num_workers, max_tokens):
    shares = partition(lengths, num_workers, max_tokens)
    assert sorted(row for bins in shares for bin_ in bins for row in bin_) == list(range(len(lengths)))


@given(LENGTHS, WORKERS, BUDGET)
def test_workers_have_equally_many_microbatches(lengths, num_workers, max_tokens):
    shares = partition(lengths, num_workers, max_tokens)
    assert len(shares) == num_workers
    assert len({len(bins) for bins in shares}) == 1 and shares[0]


@given(LENGTHS, WORKERS, BUDGET)
def test_the_budget_holds_but_for_a_row_that_exceeds_it_alone(lengths, num_workers, max_tokens):
    for bins in partition(lengths, num_workers, max_tokens):
        for bin_, load in zip(bins, loads(lengths, bins), strict=True):
            assert load <= max_tokens or len(bin_) == 1


def test_one_long_row_does_not_lift_the_budget_of_the_others():
    # Longest first into the lightest of three: 9 | 3 2 2 | 3 2, where 7 > 6. First fit keeps it: 9 | 3 3 | 2 2 2.
    lengths = [9, 3, 3, 2, 2, 2]
    (bins,) = partition(lengths, 1, 6)
    assert sorted(loads(lengths, bins)) == [6, 6, 9]


@given(LENGTHS, WORKERS, BUDGET)
def test_the_number_of_microbatches_is_near_its_floor(lengths, num_workers, max_tokens):
    """First-fit decreasing needs at most 11/9 OPT + 6/9 bins (Dosa, 2007), and OPT is at least the lower bound."""
    found = len(partition(lengths, num_workers, max_tokens)[0])
    assert found >= lower_bound(lengths, num_workers, max_tokens)
    assert found <= -(-len(first_fit(lengths, sorted(range(len(lengths)), key=lambda i: -lengths[i]), max_tokens))
                      // num_workers) or found == 1  # fmt: skip


@given(LENGTHS, WORKERS, BUDGET)
def test_rows_of_a_microbatch_fall_in_length(lengths, num_workers, max_tokens):
    for bins in partition(lengths, num_workers, max_tokens):
        for bin_ in bins:
            found = [lengths[row] for row in bin_]
            assert found == sorted(found, reverse=True)


@given(LENGTHS, WORKERS)
def test_enough_budget_makes_one_microbatch(lengths, num_workers):
    assert all(len(bins) == 1 for bins in partition(lengths, num_workers, max(1, sum(lengths))))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_tokens", [1024, 4096])
def test_skewed_lengths_balance_over_workers(seed, max_tokens):
    """256 rows, geometric with mean 100, 4 workers: the busiest has at most 2% more tokens than the mean, and the
    micro-batches are at least 85% full."""
    generator = random.Random(seed)
    lengths = [1 + int(generator.expovariate(1 / 99)) for _ in range(256)]
    shares = partition(lengths, 4, max_tokens)
    tokens = [sum(loads(lengths, bins)) for bins in shares]
    assert max(tokens) <= 1.02 * sum(tokens) / 4
    floor = -(-sum(lengths) // (4 * max_tokens))
    assert len(shares[0]) <= floor + 1
    assert max(load for bins in shares for load in loads(lengths, bins)) <= max_tokens


def test_balance_gives_the_costliest_to_the_lightest():
    # 5 | 4, 3 goes to 4 (7), 3 to 5 (8).
    assert balance([3, 5, 4, 3], range(4), 2) == [[1, 3], [2, 0]]


def test_first_fit_takes_the_first_bin_with_room():
    # 4 | 3 2 | 3: the last 3 fits neither 6 - 4 nor 6 - 5.
    assert first_fit([4, 3, 2, 3], [0, 1, 2, 3], 6) == [[0, 2], [1, 3]]

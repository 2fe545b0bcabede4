import pytest

from rlhf_hydra.cluster.group import LocalGroup


class Counter:
    """A small worker."""

    def __init__(self, rank):
        self.rank, self.seen, self.closed = rank, [], False

    def add(self, *numbers):
        self.seen.append(numbers)
        return sum(numbers) + 10 * self.rank.index

    def count(self, n):
        yield from range(n)

    def close(self):
        self.closed = True


@pytest.fixture
def group():
    return LocalGroup("counter", Counter, 3)


def test_all_makes_the_same_call_on_every_worker(group):
    assert group.all("add", 1, 2).get() == [3, 13, 23]


def test_each_makes_one_call_on_each(group):
    assert group.each("add", [(1,), (2, 2), ()]).get() == [1, 14, 20]


def test_a_call_for_each_worker_is_needed(group):
    with pytest.raises(ValueError):
        group.each("add", [(1,)])


def test_an_attribute_can_be_read(group):
    assert [rank.index for rank in group.all("rank").get()] == [0, 1, 2]
    assert {rank.size for rank in group.all("rank").get()} == {3}


def test_a_stream_comes_from_the_first_worker(group):
    assert list(group.stream("count", 3)) == [0, 1, 2]


def test_close_reaches_every_worker_and_can_be_repeated(group):
    workers = group.workers
    group.close()
    group.close()
    assert all(worker.closed for worker in workers) and group.workers == []


def test_workers_without_close_are_let_go():
    LocalGroup("plain", lambda rank: object(), 1).close()

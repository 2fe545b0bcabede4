import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.workers.weights import buckets

NAMED = [
    ("a", torch.arange(6, dtype=torch.float32).view(2, 3)),
    ("b", torch.tensor([1.5, -2.25, float("inf")], dtype=torch.bfloat16)),
    ("scalar", torch.tensor(3.0)),
    ("strided", torch.arange(6.0).view(2, 3).t()),
    ("half", torch.tensor([[0.1]], dtype=torch.float16)),
]


@given(st.integers(1, 200))
def test_tensors_come_back_as_they_were(max_bytes):
    back = [pair for bucket in buckets(iter(NAMED), max_bytes) for pair in bucket]
    assert [name for name, _ in back] == [name for name, _ in NAMED]
    for (_, found), (_, wanted) in zip(back, NAMED, strict=True):
        assert found.dtype == wanted.dtype and torch.equal(found, wanted)


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 200))
def test_buckets_are_full_but_not_more(sizes, max_bytes):
    """Every bucket keeps the limit or holds one tensor, and its first tensor would not have fitted the one before."""
    weights = [(str(i), torch.zeros(size)) for i, size in enumerate(sizes)]
    loads = [[data.nbytes for data in bucket.data] for bucket in buckets(iter(weights), max_bytes)]
    assert [n // 4 for load in loads for n in load] == sizes
    assert all(sum(load) <= max_bytes or len(load) == 1 for load in loads)
    assert all(sum(load) + after[0] > max_bytes for load, after in zip(loads, loads[1:], strict=False))


def test_no_weights_make_no_bucket():
    assert list(buckets(iter([]), 10)) == []


def test_bytes_are_shared_not_copied():
    weight = torch.zeros(4)
    (bucket,) = buckets(iter([("w", weight)]), 100)
    weight[0] = 7
    assert dict(bucket)["w"][0] == 7


@pytest.mark.filterwarnings("error")
def test_reading_read_only_bytes_warns_of_nothing():
    (bucket,) = buckets(iter(NAMED[:1]), 100)
    bucket.data[0].setflags(write=False)
    assert torch.equal(dict(bucket)["a"], NAMED[0][1])

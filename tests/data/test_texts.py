"""Given texts beside a rollout: seeded, complete in every pass, and resumed exactly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.texts import TextStream


class Numbers:
    """Examples whose only token is their number."""

    def __init__(self, count, fingerprint="a"):
        self.count, self.fingerprint = count, fingerprint

    def __len__(self):
        return self.count

    def batch(self, items):
        return RolloutBatch.from_sequences([[item] for item in items], [[7]] * len(items), group=range(len(items)))


def numbers(batch):
    return batch.tokens[:, 0].tolist()


@given(n=st.integers(1, 12), seed=st.integers(0, 5), takes=st.lists(st.integers(1, 30), max_size=5))
def test_each_pass_gives_every_text_once(n, seed, takes):
    stream = TextStream(Numbers(n), seed)
    order = [number for take in takes for number in numbers(stream.take(take))]
    assert len(order) == sum(takes)
    for start in range(0, len(order) - n + 1, n):
        assert sorted(order[start : start + n]) == list(range(n))


@given(n=st.integers(1, 12), before=st.integers(0, 30), after=st.integers(1, 30))
def test_resumed_equals_never_stopped(n, before, after):
    straight, resumed = TextStream(Numbers(n), 7), TextStream(Numbers(n), 7)
    for _ in range(before):
        straight.take(1)
    resumed.load_state(json.loads(json.dumps(straight.state())))
    assert numbers(resumed.take(after)) == numbers(straight.take(after))


def test_other_texts_or_another_seed_cannot_be_resumed():
    state = TextStream(Numbers(3), 1).state()
    with pytest.raises(DataError, match="algo.ptx.data has another fingerprint, b, than before, a"):
        TextStream(Numbers(3, "b"), 1).load_state(state)
    with pytest.raises(DataError, match="another seed, 2, than before, 1"):
        TextStream(Numbers(3), 2).load_state(state)

"""The order of prompts: seeded, complete in every pass, and resumed exactly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.order import Order, permutation
from rlhf_hydra.data.prompts import Prompt, PromptStream, fingerprint


def prompts(n: int) -> list[Prompt]:
    return [Prompt(tokens=[i], text=f"prompt {i}", label=i, row=i + 1) for i in range(n)]


def rows(taken: list[Prompt]) -> list[int]:
    return [prompt.row for prompt in taken]


@given(n=st.integers(1, 20), seed=st.integers(0, 5), takes=st.lists(st.integers(0, 50), max_size=5))
def test_each_pass_gives_every_prompt_once(n, seed, takes):
    stream = PromptStream(prompts(n), seed)
    order = [row for take in takes for row in rows(stream.take(take))]
    for start in range(0, len(order) - n + 1, n):
        assert sorted(order[start : start + n]) == list(range(1, n + 1))


@given(n=st.integers(1, 20), before=st.integers(0, 50), after=st.integers(0, 50))
def test_resumed_equals_never_stopped(n, before, after):
    straight = PromptStream(prompts(n), 7)
    straight.take(before)
    resumed = PromptStream(prompts(n), 7)
    resumed.load_state(json.loads(json.dumps(straight.state())))
    assert rows(resumed.take(after)) == rows(straight.take(after))


def test_a_take_may_be_longer_than_the_data():
    order = rows(PromptStream(prompts(2), 0).take(5))
    assert sorted(order[:2]) == sorted(order[2:4]) == [1, 2]


def test_order_depends_on_seed_and_pass():
    assert permutation(50, 1, 0) == permutation(50, 1, 0)
    assert len({tuple(permutation(50, seed, number)) for seed in range(3) for number in range(3)}) == 9


def test_order_is_the_same_in_every_version():
    assert permutation(8, 42, 0) == [3, 0, 2, 7, 1, 4, 6, 5]


def test_other_data_or_another_seed_cannot_be_resumed():
    state = PromptStream(prompts(3), 1).state()
    with pytest.raises(DataError, match="the data has changed"):
        PromptStream(prompts(4), 1).load_state(state)
    with pytest.raises(DataError, match="seed 1, now 2"):
        PromptStream(prompts(3), 2).load_state(state)


def test_fingerprint_sees_text_label_and_order():
    a, b, c = prompts(3)
    other = Prompt(tokens=c.tokens, text=c.text, label="2", row=c.row)
    assert len({fingerprint(p) for p in ([a, b, c], [b, a, c], [a, b], [a, b, other])}) == 4


def test_no_prompts_no_stream():
    with pytest.raises(DataError, match="at least one prompt"):
        PromptStream([], 0)


def test_a_pass_is_put_in_order_once():
    """Of a million rows it takes longer than a small step."""
    order = Order(5, 0)
    assert order.of_pass(1) is order.of_pass(1)
    assert order.take(3, 9) == (permutation(5, 0, 0) + permutation(5, 0, 1) + permutation(5, 0, 2))[3:12]

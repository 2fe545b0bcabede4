import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from rlhf_hydra.workers.engine.cache import RoomyLayer, roomy_cache
from rlhf_hydra.workers.engine.hf import _closed_up

ROWS = 5


@given(st.lists(st.tuples(st.integers(1, 4), st.sets(st.integers(0, ROWS - 1))), min_size=1, max_size=6))
def test_it_holds_what_the_layer_that_copies_holds(steps):
    """Each step: so many new tokens, then these rows (of those that are left) go, the last filling their places."""
    roomy, copying, count = RoomyLayer(), DynamicLayer(), ROWS
    for number, (tokens, gone) in enumerate(steps):
        new = torch.full((count, 2, tokens, 3), float(number)) + torch.arange(count)[:, None, None, None] / 10
        for layer in (roomy, copying):
            layer.update(new, -new[..., :2])
        index = torch.tensor(_closed_up([row not in gone for row in range(count)]), dtype=torch.long)
        for layer in (roomy, copying):
            layer.batch_select_indices(index)
        assert torch.equal(roomy.keys, copying.keys)
        assert torch.equal(roomy.values, copying.values)
        assert roomy.get_seq_length() == copying.get_seq_length() or not len(index)
        count = len(index)
        if not count:
            break


def test_a_token_is_written_in_place_while_there_is_room():
    layer = RoomyLayer()
    layer.update(torch.zeros(1, 1, 3, 2), torch.zeros(1, 1, 3, 2))  # room for 6
    before = layer.keys.data_ptr()
    for _ in range(3):
        layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert layer.keys.data_ptr() == before and layer.get_seq_length() == 6
    layer.update(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert layer.keys.data_ptr() != before and layer.keys[0, 0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_layers_of_other_kinds_stay():
    assert {type(layer) for layer in roomy_cache(LlamaConfig(num_hidden_layers=2)).layers} == {RoomyLayer}
    kinds = {type(layer) for layer in roomy_cache(Gemma3TextConfig(num_hidden_layers=6)).layers}
    assert kinds == {RoomyLayer, DynamicSlidingWindowLayer}


def test_the_last_rows_fill_the_gaps():
    assert _closed_up([True, False, True, True, True]) == [0, 4, 2, 3]
    assert _closed_up([False, True, False, False]) == [1]
    assert _closed_up([True, True]) == [0, 1]
    assert _closed_up([False]) == []

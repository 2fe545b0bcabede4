import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.models.packed import NotPackable, pack, packed_attention, runs
from rlhf_hydra.models.policy import PolicyModel

SIZES = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 12)), min_size=1, max_size=7)


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def test_rows_lie_end_to_end():
    # Rows 1 2 | 3 and 4 | 5 6: the outputs at 1, 2 and 3 speak about 3, 5 and 6.
    packed = pack(RolloutBatch.from_sequences([[1, 2], [4]], [[3], [5, 6]], group=[0, 1]))
    assert packed.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert packed.lengths == (3, 3)
    assert packed.before.tolist() == [1, 3, 4]
    assert packed.targets.tolist() == [3, 5, 6]
    assert packed.unpack(torch.tensor([0.1, 0.2, 0.3])).tolist() == torch.tensor([[0, 0, 0.1], [0, 0.2, 0.3]]).tolist()


@given(SIZES)
def test_no_slot_is_padding_and_targets_come_back(random_rows, sizes):
    batch = random_rows(sizes)
    packed = pack(batch)
    assert packed.input_ids.shape == (1, int(batch.lengths.sum()))
    assert torch.equal(packed.unpack(packed.targets), batch.tokens * batch.response_mask)
    assert torch.equal(packed.input_ids[0, packed.before + 1], packed.targets)


def test_equal_neighbours_are_one_run():
    assert list(runs([3, 3, 2])) == [(0, 2, 3), (6, 1, 2)]


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 99), temperature=st.floats(0.6, 2))
def test_packed_equals_padded(qwen_models, random_rows, padded, sizes, seed, temperature):
    policy, lm = qwen_models
    batch = random_rows(sizes, seed)
    packed = pack(batch)
    with torch.no_grad():
        logprobs, entropy = (packed.unpack(x) for x in policy(packed, temperature)[:2])
        wanted, wanted_entropy = padded(lm, batch, temperature)
    torch.testing.assert_close(logprobs, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, wanted_entropy, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def qwen_models(qwen):
    return PolicyModel.load(qwen).eval(), plain(qwen)


def test_packed_equals_padded_in_every_family(family, random_rows, padded):
    """Rows are longer than the sliding windows of 4; values and gradients."""
    batch = random_rows([(3, 6), (3, 6), (2, 1), (1, 11), (5, 0)])
    policy, lm = PolicyModel.load(family).train(), plain(family).train()
    packed = pack(batch)
    logprobs, entropy = (packed.unpack(x) for x in policy(packed, 0.7)[:2])
    wanted, wanted_entropy = padded(lm, batch, 0.7)
    torch.testing.assert_close(logprobs, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, wanted_entropy, atol=1e-5, rtol=0)

    (logprobs.mean() + 0.1 * entropy.mean()).backward()
    (wanted.mean() + 0.1 * wanted_entropy.mean()).backward()
    gradients = dict(lm.named_parameters())
    for name, parameter in policy.lm.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-5, rtol=1e-4, msg=name)


def test_a_model_that_cannot_be_packed_is_refused_by_name(refused, random_rows):
    with pytest.raises(NotPackable, match=rf"model\.path: models of type `{refused.type}`") as error:
        PolicyModel.load(refused.folder)(pack(random_rows([(2, 3)])), 1.0)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # on its way from a worker


def test_attention_that_is_not_told_where_rows_end_is_refused(qwen_models):
    attention = qwen_models[0].lm.model.layers[0].self_attn
    with pytest.raises(NotPackable, match="where rows end"):
        packed_attention(attention, *torch.zeros(3, 1, 4, 5, 8), attention_mask=None)

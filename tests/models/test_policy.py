import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.policy import NoExperts, PolicyModel, choose

SIZES = [(3, 6), (2, 4), (1, 11), (4, 0)]


def test_choice_by_hand():
    # z = (0, ln 3) at temperature 1: p = (1/4, 3/4), H = ln 4 - 3/4 ln 3.
    # At temperature 1/2: z = (0, ln 9), p = (1/10, 9/10).
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    logprobs, entropy = choose(logits, torch.tensor([0, 1]), 1.0)
    assert logprobs.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert entropy.tolist() == pytest.approx([math.log(4) - 0.75 * math.log(3)] * 2)
    assert choose(logits, torch.tensor([0, 1]), 0.5)[0].tolist() == pytest.approx([math.log(0.1), math.log(0.9)])


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    logprobs, entropy = choose(logits, torch.tensor([1]), 1.0)
    assert logprobs.item() == -2e4 and entropy.item() == pytest.approx(0, abs=1e-2)
    (logprobs + entropy).sum().backward()
    assert logits.grad.isfinite().all()


def test_weights_of_their_files_type_are_the_file(tiny, tmp_path):
    """So the workers of a node hold them once, however many there are; in another type each has its own."""
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(tmp_path)
    mapped = PolicyModel.load(str(tmp_path), dtype=torch.bfloat16).lm.lm_head.weight
    copied = PolicyModel.load(str(tmp_path)).lm.lm_head.weight
    assert (mapped.dtype, copied.dtype) == (torch.bfloat16, torch.float32)
    assert file_at(mapped.data_ptr()).endswith("model.safetensors") and not file_at(copied.data_ptr())


def file_at(address):
    """What this process has mapped there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return line.partition("/")[2]


def gradients(model, batch):
    packed = pack(batch)
    logprobs, entropy, _ = model(packed, 0.8)
    (logprobs * torch.linspace(-1, 1, len(logprobs)) + entropy).mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return logprobs.detach(), entropy.detach(), found


@pytest.mark.parametrize("tokens", [1, 4, 20])
def test_output_layer_in_chunks_equals_whole(qwen, random_rows, tokens):
    """21 response tokens, in chunks of 1, 4 (one is left over) and 20."""
    model, batch = PolicyModel.load(qwen).train(), random_rows(SIZES)
    whole = gradients(model, batch)
    model.logits_at_once = tokens * model.lm.config.vocab_size
    chunked = gradients(model, batch)
    torch.testing.assert_close(chunked[:2], whole[:2])
    for name, gradient in whole[2].items():
        torch.testing.assert_close(chunked[2][name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_only_positions_before_response_tokens_pass_the_output_layer(qwen, random_rows):
    """In one call however many chunks there are: under ZeRO-3 the calls of all ranks must be equally many."""
    model, seen = PolicyModel.load(qwen).eval(), []
    model.lm.lm_head.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[0]))
    for tokens in (1, 1000):
        model.logits_at_once = tokens * model.lm.config.vocab_size
        model(pack(random_rows(SIZES)), 1.0)
    assert seen == [6 + 4 + 11] * 2


def test_the_output_layer_is_itself_again_after_a_forward(qwen, random_rows):
    model = PolicyModel.load(qwen).eval()
    model(pack(random_rows(SIZES)), 1.0)
    assert model.lm.lm_head(torch.ones(1, 32)).shape == (1, 40)


def test_gradient_checkpointing_changes_no_gradient(qwen, random_rows):
    model, batch = PolicyModel.load(qwen).train(), random_rows(SIZES)
    plain = gradients(model, batch)
    model.lm.gradient_checkpointing_enable({"use_reentrant": False})
    again = gradients(model, batch)
    for name, gradient in plain[2].items():
        torch.testing.assert_close(again[2][name], gradient, msg=name)


def test_no_response_token_gives_zero_gradients(qwen, random_rows):
    model = PolicyModel.load(qwen).train()
    logprobs, entropy, _ = model(pack(random_rows([(4, 0)])), 1.0)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_router_loss_by_hand(experts):
    """Three experts, one a token: two tokens choose 0 and one chooses 1, with p = (.8 .1 .1), (.6 .2 .2), (.1 .7 .2).
    3 * (2/3 * 1.5/3 + 1/3 * 1/3 + 0) = 4/3"""
    model = PolicyModel.load(experts, router=True)
    model.lm.num_experts, model.lm.num_experts_per_tok = 3, 1
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.7, 0.2]])
    assert float(model.balance((probabilities.log(),))) == pytest.approx(4 / 3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_router_loss_of_packed_rows_is_that_of_padded_ones_under_their_mask(experts, random_rows, checkpointing):
    batch, packing = random_rows(SIZES), PolicyModel.load(experts, router=True).train()
    if checkpointing:
        packing.lm.gradient_checkpointing_enable({"use_reentrant": False})
    found = packing(pack(batch), 1.0).router
    found.backward()
    padding = AutoModelForCausalLM.from_pretrained(experts, dtype=torch.float32)
    attend = (torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]).long()
    wanted = padding(batch.tokens, attention_mask=attend, output_router_logits=True).aux_loss
    wanted.backward()
    assert float(found) == pytest.approx(float(wanted), rel=1e-5) and float(found) != pytest.approx(2, rel=1e-2)
    theirs = dict(padding.named_parameters())
    gates = [name for name in theirs if name.endswith("gate.weight")]
    assert len(gates) == 2
    for name in gates:
        torch.testing.assert_close(packing.lm.get_parameter(name).grad, theirs[name].grad, atol=1e-6, rtol=1e-4)
        assert theirs[name].grad.abs().max() > 1e-4


def test_router_loss_is_left_alone_unless_asked_for_and_needs_experts(experts, qwen, random_rows):
    assert float(PolicyModel.load(experts)(pack(random_rows(SIZES)), 1.0).router) == 0
    with pytest.raises(NoExperts, match="policy.router_coef: .* type `qwen3`; set it to 0"):
        PolicyModel.load(qwen, router=True)

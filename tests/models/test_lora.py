import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_hydra.config.schema import LoRA
from rlhf_hydra.models.lora import Adapters, BadTargets, merged, switched_off
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.models.value import ValueModel

SIZES = [(3, 6), (2, 5), (4, 1)]


def adapters(dtype=torch.float32, **changes):
    return Adapters(LoRA(**{"rank": 4, "alpha": 8, **changes}), dtype, seed=0, base="base")


def load(folder, **changes):
    return PolicyModel.load(folder, adapters=adapters(**changes))


def learn(model, seed=0):
    """Adapters as after some training: the second factor is 0 at first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def logprobs(model, batch):
    with torch.no_grad():
        return model.eval()(pack(batch), 1.0)[0]


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_the_model_is_what_it_was_until_its_adapters_learn(family, random_rows):
    batch = random_rows(SIZES)
    wanted = logprobs(PolicyModel.load(family), batch)
    model = load(family)
    assert torch.equal(logprobs(model, batch), wanted)
    learn(model)
    assert not torch.allclose(logprobs(model, batch), wanted, atol=1e-2)
    with switched_off(model):
        assert torch.equal(logprobs(model, batch), wanted)
    assert learning(model) == learning(load(family))  # it goes on learning


def test_merged_says_what_the_adapters_say_under_the_names_of_the_checkpoint(family, random_rows):
    batch, model = random_rows(SIZES), learn(load(family))
    plain = PolicyModel.load(family)
    named = dict(merged(model.lm, ((name, p.detach()) for name, p in model.lm.named_parameters())))
    assert named.keys() == dict(plain.lm.named_parameters()).keys()
    plain.lm.load_state_dict(named, strict=False)
    torch.testing.assert_close(logprobs(plain, batch), logprobs(model, batch), atol=1e-5, rtol=0)


def test_merged_by_hand():
    # W = [[1, 2]], A = [[3, 4]], B = [[2]], s = 8 / 4 = 2: W + 2 * 2 * [3, 4] = [13, 18].
    class Layer(torch.nn.Module):
        scaling = {"default": 2.0}

    model = torch.nn.Module()
    model.q, model.norm = Layer(), torch.nn.LayerNorm(2)
    a, b, w = torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0]]), torch.tensor([[1.0, 2.0]])
    weights = {"q.base_layer.weight": w, "q.lora_A.default.weight": a, "q.lora_B.default.weight": b, "norm.weight": w}
    found = dict(merged(model, weights.items()))
    assert found.keys() == {"q.weight", "norm.weight"}
    assert found["q.weight"].tolist() == [[13.0, 18.0]] and found["norm.weight"] is w


def test_all_linear_layers_but_the_output_learn_unless_some_are_named(tiny):
    layers = {name.split(".lora_")[0].split("layers.")[1] for name in learning(load(tiny))}
    attention, mlp = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
    inside = [*(f"self_attn.{name}" for name in attention), *(f"mlp.{name}" for name in mlp)]
    assert layers == {f"{i}.{name}" for i in range(2) for name in inside}
    some = learning(load(tiny, targets=["q_proj", "mlp.up_proj"]))
    assert len(some) == 2 * 2 * 2 and all("q_proj" in name or "up_proj" in name for name in some)


def test_adapters_have_rank_seed_and_scale(tiny):
    model, same = load(tiny), load(tiny)
    other = PolicyModel.load(tiny, adapters=Adapters(LoRA(rank=4), torch.float32, seed=1, base="base"))
    layer, twin, stranger = (m.lm.model.layers[0].self_attn.k_proj for m in (model, same, other))
    assert layer.lora_A["default"].weight.shape == (4, 128) and layer.lora_B["default"].weight.shape == (64, 4)
    assert layer.scaling["default"] == 8 / 4
    assert torch.equal(layer.lora_A["default"].weight, twin.lora_A["default"].weight)
    assert not torch.equal(layer.lora_A["default"].weight, stranger.lora_A["default"].weight)


def test_frozen_weights_may_be_of_16_bits_and_adapters_are_not(tiny):
    types = {(p.requires_grad, p.dtype) for p in load(tiny, dtype=torch.bfloat16).parameters()}
    assert types == {(False, torch.bfloat16), (True, torch.float32)}


def test_layers_that_are_not_there_are_named(tiny):
    with pytest.raises(BadTargets, match="no linear layer query; it has down_proj, gate_proj, k_proj"):
        load(tiny, targets=["q_proj", "query"])


def test_an_output_layer_can_have_adapters_unless_it_is_the_embedding(tmp_path_factory, tiny, qwen):
    assert learning(load(tiny, targets=["lm_head"])) == {
        "lm.lm_head.lora_A.default.weight",
        "lm.lm_head.lora_B.default.weight",
    }
    lm = AutoModelForCausalLM.from_pretrained(qwen)
    lm.config.tie_word_embeddings = True
    tied = tmp_path_factory.mktemp("tied")
    lm.save_pretrained(tied)
    with pytest.raises(BadTargets, match="lm_head is the embedding too"):
        load(str(tied), targets=["lm_head"])


def test_gradients_reach_adapters_through_checkpoints(tiny, random_rows):
    def gradients(checkpointing):
        model = learn(load(tiny)).train()
        if checkpointing:
            model.lm.gradient_checkpointing_enable({"use_reentrant": False})
        model(pack(random_rows(SIZES, vocabulary=19)), 1.0)[0].sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, again = gradients(False), gradients(True)
    assert all(gradient.abs().max() > 0 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, msg=name)


def test_exported_adapters_load_in_peft(tmp_path, tiny, random_rows):
    batch, model = random_rows([(5, 4)], vocabulary=19), learn(load(tiny))
    weights = ((name, p.detach()) for name, p in model.lm.named_parameters())
    adapters(export="adapter").export(tmp_path, model.lm, weights, write=True)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 200_000  # 300,416 frozen numbers are not there
    found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), tmp_path)
    with torch.no_grad():
        wanted = model.eval().lm(batch.tokens, sequence_lengths=(9,)).logits
        torch.testing.assert_close(found.eval()(batch.tokens).logits, wanted, atol=1e-5, rtol=0)


def test_a_value_model_learns_its_head_beside_its_adapters(tmp_path, tiny, random_rows):
    batch, asked = random_rows(SIZES, vocabulary=19), adapters(targets=["q_proj"], export="adapter")
    plain, model = ValueModel.load(tiny, seed=3), ValueModel.load(tiny, seed=3, adapters=asked)
    with torch.no_grad():
        assert torch.equal(model.eval()(pack(batch)), plain.eval()(pack(batch)))
    assert {name.split(".")[-3] for name in learning(model)} == {"lora_A", "lora_B", "classifier"}
    learn(model)
    weights = ((name, p.detach()) for name, p in model.classifier.named_parameters())
    asked.export(tmp_path, model.classifier, weights, write=True)
    base = AutoModelForSequenceClassification.from_pretrained(tiny, num_labels=1)
    found = PeftModel.from_pretrained(base, tmp_path).eval()
    row = batch.tokens[0, :9]
    with torch.no_grad():
        hidden = model.eval().classifier(row[None], sequence_lengths=(9,)).logits
        torch.testing.assert_close(found(row[None]).logits, hidden, atol=1e-5, rtol=0)


def test_the_head_gets_no_adapter(tiny):
    with pytest.raises(BadTargets, match="score learns as a whole"):
        ValueModel.load(tiny, seed=0, adapters=adapters(targets=["score"]))

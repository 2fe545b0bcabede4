import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlhf_hydra.models.hub import Incomplete
from rlhf_hydra.models.packed import pack
from rlhf_hydra.models.policy import NoExperts, PolicyModel
from rlhf_hydra.models.value import NoScorer, Scorer, ValueModel

SIZES = [(3, 6), (3, 6), (1, 11), (4, 0)]


def save_classifier(folder, source, labels=1):
    config = AutoConfig.from_pretrained(source, num_labels=labels)
    torch.manual_seed(1)
    AutoModelForSequenceClassification.from_pretrained(source, config=config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "gemma2", "phi3"], indirect=True)
def test_values_equal_those_of_a_padded_forward(family, random_rows):
    batch = random_rows(SIZES)
    model = ValueModel.load(family, seed=3).eval()
    plain = AutoModelForSequenceClassification.from_pretrained(family, num_labels=1, attn_implementation="eager").eval()
    plain.score.load_state_dict(model.classifier.score.state_dict())
    packed = pack(batch)
    attend = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
    with torch.no_grad():
        values = packed.unpack(model(packed))
        hidden = plain.base_model(input_ids=batch.tokens, attention_mask=attend.long()).last_hidden_state
        # The state before token t is the output at t - 1.
        wanted = torch.nn.functional.pad(plain.score(hidden).squeeze(-1)[:, :-1], (1, 0)) * batch.response_mask
    assert wanted.std() > 0.1
    torch.testing.assert_close(values, wanted, atol=1e-5, rtol=0)


def test_a_new_head_is_drawn_from_the_seed(tiny):
    """128 numbers of deviation (128 + 1)^-0.5 = 0.088; the deviation of 128 draws is within 20% of it."""
    heads = [ValueModel.load(tiny, seed=seed).classifier.score.weight for seed in (5, 5, 6)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].std().item() == pytest.approx(129**-0.5, rel=0.2)


def test_a_new_head_leaves_the_random_generator_alone_and_the_body_is_the_models(tiny):
    bodies = [ValueModel.load(tiny, seed=seed).classifier.model.state_dict() for seed in (1, 2)]
    assert all(torch.equal(bodies[0][name], bodies[1][name]) for name in bodies[0])


def test_a_folder_without_head_needs_a_seed(tiny):
    with pytest.raises(ValueError, match="no scalar head.*LlamaForCausalLM"):
        ValueModel.load(tiny)


def test_a_head_in_the_folder_is_kept(tiny, tmp_path):
    folder = save_classifier(tmp_path, tiny)
    stored = AutoModelForSequenceClassification.from_pretrained(folder).score.weight
    assert torch.equal(ValueModel.load(folder).classifier.score.weight, stored)
    assert torch.equal(ValueModel.load(folder, seed=1).classifier.score.weight, stored)


def test_a_reward_models_head_is_brought_onto_the_scale_of_normalised_rewards(tiny, tmp_path, random_rows):
    """(v - 2) / 4 for a head that came with the folder; a new one is as it is."""
    packed = pack(random_rows([(3, 6)], vocabulary=16))
    for folder, scaled in ((save_classifier(tmp_path, tiny), True), (tiny, False)):
        plain = ValueModel.load(folder, seed=1).eval()(packed)
        found = ValueModel.load(folder, seed=1, mean=2.0, std=4.0).eval()(packed)
        torch.testing.assert_close(found, (plain - 2) / 4 if scaled else plain)


def test_several_outputs_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="3 outputs; a reward model has one"):
        ValueModel.load(save_classifier(tmp_path, tiny, labels=3))


@pytest.mark.parametrize("experts", ["mixtral", "qwen3_moe"], indirect=True)
def test_a_scorer_with_experts_has_the_router_loss_of_the_language_model_inside(experts, qwen, random_rows):
    packed = pack(random_rows(SIZES))
    ends = torch.tensor(packed.lengths).cumsum(0) - 1
    plain = ValueModel.load(experts, seed=1).eval()
    with torch.no_grad():
        scores, router = Scorer.load(experts, seed=1, router=True).eval()(packed)
        wanted = PolicyModel.load(experts, router=True).eval()(packed, 1.0).router
        assert float(router) == pytest.approx(float(wanted), rel=1e-5)
        torch.testing.assert_close(scores, plain.score(packed, ends))
        assert float(plain.read(packed, ends)[1]) == 0
    with pytest.raises(NoExperts, match="policy.router_coef"):
        Scorer.load(qwen, seed=1, router=True)


@pytest.mark.parametrize("experts", ["olmoe"], indirect=True)
def test_a_model_that_transformers_cannot_make_a_classifier_is_refused(experts):
    with pytest.raises(NoScorer, match="no sequence classifier of type `olmoe`"):
        ValueModel.load(experts, seed=1)


def test_weights_that_are_missing_are_not_drawn_at_random(tiny, tmp_path):
    """A reward model is no language model; and a folder that says it has a head, and has none, is no reward model."""
    scorer = save_classifier(tmp_path / "scorer", tiny)
    with pytest.raises(
        Incomplete, match="LlamaForSequenceClassification: as a LlamaForCausalLM it has no lm_head.weight,"
    ):
        PolicyModel.load(scorer)
    weights = load_file(tmp_path / "scorer/model.safetensors")
    head = weights.pop("score.weight")
    save_file({**weights, "value_head.weight": head}, tmp_path / "scorer/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Incomplete, match="it has no score.weight"):
        ValueModel.load(scorer)

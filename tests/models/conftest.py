"""Tiny models of several families with random weights, and what a plain padded forward says about a batch."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_hydra.batch import RolloutBatch

VOCABULARY = 40
SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=1,
)  # fmt: skip

FAMILIES = {
    "llama": {},
    "llama_tied": {"tie_word_embeddings": True},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    "mistral": dict(sliding_window=4),
    "gemma2": dict(attn_logit_softcapping=None, sliding_window=4, query_pre_attn_scalar=8),
    "gemma3_text": dict(sliding_window=4, query_pre_attn_scalar=8),
    "granite": dict(logits_scaling=4.0, embedding_multiplier=2.0),
    "cohere": dict(logit_scale=0.25),
    "phi3": {},
}

REFUSED = {
    "gemma2": dict(attn_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "gpt_oss": dict(num_local_experts=4),
    "llama4_text": dict(num_local_experts=2, attention_chunk_size=4),
    "stablelm": {},
    "bloom": dict(n_head=4, n_layer=2),
    "mamba": {},
}


def save_random(folder, family, changes):
    """Weights large enough for peaked distributions: otherwise every model says log(1/V) and nothing differs."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.removesuffix("_tied"), **{**SHAPE, "tie_word_embeddings": False, **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request, tmp_path_factory):
    return save_random(tmp_path_factory.mktemp(request.param), request.param, FAMILIES[request.param])


@pytest.fixture(params=REFUSED)
def refused(request, tmp_path):
    folder = save_random(tmp_path, request.param, REFUSED[request.param])
    return SimpleNamespace(folder=folder, type=request.param)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("qwen"), "qwen3", {})


EXPERTS = {
    "mixtral": dict(num_local_experts=4),
    "qwen3_moe": FAMILIES["qwen3_moe"],
    "olmoe": dict(num_experts=4, num_experts_per_tok=2),
}


@pytest.fixture(scope="session", params=EXPERTS)
def experts(request, tmp_path_factory):
    return save_random(tmp_path_factory.mktemp(request.param), request.param, EXPERTS[request.param])


@pytest.fixture(scope="session")
def random_rows():
    """(prompt tokens, response tokens) of each row -> a batch of random tokens."""

    def make(sizes, seed=0, vocabulary=VOCABULARY):
        generator = torch.Generator().manual_seed(seed)

        def draw(count):
            return torch.randint(2, vocabulary, (count,), generator=generator).tolist()

        prompts, responses = zip(*[(draw(prompt), draw(response)) for prompt, response in sizes], strict=True)
        return RolloutBatch.from_sequences(prompts, responses, group=range(len(sizes)))

    return make


@pytest.fixture(scope="session")
def padded():
    """A transformers causal LM on the padded batch -> logprobs and entropy [B, T], 0 outside the response mask."""

    def forward(lm, batch, temperature=1.0):
        attend = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
        logits = lm(input_ids=batch.tokens, attention_mask=attend.long(), use_cache=False).logits
        logp = (logits[:, :-1] / temperature).log_softmax(-1)
        chosen = logp.gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        return [torch.nn.functional.pad(x, (1, 0)) * batch.response_mask for x in (chosen, entropy)]

    return forward

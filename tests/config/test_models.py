"""The facts of a model agree with each other: its number of parameters follows from its sizes."""

from typing import Any

import pytest

from rlhf_hydra.config.store import find_conf_dir

# What the facts leave open: width of the feed-forward layers, width of a head, biases of q, k and v, norms of q and k,
# whether the output shares the embedding's weights, and what reads images.
REST: dict[str, dict[str, Any]] = {
    "tiny": dict(ffn=256, head=32),
    "smollm2-135m": dict(ffn=1536, head=64, tied=True),
    "qwen2.5-0.5b": dict(ffn=4864, head=64, tied=True, bias=True),
    "qwen2.5-7b": dict(ffn=18944, head=128, bias=True),
    "qwen2.5-vl-7b": dict(ffn=18944, head=128, bias=True, eyes=676_550_144),
    "qwen3-8b": dict(ffn=12288, head=128, qk_norm=True),
    "llama3-8b": dict(ffn=14336, head=128),
    "llama3-70b": dict(ffn=28672, head=128),
    "mistral-7b": dict(ffn=14336, head=128),
}


def parameters(
    model, ffn: int, head: int, tied: bool = False, bias: bool = False, qk_norm: bool = False, eyes: int = 0
) -> int:
    q, kv = model.heads * head, 2 * model.kv_heads * head
    attention = model.hidden_size * (q + kv + q) + (q + kv) * bias + 2 * head * qk_norm
    layer = attention + 3 * model.hidden_size * ffn + 2 * model.hidden_size
    embedding = model.vocab_size * model.hidden_size * (1 if tied else 2)
    return embedding + model.layers * layer + model.hidden_size + eyes


@pytest.mark.parametrize("name", REST)
def test_number_of_parameters(composer, name):
    model = composer.compose([f"model={name}"]).run.model
    assert model.parameters == parameters(model, **REST[name])


def test_every_model_is_counted():
    names = {file.stem for file in (find_conf_dir() / "model").glob("*.yaml")}
    assert names == set(REST)

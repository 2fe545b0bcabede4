import os

# Before anything imports torch: small tensors gain nothing from a second thread, and waiting ones spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Before anything imports Ray, which reads it then: as on the command line.
os.environ.setdefault("RAY_AUTH_MODE", "token")

import pytest  # noqa: E402


def pytest_collection_modifyitems(items):
    """`gpu` tests wait for a machine that has one."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU here"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of a freshly built `builtin:tiny`."""
    from rlhf_hydra.models.tiny import build_tiny

    return str(build_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def tiny_eyes(tmp_path_factory):
    """A tiny Qwen2-VL."""
    from eyes import build

    return build(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="session")
def tiny_experts(tmp_path_factory):
    """A mixture of four experts that reads what `builtin:tiny` reads."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from rlhf_hydra.models.tiny import VOCABULARY, letter_tokenizer

    config = Qwen3MoeConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=128, moe_intermediate_size=64, num_experts=4,
        num_experts_per_tok=2, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        max_position_embeddings=512, initializer_range=0.1, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("experts")
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def make_run(tiny):
    """A whole run config on the toy task, in this process: GRPO without KL, and `changes`."""
    from rlhf_hydra.config import schema

    def make(**changes):
        parts = {
            "task": schema.Task(name="train"),
            "algo": schema.GRPO(name="grpo"),
            "model": schema.Model("tiny", tiny, context_tokens=512, layers=2, hidden_size=128, heads=4, kv_heads=2),
            "cluster": schema.Cluster(name="local", backend="local"),
            "data": schema.ToyData(name="toy"),
            "reward": schema.RuleReward(name="rule", rule="echo"),
            "tracking": schema.Tracking(name="none"),
            "rollout": schema.Rollout(prompts_per_step=4, samples_per_prompt=2, max_response_tokens=6),
            "policy": schema.Policy(samples_per_update=8, optim=schema.Optim(lr=1e-3)),
            "critic": schema.Critic(samples_per_update=8, optim=schema.Optim(lr=1e-3)),
            "steps": 4,
        }
        return schema.RunConfig(**{**parts, **changes})

    return make

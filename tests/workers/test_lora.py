"""Policies and critics with adapters, in this process."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.cluster.group import LocalGroup
from rlhf_hydra.cluster.roles import Engines, TokenModel, Unadapted, shards
from rlhf_hydra.cluster.weight_sync import push, verify
from rlhf_hydra.config.schema import PPO, Critic, Engine, LoRA, Optim, Policy
from rlhf_hydra.strategy.base import OtherWeights, Rank
from rlhf_hydra.workers.critic import CriticWorker
from rlhf_hydra.workers.engine.hf import HFEngine
from rlhf_hydra.workers.policy import PolicyWorker, ReferenceWorker, StartWorker

RANK, MAX_TOKENS = 4, 1000
PROBES = [[3, 4, 5, 6], [7, 8], [9, 3, 3, 3, 3, 1], [5]]
IN_A_BLOCK = [(128, 128), (64, 128), (64, 128), (128, 128), (256, 128), (256, 128), (128, 256)]
LEARNING = 2 * RANK * sum(out + width for out, width in IN_A_BLOCK)
"""Numbers that learn in `builtin:tiny`; 300,416 do not."""


@pytest.fixture
def run(make_run):
    policy = Policy(samples_per_update=8, optim=Optim(lr=1e-2), lora=LoRA(rank=RANK), ema=0.5)
    critic = Critic(samples_per_update=8, optim=Optim(lr=1e-2), lora=LoRA(rank=RANK))
    return make_run(algo=PPO(name="ppo"), policy=policy, critic=critic, steps=8)


@pytest.fixture
def take(rollout):
    """One step on the rollout."""

    def step(worker):
        (part,), _ = shards(rollout, 1, MAX_TOKENS)
        rest = (0.0,) if isinstance(worker, PolicyWorker) else ()
        return worker.step(part, StepTotals.of(rollout), *rest)

    return step


def logprobs(folder_or_model, rows=PROBES):
    model = folder_or_model
    if not isinstance(model, torch.nn.Module):
        model = AutoModelForCausalLM.from_pretrained(folder_or_model, dtype=torch.float32)
    with torch.no_grad():
        return torch.cat([model.eval()(torch.tensor([row])).logits[0].log_softmax(-1) for row in rows])


def test_engines_get_the_merged_weights(tiny, run, take):
    policy = TokenModel(LocalGroup("policy", lambda rank: PolicyWorker(run, tiny, rank), 1), MAX_TOKENS)
    engines = Engines(LocalGroup("engine", lambda rank: HFEngine(tiny, Engine(), 64), 1))
    push(policy, engines, version=0)
    before = engines.logprobs(PROBES)
    take(policy.group.workers[0])
    push(policy, engines, version=1)
    assert verify(policy, engines, PROBES, 1, tolerance=1e-5) < 1e-5
    assert engines.logprobs(PROBES) != before


def test_it_is_its_own_reference(tiny, run, take, rollout):
    policy = LocalGroup("policy", lambda rank: PolicyWorker(run, tiny, rank), 1)
    separate = TokenModel(LocalGroup("reference", lambda rank: ReferenceWorker(run, tiny, rank), 1), MAX_TOKENS)
    wanted = separate.logprobs(rollout, 0.7).get()
    for _ in range(2):
        take(policy.workers[0])
        torch.testing.assert_close(Unadapted(policy, MAX_TOKENS).logprobs(rollout, 0.7).get(), wanted)
    now = TokenModel(policy, MAX_TOKENS).logprobs(rollout, 0.7).get()
    assert (now - wanted).abs().max() > 0.01


def test_only_what_learns_is_stepped_averaged_and_saved(tiny, run, take, tmp_path):
    worker = PolicyWorker(run, tiny, Rank())
    take(worker)
    worker.save(tmp_path)
    state = torch.load(tmp_path / "trainer.pt")
    assert sum(tensor.numel() for tensor in state["model"].values()) == LEARNING
    assert all(".lora_" in name for name in state["model"])
    assert sum(tensor.numel() for tensor in state["average"]) == LEARNING
    (adamw,) = state["optimizers"]
    moments = [tensor for entry in adamw["state"].values() for tensor in entry.values()]
    assert sum(tensor.numel() for tensor in moments if tensor.dim()) == 2 * LEARNING


def test_goes_on_exactly_after_save_and_load(tiny, run, take, tmp_path):
    straight = PolicyWorker(run, tiny, Rank())
    take(straight)
    straight.save(tmp_path)
    metrics = take(straight)
    resumed = PolicyWorker(run, tiny, Rank())
    resumed.load(tmp_path)
    assert take(resumed) == metrics
    assert all(torch.equal(dict(resumed.weights())[name], tensor) for name, tensor in straight.weights())


def test_a_checkpoint_of_other_adapters_is_refused(tiny, run, make_run, tmp_path):
    PolicyWorker(run, tiny, Rank()).save(tmp_path)
    fewer = make_run(algo=run.algo, policy=Policy(lora=LoRA(rank=RANK, targets=["q_proj"])))
    with pytest.raises(OtherWeights, match="not those of this model, such as"):
        PolicyWorker(fewer, tiny, Rank()).load(tmp_path)


@pytest.mark.parametrize("name", ["model", "model-ema"])
def test_exports_the_merged_model_and_its_adapters(tiny, run, take, tmp_path, name):
    worker = PolicyWorker(run, tiny, Rank())
    for _ in range(3):
        take(worker)
    worker.export(tmp_path / "model")
    found = logprobs(tmp_path / name)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / f"{name}-adapter")
    torch.testing.assert_close(logprobs(adapted), found, atol=1e-5, rtol=0)
    assert (found - logprobs(tiny)).abs().max() > 0.01
    if name == "model":
        rows = HFEngine(str(tmp_path / name), Engine(), 64).logprobs(PROBES)
        part = worker.trainer.model.lm
        with torch.no_grad():
            own = torch.cat([part(torch.tensor([r]), sequence_lengths=(len(r),)).logits[0] for r in PROBES])
        torch.testing.assert_close(own.log_softmax(-1), found, atol=1e-5, rtol=0)
        assert rows[0][1] == pytest.approx(found[0, PROBES[0][1]].item(), abs=1e-5)


def test_exports_the_adapters_alone_when_asked(tiny, run, make_run, tmp_path):
    asked = make_run(policy=Policy(lora=LoRA(rank=RANK, export="adapter")))
    PolicyWorker(asked, tiny, Rank()).export(tmp_path / "model")
    names = {file.name for file in (tmp_path / "model").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names and not (tmp_path / "model-adapter").exists()
    assert torch.equal(logprobs(tmp_path / "model"), logprobs(tiny))  # transformers finds the model below them


def test_4_bit_weights_are_read_as_the_numbers_that_they_stand_for(tiny, run, make_run, take, rollout, tmp_path):
    """By the engine, by the reference, and in the exported model, which is an ordinary one."""
    pytest.importorskip("bitsandbytes")
    lora = LoRA(rank=RANK, quantize="nf4")
    run = make_run(algo=run.algo, steps=8, policy=Policy(samples_per_update=8, optim=Optim(lr=1e-2), lora=lora))
    policy = TokenModel(LocalGroup("policy", lambda rank: PolicyWorker(run, tiny, rank), 1), MAX_TOKENS)
    start = TokenModel(LocalGroup("policy", lambda rank: StartWorker(run, tiny, rank), 1), MAX_TOKENS)
    assert torch.equal(policy.logprobs(rollout, 1.0).get(), start.logprobs(rollout, 1.0).get())
    engines = Engines(LocalGroup("engine", lambda rank: HFEngine(tiny, Engine(), 64), 1))
    take(policy.group.workers[0])
    push(policy, engines, version=1)
    assert verify(policy, engines, PROBES, 1, tolerance=1e-5) < 1e-5
    policy.group.workers[0].export(tmp_path / "model")
    assert "quantization_config" not in (tmp_path / "model/config.json").read_text()
    exported = HFEngine(str(tmp_path / "model"), Engine(), 64).logprobs(PROBES)
    for found, wanted in zip(exported, engines.logprobs(PROBES)[0], strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)
    assert (logprobs(tmp_path / "model") - logprobs(tiny)).abs().max() > 0.01


def test_a_critic_with_adapters_learns_and_goes_on(tiny, run, take, tmp_path):
    straight = CriticWorker(run, tiny, Rank())
    losses = [take(straight)["critic/loss"] for _ in range(6)]
    assert losses[-1] < 0.97 * losses[0]  # returns at random: what can be learned is little
    straight.save(tmp_path)
    state = torch.load(tmp_path / "trainer.pt")
    assert sum(tensor.numel() for tensor in state["model"].values()) == LEARNING + 128  # the head
    resumed = CriticWorker(run, tiny, Rank())
    resumed.load(tmp_path)
    assert take(resumed) == take(straight)

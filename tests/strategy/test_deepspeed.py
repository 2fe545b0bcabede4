"""DeepSpeed with real processes: two ranks over gloo, and one, each through all cases, started once for all tests.

Five rows in micro-batches of at most 16 tokens: each rank accumulates several backward passes, one of them empty.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.roles import shards
from rlhf_hydra.config.schema import LoRA, Optim, Policy, Strategy
from rlhf_hydra.models.lora import merged
from rlhf_hydra.models.tiny import letter_tokenizer
from rlhf_hydra.strategy.base import Rank, build_trainer
from rlhf_hydra.workers.policy import PolicyWorker, bare

pytestmark = [pytest.mark.deepspeed, pytest.mark.slow]

CASES = {
    "zero0": Strategy(name="deepspeed", zero_stage=0),
    "zero1": Strategy(name="deepspeed", zero_stage=1),
    "zero2": Strategy(name="deepspeed", zero_stage=2),
    "zero3": Strategy(name="deepspeed", zero_stage=3, gradient_checkpointing=True),  # as on clusters with GPUs
    "offload": Strategy(name="deepspeed", zero_stage=2, offload_optimizer=True),
    "bfloat16": Strategy(name="deepspeed", zero_stage=2, dtype="bfloat16"),
}
# Of a rank with which their larger matrices are cut under ZeRO-3 too.
ADAPTERS = {f"lora{stage}": Strategy(name="deepspeed", zero_stage=stage) for stage in (0, 2, 3)}
CASES |= ADAPTERS
LAUNCHES = {2: list(CASES), 1: ["zero2", "zero3", "offload"]}
PAIRS = [(case, size) for size, cases in LAUNCHES.items() for case in cases]
FLOAT32 = [(case, size) for case, size in PAIRS if case != "bfloat16"]
STEPS, MAX_TOKENS = 3, 16

# A large eps keeps Adam from blowing rounding up: its update is then smooth in the gradient.
OPTIM = Optim(lr=1e-2, eps=1e-3, weight_decay=0.1, max_grad_norm=0.5, warmup_ratio=0.1)


VOCABULARY = 1000


def save_model(folder):
    """Wide enough for ZeRO-3, which leaves parameters of under 1e5 numbers whole: 1000 x 128 and 1024 x 128."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    return str(folder)


def rows():
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 6), (2, 9), (4, 1), (1, 12), (3, 3)]
    tokens = [[torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in size] for size in sizes]
    batch = RolloutBatch.from_sequences(*zip(*tokens, strict=True), group=range(len(sizes)))
    return batch.replace(advantages=torch.randn(batch.tokens.shape, generator=generator) * batch.response_mask)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def launch(folder, size):
    script = Path(__file__).with_name("zero_ranks.py")
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, str(script), str(folder), str(size)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.fixture(scope="module")
def batch():
    return rows()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def runs(make_run):
    def of(case, strategy=None):
        lora = LoRA(rank=128, alpha=64) if case in ADAPTERS else LoRA()
        policy = Policy(optim=OPTIM, lora=lora, samples_per_update=8, ema=0.5)
        return make_run(steps=STEPS, strategy=strategy or CASES[case], policy=policy)

    return of


@pytest.fixture(scope="module")
def folder(model, batch, runs, tmp_path_factory):
    """Where both launches have left what they wrote."""
    folder = tmp_path_factory.mktemp("zero")
    cases = {size: {name: runs(name) for name in names} for size, names in LAUNCHES.items()}
    work = {"model": model, "batch": batch, "cases": cases}
    torch.save(work, folder / "work.pt")
    for size in LAUNCHES:
        launch(folder, size)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """`trained[case, size]`: what each rank found."""
    return {pair: [torch.load(folder / f"{pair[0]}-{pair[1]}-{i}.pt") for i in range(pair[1])] for pair in PAIRS}


@pytest.fixture(scope="module")
def single(model, batch, runs):
    """The same three steps in one plain process, with and without adapters."""
    found = {case: in_one_process(runs(case, Strategy()), model, batch) for case in ("zero0", "lora0")}
    return {case: found["lora0" if case in ADAPTERS else "zero0"] for case in CASES}


def in_one_process(run, model, batch):
    worker = PolicyWorker(run, model, Rank())
    ((part,), _), totals = shards(batch, 1, MAX_TOKENS), StepTotals.of(batch)
    start = {name: tensor.clone() for name, tensor in worker.weights()}
    metrics = [worker.step(part, totals, 0.0) for _ in range(STEPS)]
    return {
        "start": start,
        "metrics": metrics,
        "weights": dict(worker.weights()),
        "average": dict(merged(worker.lm, bare(worker.trainer.averages()))),
    }


def close(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def moved(weights, start):
    return max((weights[name] - start[name]).abs().max().item() for name in start)


@pytest.mark.parametrize(("case", "size"), FLOAT32)
def test_equals_one_plain_process(trained, single, case, size):
    assert moved(single[case]["weights"], single[case]["start"]) > 1e-3
    close(trained[case, size][0]["weights"], single[case]["weights"], 1e-6)


@pytest.mark.parametrize("case", CASES)
def test_weights_are_whole_and_equal_on_all_ranks(trained, single, case):
    first, second = trained[case, 2]
    close(first["weights"], second["weights"], 0)
    assert {n: t.shape for n, t in first["weights"].items()} == {n: t.shape for n, t in single[case]["weights"].items()}


@pytest.mark.parametrize(("case", "size"), PAIRS)
def test_goes_on_exactly_after_save_and_load(trained, case, size):
    for rank in trained[case, size]:
        close(rank["resumed"], rank["weights"], 0)


@pytest.mark.parametrize(("case", "size"), FLOAT32)
def test_metrics_of_the_ranks_add_up(trained, single, case, size):
    for step, wanted in enumerate(single[case]["metrics"]):
        ranks = [rank["metrics"][step] for rank in trained[case, size]]
        for name, value in wanted.items():
            shared = name in ("policy/lr", "policy/grad_norm", "policy/skipped")
            found = ranks[0][name] if shared else sum(rank[name] for rank in ranks)
            assert found == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_bfloat16_learns_about_the_same(trained, single):
    """8 bits of mantissa: within 2^-7 of each weight's size, and it has moved."""
    weights = {name: tensor.float() for name, tensor in trained["bfloat16", 2][0]["weights"].items()}
    assert moved(weights, single["bfloat16"]["start"]) > 1e-3
    close(weights, single["bfloat16"]["weights"], 2e-2)


def test_the_first_step_in_bfloat16_is_adams_first_where_nothing_is_sharded():
    # w = 2, loss 3 w: g = 3. m / (1 - b1) = 3, v / (1 - b2) = 9: w <- 2 - 0.25 * 3 / 3 = 1.75. A counter that is one
    # ahead, by a step on zeros, would make it 2 - 0.25 * (0.1 / 0.19) / sqrt(0.05 / 0.0975) = 1.82.
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    model.register_buffer("frequency", torch.tensor(1 / 3))  # as of rotary positions, which 8 bits would shift
    optim = Optim(lr=0.25, schedule="constant", warmup_ratio=0, max_grad_norm=0)
    strategy = Strategy(name="deepspeed", zero_stage=0, dtype="bfloat16")
    trainer = build_trainer(strategy, model, optim, 1, Rank())
    trainer.backward(3 * trainer.forward(torch.ones(1, 1, dtype=torch.bfloat16), train=True).sum(), last=True)
    assert trainer.step()["skipped"] == 0
    assert dict(trainer.weights())["weight"].item() == 1.75
    assert model.weight.dtype == torch.bfloat16 and model.frequency.dtype == torch.float32


@pytest.mark.parametrize("case", CASES)
def test_exports_a_model_that_transformers_loads(folder, trained, case):
    model = AutoModelForCausalLM.from_pretrained(folder / f"{case}-2-model", dtype=torch.float32)
    close(dict(model.named_parameters()), trained[case, 2][0]["weights"], 1e-2 if case == "bfloat16" else 0)


@pytest.mark.parametrize(("case", "size"), PAIRS)
def test_a_reference_says_what_the_policy_said_at_first(trained, case, size):
    for rank in trained[case, size]:
        close({"": rank["reference"]}, {"": rank["before"]}, 0)
        assert rank["before"].abs().max() > 1


@pytest.mark.parametrize(("case", "size"), FLOAT32)
def test_the_moving_average_equals_that_of_one_plain_process(trained, single, case, size):
    """0.5 of the start, and 0.25 and 0.25 of two of the steps after it, by then some way apart."""
    assert moved(single[case]["average"], single[case]["weights"]) > 1e-3
    for rank in trained[case, size]:
        close(rank["average"], single[case]["average"], 1e-6)


@pytest.mark.parametrize(("case", "size"), PAIRS)
def test_the_moving_average_goes_on_exactly_after_save_and_load(trained, case, size):
    for rank in trained[case, size]:
        close(rank["average resumed"], rank["average"], 0)


@pytest.mark.parametrize("case", CASES)
def test_exports_the_moving_average_beside_the_model(folder, trained, case):
    model = AutoModelForCausalLM.from_pretrained(folder / f"{case}-2-model-ema", dtype=torch.float32)
    close(dict(model.named_parameters()), trained[case, 2][0]["average"], 1e-2 if case == "bfloat16" else 0)


@pytest.mark.parametrize("case", ADAPTERS)
def test_switched_off_adapters_leave_the_reference(trained, case):
    for rank in trained[case, 2]:
        close({"": rank["base"]}, {"": rank["reference"]}, 1e-6)
        assert (rank["trained"] - rank["base"]).abs().max() > 1e-3


@pytest.mark.parametrize("case", ADAPTERS)
def test_checkpoints_hold_no_frozen_weights(folder, case):
    """What learns is 2 * 128 (out + in) numbers in seven matrices: 1,114,112. Saved are at most two copies of it, two
    moments and an average on each rank, in float32; 1,140,736 frozen numbers are more than what is left."""
    learning = 4 * 2 * 128 * (2 * (128 + 128) + 2 * (64 + 128) + 3 * (1024 + 128))
    files = [file for file in (folder / f"{case}-2").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 6.5 * learning

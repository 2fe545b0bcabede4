"""Seats become workers and GPUs; open values become numbers; memory floors by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.layout import RoleLayout, gpu_numbers, layout, needs_critic, needs_reference, role_layout
from rlhf_hydra.config.memory import GIB, adapter_parameters, gpu_floor, host_floor, reference_bytes, trained_bytes
from rlhf_hydra.config.resolve import smallest_tensor_parallel
from rlhf_hydra.config.schema import (
    GPU,
    GRPO,
    KL,
    PPO,
    Cluster,
    LoRA,
    Model,
    ModelReward,
    Placement,
    RuleReward,
    RunConfig,
    Seat,
    part,
)


@pytest.mark.parametrize(
    ("text", "numbers"), [(None, ()), ("0", (0,)), ("0-2", (0, 1, 2)), ("0,2,4-5", (0, 2, 4, 5)), (" 1 , 3 ", (1, 3))]
)
def test_gpu_numbers(text, numbers):
    assert gpu_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "0-", "-1", "3-1", "0,0", "0-3,2", "0;1", "1.5", "0,,1"])
def test_gpu_numbers_refuses(text):
    with pytest.raises(ValueError, match="GPU|backwards"):
        gpu_numbers(text)


@given(st.lists(st.integers(0, 200), min_size=1, unique=True))
def test_numbers_written_one_by_one_come_back(numbers):
    assert gpu_numbers(",".join(map(str, numbers))) == tuple(numbers)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_numbers_written_as_ranges_come_back(numbers):
    ordered = sorted(numbers)
    ranges: list[list[int]] = []
    for number in ordered:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
    assert gpu_numbers(text) == tuple(ordered)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text):
    try:
        numbers = gpu_numbers(text)
    except ValueError:
        return
    assert len(set(numbers)) == len(numbers) > 0


def run_of(**changes) -> RunConfig:
    """A run of 1e9 parameters that trains, samples and scores in 16 bit on four GPUs of 80 GiB."""
    run = RunConfig(
        algo=PPO(name="ppo", kl=KL(coef=0.1)),
        model=Model(name="m", heads=8, kv_heads=4, parameters=10**9),
        cluster=Cluster(name="c", gpus_per_node=4, gpu=GPU(memory_gib=80), placement=seats("0-3")),
        reward=RuleReward(name="rule", rule="echo"),
    )
    run.engine.name, run.engine.dtype, run.engine.tensor_parallel = "vllm", "bfloat16", 2
    run.strategy.name, run.strategy.dtype, run.strategy.zero_stage = "deepspeed", "bfloat16", 3
    for name, value in changes.items():
        setattr(run, name, value)
    return run


def seats(gpus: str) -> Placement:
    return Placement(*(Seat(gpus=gpus) for _ in range(5)))


def test_layout_has_the_roles_of_the_algorithm():
    assert list(layout(run_of())) == ["engine", "reward", "reference", "critic", "policy"]
    assert list(layout(run_of(algo=GRPO(name="grpo")))) == ["engine", "reward", "policy"]
    assert needs_critic(run_of()) and needs_reference(run_of())


def test_an_engine_takes_a_group_of_gpus():
    assert layout(run_of())["engine"] == RoleLayout(2, ((0, 1), (2, 3)))
    assert layout(run_of())["policy"] == RoleLayout(4, ((0,), (1,), (2,), (3,)))


def test_only_reward_models_sit_on_gpus():
    assert layout(run_of())["reward"] == RoleLayout(1, ((),))
    assert layout(run_of(reward=ModelReward(name="model", path="x")))["reward"].all_gpus == (0, 1, 2, 3)


def test_gpus_that_cannot_be_shared_out_are_an_error():
    run = run_of()
    run.engine.tensor_parallel = 3
    with pytest.raises(ValueError, match="tensor_parallel=3 does not divide the 4 GPUs"):
        role_layout(run, "engine")


# Bytes per parameter in 16 bit with n = 4: weights 2, gradients 2, states 12.
@pytest.mark.parametrize(
    ("stage", "offload", "expected"),
    [
        (0, False, 16.0),
        (1, False, 2 + 2 + 12 / 4),  # 7
        (2, False, 2 + (2 + 12) / 4),  # 5.5
        (3, False, 16 / 4),  # 4
        (1, True, 2 + 2),  # states leave, gradients are whole until the step
        (2, True, 2.0),
        (3, True, 2 / 4),
    ],
)
def test_memory_of_a_trained_role(stage, offload, expected):
    run = run_of()
    run.strategy.zero_stage, run.strategy.offload_optimizer = stage, offload
    assert trained_bytes(run, LoRA(), 4) == pytest.approx(expected * 10**9)


def llama_8b() -> Model:
    return Model(
        name="m", layers=32, hidden_size=4096, heads=32, kv_heads=8, vocab_size=128_256, parameters=8_030_261_248
    )


def test_adapters_of_a_llama():
    # rank 16 on q, o [4096, 4096], k, v [1024, 4096], gate, up, down [14336, 4096], in 32 blocks:
    # 16 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432) = 41,943,040, the number that PEFT counts.
    run = run_of(model=llama_8b())
    assert adapter_parameters(run, LoRA(rank=16)) == 41_943_040
    assert adapter_parameters(run, LoRA(rank=8, targets=["q_proj", "self_attn.v_proj"])) == 8 * 32 * (8192 + 5120)


# Bytes with N = 1e9 frozen weights and n = 4; adapters: 16 bytes each, as what learns without LoRA, in the same stages.
@pytest.mark.parametrize(
    ("stage", "quantize", "frozen", "each"),
    [(0, "none", 2.0, 16), (2, "none", 2.0, 5.5), (3, "none", 0.5, 4), (2, "nf4", 0.5, 5.5)],
)
def test_memory_of_adapters(stage, quantize, frozen, each):
    run, lora = run_of(model=llama_8b()), LoRA(rank=16, quantize=quantize)
    run.strategy.zero_stage = stage
    assert trained_bytes(run, lora, 4) == pytest.approx(frozen * 8_030_261_248 + each * 41_943_040)


def test_a_policy_with_adapters_is_its_own_reference():
    run = run_of()
    run.policy.lora.rank = 4
    assert "reference" not in layout(run)
    run.reference.path = "other"
    assert "reference" in layout(run)
    run.reference.path, run.reference.ema = None, 0.9
    assert "reference" in layout(run)  # it moves


def test_memory_of_the_fullest_gpu():
    # engine 0.5 * 80 = 40 GiB; reference 2/4 bytes; critic and policy 16/4 bytes of each of 1e9 parameters
    floor = gpu_floor(run_of())
    assert floor == pytest.approx({"engine": 40, "reference": 0.5e9 / GIB, "critic": 4e9 / GIB, "policy": 4e9 / GIB})
    assert reference_bytes(run_of(), 4) == 0.5e9


def test_offloaded_states_take_main_memory():
    # 16 bytes x 1e9 parameters for each of the two trained roles, on one node; a rule's worker counts nothing
    run = run_of()
    run.strategy.offload_optimizer = True
    assert host_floor(run) == pytest.approx({"reward": 0, "critic": 16e9 / GIB, "policy": 16e9 / GIB})


def test_smallest_tensor_parallel():
    # room for weights 0.8 * 0.5 * 80 = 32 GiB; 2 bytes a parameter
    run = run_of()
    assert smallest_tensor_parallel(run) == 1  # 1.9 GiB
    run.model.parameters = 20 * 10**9
    assert smallest_tensor_parallel(run) == 2  # 37.3 / 2
    run.model.parameters = 500 * 10**9
    assert smallest_tensor_parallel(run) == 4  # none fits: the largest; 3 does not divide 8 heads


@pytest.mark.parametrize(("model", "cluster", "size"), [("qwen2.5-0.5b", "a100x8", 1), ("llama3-8b", "rtx4090x4", 2)])
def test_the_chosen_number_is_part_of_the_run(composer, model, cluster, size):
    assert checked_run([f"model={model}", f"cluster={cluster}"], composer).engine.tensor_parallel == size


def test_part_makes_new_sections():
    assert part(Seat).default_factory() is not part(Seat).default_factory()

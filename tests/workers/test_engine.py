"""Both engines keep the contract of `EngineWorker`."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf_hydra.config.schema import Engine, LoRA, Rollout
from rlhf_hydra.models.lora import Adapters, merged
from rlhf_hydra.models.policy import PolicyModel
from rlhf_hydra.models.tiny import VOCABULARY, letter_tokenizer
from rlhf_hydra.workers.engine.base import Sampling, build_engine

EOS = VOCABULARY.index("<eos>")
ROOM = 64
PROMPTS = [[6, 7, 8], [9], [3, 4, 5, 6, 7, 8, 9], [10, 11], [6, 7, 8]]
SEEDS = [1, 2, 3, 4, 5]
SAMPLING = Sampling(max_tokens=24)


def model(seed: int) -> LlamaForCausalLM:
    """Tied, since an output layer without weights of its own is what a reload forgets; far from uniform."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(VOCABULARY), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=ROOM, tie_word_embeddings=True,
            initializer_range=0.15, pad_token_id=0, eos_token_id=EOS, bos_token_id=None,
        )
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def first():
    return model(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, first):
    path = tmp_path_factory.mktemp("engine")
    first.save_pretrained(path)
    letter_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module", params=["hf", pytest.param("vllm", marks=pytest.mark.vllm)])
def started(request, folder):
    engine = build_engine(folder, Engine(name=request.param, kv_cache_gib=0.25), ROOM)
    yield engine
    engine.close()


@pytest.fixture
def engine(started, first):
    """With the weights of `first`, whatever the test before has put in."""
    push(started, first.named_parameters(), 0)
    return started


def push(engine, weights, version):
    engine.begin_update()
    engine.load(weights)
    engine.finish_update(version)


def expected(model, tokens, temperature=1.0):
    """log p of every token but the first, by a plain forward."""
    with torch.inference_mode():
        logprobs = (model(torch.tensor([tokens])).logits[0, :-1] / temperature).log_softmax(-1)
    return logprobs.gather(-1, torch.tensor(tokens[1:]).unsqueeze(-1)).squeeze(-1).tolist()


def test_a_seed_is_a_response(engine):
    again = engine.generate(PROMPTS, SEEDS, SAMPLING)
    assert engine.generate(PROMPTS, SEEDS, SAMPLING) == again
    same_prompt = [again[0].tokens, again[4].tokens]
    assert same_prompt[0] != same_prompt[1]


def test_a_response_does_not_depend_on_its_neighbours(engine):
    together = [response.tokens for response in engine.generate(PROMPTS, SEEDS, SAMPLING)]
    alone = [engine.generate([p], [s], SAMPLING)[0].tokens for p, s in zip(PROMPTS, SEEDS, strict=True)]
    backwards = [r.tokens for r in engine.generate(PROMPTS[::-1], SEEDS[::-1], SAMPLING)][::-1]
    assert together == alone == backwards


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.5, "top_k": 4, "min_tokens": 20},
        {"min_tokens": 24, "top_p": 0.8},
    ],
)
def test_logprobs_are_the_trainers_whatever_restricts_the_draw(engine, first, changes):
    sampling = replace(SAMPLING, **changes)
    for prompt, response in zip(PROMPTS, engine.generate(PROMPTS, SEEDS, sampling), strict=True):
        wanted = expected(first, prompt + response.tokens, sampling.temperature)[len(prompt) - 1 :]
        assert response.logprobs == pytest.approx(wanted, abs=2e-5)


def test_teacher_forced_logprobs_are_at_temperature_1_and_fill_the_context(engine, first):
    engine.generate(PROMPTS, SEEDS, replace(SAMPLING, temperature=0.5))
    sequences = [[6, 7, 8, EOS], [9], [3 + i % 10 for i in range(ROOM)]]
    for tokens, found in zip(sequences, engine.logprobs(sequences), strict=True):
        assert found == pytest.approx([0.0, *(expected(first, tokens) if len(tokens) > 1 else [])], abs=2e-5)


def test_speaks_like_a_policy_with_adapters(engine, folder):
    lm = PolicyModel.load(folder, adapters=Adapters(LoRA(rank=4), torch.float32, seed=0, base=folder)).lm
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    push(engine, merged(lm, ((name, p.detach()) for name, p in lm.named_parameters())), 1)
    tokens = [3 + i % 10 for i in range(12)]
    with torch.inference_mode():
        logprobs = lm(torch.tensor([tokens]), sequence_lengths=(12,)).logits[0, :-1].log_softmax(-1)
    wanted = logprobs.gather(-1, torch.tensor(tokens[1:]).unsqueeze(-1)).squeeze(-1).tolist()
    assert engine.logprobs([tokens])[0][1:] == pytest.approx(wanted, abs=2e-5)


def test_top_k_1_is_the_likeliest_token(engine, first):
    prompt = PROMPTS[2]
    response = engine.generate([prompt], [1], replace(SAMPLING, top_k=1, max_tokens=5))[0].tokens
    with torch.inference_mode():
        likeliest = first(torch.tensor([prompt + response])).logits[0].argmax(-1).tolist()
    assert response == likeliest[len(prompt) - 1 : -1]


def test_a_response_ends_with_eos_or_is_truncated(engine):
    sampling = replace(SAMPLING, min_tokens=3)
    responses = engine.generate([[9]] * 60, range(60), sampling)
    assert {response.truncated for response in responses} == {True, False}
    for response in responses:
        assert response.truncated == (response.tokens[-1] != EOS)
        assert EOS not in response.tokens[:-1]
        assert 3 < len(response.tokens) <= 24
        assert len(response.logprobs) == len(response.tokens)
        assert not response.truncated or len(response.tokens) == 24


def test_a_stop_string_ends_a_response_and_stays_in_it(engine, folder):
    decode = AutoTokenizer.from_pretrained(folder).decode
    free = engine.generate(PROMPTS, SEEDS, SAMPLING)
    row, longest = max(enumerate(free), key=lambda item: len(item[1].tokens))
    stop = decode(longest.tokens[3:5])
    stopped = engine.generate(PROMPTS, SEEDS, replace(SAMPLING, stop=("not in there", stop)))[row]
    end = next(n for n in range(6) if stop in decode(longest.tokens[:n]))
    assert stopped.tokens == longest.tokens[:end]
    assert stopped.logprobs == pytest.approx(longest.logprobs[:end], abs=2e-5)
    assert not stopped.truncated


def test_stop_strings_wait_for_min_tokens(engine):
    letters = tuple(word for word in VOCABULARY if len(word) == 1)
    responses = engine.generate(PROMPTS, SEEDS, replace(SAMPLING, stop=letters, min_tokens=4))
    assert min(len(response.tokens) for response in responses) == 5


def test_an_update_replaces_all_weights_in_place(engine, first):
    second, tokens = model(1), PROMPTS[2] * 4
    stale = engine.logprobs([tokens])[0]
    push(engine, second.named_parameters(), 7)
    assert engine.version == 7
    assert engine.logprobs([tokens])[0][1:] == pytest.approx(expected(second, tokens), abs=2e-5)
    assert stale[1:] == pytest.approx(expected(first, tokens), abs=2e-5)
    assert max(abs(a - b) for a, b in zip(stale[1:], expected(second, tokens), strict=True)) > 1


def test_an_update_comes_in_any_number_of_loads(engine):
    second, tokens = model(1), PROMPTS[2] * 4
    engine.begin_update()
    for name, weight in reversed(list(second.named_parameters())):
        engine.load([(name, weight)])
    engine.finish_update(8)
    assert engine.logprobs([tokens])[0][1:] == pytest.approx(expected(second, tokens), abs=2e-5)


def test_a_small_update_is_not_lost(engine):
    """1% on every weight moves logprobs by 0.1: what an output layer that was left behind would hide."""
    second, tokens = model(0), PROMPTS[2] * 4
    with torch.no_grad():
        for weight in second.parameters():
            weight.mul_(1.01)
    push(engine, second.named_parameters(), 9)
    assert engine.logprobs([tokens])[0][1:] == pytest.approx(expected(second, tokens), abs=2e-5)


def test_an_incomplete_update_is_refused(engine, first):
    weights = [(name, weight) for name, weight in first.named_parameters() if name != "model.norm.weight"]
    with pytest.raises(RuntimeError, match=r"update 3 lacks 1 weights.*model\.norm\.weight"):
        push(engine, weights, 3)
    assert engine.version == 0
    engine.load([("model.norm.weight", first.model.norm.weight)])
    engine.finish_update(3)
    assert engine.version == 3


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        ([[5], []], [1, 2], "prompt 1 is empty"),
        ([[5]], [1, 2], "1 prompts but 2 seeds"),
        ([[5] * 41], [1], "prompt 0 has 41 tokens .* context of 64"),  # 41 + 24 = 65
    ],
)
def test_what_cannot_be_answered_is_refused(engine, prompts, seeds, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(prompts, seeds, SAMPLING)


def test_a_renewed_engine_speaks_like_a_new_one(engine, first):
    """After a run with other weights, at another temperature, that ended while the engine slept."""
    sampling = replace(SAMPLING, temperature=0.8)
    as_new, scores = engine.generate(PROMPTS, SEEDS, sampling), engine.logprobs(PROMPTS)
    push(engine, model(1).named_parameters(), 7)
    assert engine.generate(PROMPTS, SEEDS, replace(sampling, temperature=1.3, min_tokens=5)) != as_new
    engine.sleep()
    engine.renew()
    assert engine.version == -1
    push(engine, first.named_parameters(), 0)
    assert engine.generate(PROMPTS, SEEDS, sampling) == as_new
    assert engine.logprobs(PROMPTS) == scores


def test_sleep_and_wake_keep_the_weights(engine, first):
    engine.sleep()
    engine.wake()
    assert engine.logprobs([[6, 7, 8]])[0][1:] == pytest.approx(expected(first, [6, 7, 8]), abs=2e-5)


def test_hf_gives_the_same_in_batches_of_any_size(folder):
    small, large = (build_engine(folder, Engine(max_sequences=n), ROOM) for n in (2, 99))
    assert [r.tokens for r in small.generate(PROMPTS, SEEDS, SAMPLING)] == [
        r.tokens for r in large.generate(PROMPTS, SEEDS, SAMPLING)
    ]


def test_hf_names_a_weight_that_its_model_lacks(folder):
    engine = build_engine(folder, Engine(), ROOM)
    engine.begin_update()
    with pytest.raises(KeyError, match="no weight `head.weight`"):
        engine.load([("head.weight", torch.zeros(1))])


def test_hf_samples_in_bfloat16(folder, first):
    engine = build_engine(folder, Engine(dtype="bfloat16"), ROOM)
    response = engine.generate([PROMPTS[0]], [1], SAMPLING)[0]
    wanted = expected(first, PROMPTS[0] + response.tokens)[len(PROMPTS[0]) - 1 :]
    assert response.logprobs == pytest.approx(wanted, abs=0.2)


def test_sampling_of_a_rollout():
    rollout = Rollout(temperature=0.7, top_p=0.9, top_k=5, min_response_tokens=2, max_response_tokens=9, stop=["\n"])
    assert Sampling.from_config(rollout) == Sampling(0.7, 0.9, 5, 2, 9, ("\n",))

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_hydra.models.tiny import LETTERS, VOCABULARY, build_tiny


def test_the_same_everywhere(tiny, tmp_path):
    torch.manual_seed(123)
    again = build_tiny(tmp_path)
    assert (again / "model.safetensors").read_bytes() == (Path(tiny) / "model.safetensors").read_bytes()


def test_building_leaves_the_random_generator_alone(tmp_path):
    before = torch.get_rng_state()
    build_tiny(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_reads_letters_and_renders_chats(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokens = tokenizer(LETTERS).input_ids
    assert len(tokens) == len(LETTERS) and tokenizer.decode(tokens) == LETTERS
    assert tokenizer("é").input_ids == [tokenizer.unk_token_id]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "abc"}], tokenize=False).startswith("abc")


def test_has_a_row_for_each_token(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert model.config.vocab_size == len(VOCABULARY)
    assert 300_000 < model.num_parameters() < 500_000

"""From rows to prompts: templates, special tokens, dropped rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlhf_hydra.config.schema import Data, ToyData
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.prompts import load_prompts

BOS, EOS = "<s>", "</s>"
CHAT = (
    "{{ '<s>' }}{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)


def tokenizer(template: str | None = None) -> Any:
    """One token per character; adds BOS in front and EOS behind, as some do. BOS is 0, EOS is 1, `a` is 2."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list(" :{}?0123456789")
    vocab = {token: i for i, token in enumerate([BOS, EOS, *letters])}
    inner = Tokenizer(WordLevel(vocab, unk_token="?"))
    inner.pre_tokenizer = Split("", "isolated")
    inner.post_processor = TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 0), (EOS, 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=EOS)
    made.chat_template = template
    return made


def jsonl(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def load(tmp_path: Path, *rows: Any, chat_template: str | None = None, longest: int = 100, **keys: Any):
    cfg = Data(name="test", path=jsonl(tmp_path, *rows), **keys)
    return load_prompts(cfg, tokenizer(chat_template), longest)


def test_text_gets_bos_in_front_and_no_eos_behind(tmp_path):
    (prompt,), report = load(tmp_path, {"prompt": "ab", "answer": 7, "kind": "x"}, label_column="answer")
    assert prompt.tokens == [0, 2, 3]  # <s> a b
    assert (prompt.text, prompt.label, prompt.row, prompt.metadata) == ("ab", 7, 1, {"kind": "x"})
    assert (report.read, report.used, report.dropped, report.max_tokens) == (1, 1, {}, 3)


def test_text_that_brings_its_own_bos_gets_no_second_one(tmp_path):
    (prompt,), _ = load(tmp_path, {"prompt": "ab"}, template="<s>{prompt}")
    assert prompt.tokens == [0, 2, 3]


def test_template_goes_around_the_prompt_and_leaves_braces_alone(tmp_path):
    (prompt,), _ = load(tmp_path, {"prompt": "{x}"}, template="q: {prompt} {y}?")
    assert prompt.text == "q: {x} {y}?"


def test_chat_template_brings_the_only_bos(tmp_path):
    (prompt,), _ = load(tmp_path, {"prompt": "b"}, chat=True, chat_template=CHAT, template="x{prompt}")
    assert prompt.text == "<s>u:xb</s>a:"
    assert prompt.tokens.count(0) == 1 and prompt.tokens[0] == 0


def test_system_message_comes_first_unless_the_row_has_one(tmp_path):
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "b"}]
    rows = {"prompt": "b"}, {"prompt": own}
    (first, second), _ = load(tmp_path, *rows, chat=True, system="be", chat_template=CHAT)
    assert first.text == "<s>s:be</s>u:b</s>a:"
    assert second.text == "<s>s:own</s>u:b</s>a:"


def test_rows_without_a_usable_prompt_are_counted(tmp_path):
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    values = ["ok", "", "  ", None, 3, ["a"], [], said, "half \ud83d", "far too long"]
    rows = [{"prompt": value, "answer": "1"} for value in values]
    prompts, report = load(tmp_path, *rows, {"prompt": "a", "answer": None}, label_column="answer", longest=8)
    assert [prompt.text for prompt in prompts] == ["ok"]
    assert (report.read, report.used) == (11, 1)
    assert report.dropped == {
        "column `prompt` is empty": 3,
        "column `prompt` is null": 1,
        "column `prompt` is a number; expected text or a list of chat messages": 1,
        "column `prompt` is a list, but not of chat messages ({role, content}, both text)": 1,
        "column `prompt` holds chat messages; set data.chat=true": 1,
        "column `prompt` has half a character (a lone surrogate)": 1,
        "column `answer` is null": 1,
        "longer than 8 tokens (rollout.max_prompt_tokens)": 1,
    }
    assert "1 of 11 prompts" in str(report)
    assert "dropped 3: column `prompt` is empty (first: row 2)" in str(report)


def test_a_strict_run_stops_at_the_first_bad_row(tmp_path):
    rows = {"prompt": "a"}, {"prompt": None}, {"prompt": ""}
    with pytest.raises(DataError, match=r"rows\.jsonl, row 2: column `prompt` is null\ndata\.strict=true"):
        load(tmp_path, *rows, strict=True)


def test_a_column_that_only_some_rows_lack_is_counted(tmp_path):
    _, report = load(tmp_path, {"prompt": "a"}, {"text": "b"})
    assert report.dropped == {"column `prompt` is missing": 1}


def test_length_counts_special_tokens(tmp_path):
    rows = {"prompt": "abc"}, {"prompt": "abcd"}  # 4 and 5 tokens with BOS
    prompts, _ = load(tmp_path, *rows, longest=4)
    assert [prompt.row for prompt in prompts] == [1]


ERRORS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "column": ([{"text": "b", "x": 1}, {"prompt": "a"}], {}, r"row 1 has no column `prompt`; its columns are: text, x"),
    "label": ([{"prompt": "a"}], {"label_column": "gold"}, r"row 1 has no column `gold`; its columns are: prompt"),
    "all dropped": ([{"prompt": ""}], {}, r"no usable prompt in column `prompt`\n.*0 of 1(.|\n)*is empty"),
    "template": ([{"prompt": "a"}], {"template": "x"}, r"data\.template has no \{prompt\}"),
    "chat": ([{"prompt": "a"}], {"chat": True}, r"has no chat template"),
    "system": ([{"prompt": "a"}], {"system": "x"}, r"data\.system is only used with data\.chat=true"),
    "messages": ([{"prompt": [{"role": "user", "content": "a"}]}], {}, r"row 1: .*set data\.chat=true"),
    "both": (
        [{"prompt": [{"role": "user", "content": "a"}]}],
        {"template": "{prompt}", "chat": True, "chat_template": CHAT},
        r"row 1: column `prompt` holds messages, and data\.template goes around text",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_key_or_the_row(name, tmp_path):
    rows, keys, message = ERRORS[name]
    with pytest.raises(DataError, match=message):
        load(tmp_path, *rows, **keys)


def test_a_row_that_the_chat_template_refuses_is_counted(tmp_path):
    refuse = "{% if messages[0]['content'] == 'b' %}{{ raise_exception('no b') }}{% endif %}" + CHAT
    _, report = load(tmp_path, {"prompt": "a"}, {"prompt": "b"}, chat=True, chat_template=refuse)
    assert report.dropped == {"the chat template refuses the messages: no b": 1}
    assert report.examples == {"the chat template refuses the messages: no b": 2}


def test_toy_prompts_are_their_labels():
    prompts, report = load_prompts(ToyData(name="toy", rows=4, letters=2), tokenizer(), 10)
    assert [(p.text, p.label) for p in prompts] == [("a", "a"), ("b", "b"), ("a", "a"), ("b", "b")]
    assert str(report) == "data=toy: 4 of 4 prompts, up to 2 tokens"


def test_questions_with_numbers_as_answers(tmp_path):
    row = {
        "question": "A pen costs 3 dollars and a book 4 more. What do both cost?",
        "answer": "A book costs 3+4 = <<3+4=7>>7 dollars.\nBoth cost 3+7 = <<3+7=10>>10.\n#### 10",
    }
    keys = {"prompt_column": "question", "label_column": "answer", "chat": True, "chat_template": CHAT}
    (prompt,), _ = load(tmp_path, row, **keys)
    assert prompt.text == f"<s>u:{row['question']}</s>a:"
    assert prompt.label == row["answer"]

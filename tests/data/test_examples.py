"""From rows to tokens and what is learned of them: every objective, every form of a row.

A row is shown as its characters, with what is learned in capitals and EOS, `</s>`, as `.` or, learned, `!`.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import CHAT, letters

from rlhf_hydra.config import schema
from rlhf_hydra.config.schema import Blend, Data, ToyData
from rlhf_hydra.data.examples import Examples, load_examples
from rlhf_hydra.data.files import DataError
from rlhf_hydra.models.tiny import letter_tokenizer

SFT, KTO, DPO, RM, PRM = (
    schema.SFT(name="sft"),
    schema.KTO(name="kto"),
    schema.DPO(name="dpo"),
    schema.RM(name="rm"),
    schema.PRM(name="prm"),
)
ASSISTANT, ALL = schema.SFT(name="sft", learn="assistant"), schema.SFT(name="sft", learn="all")


def show(examples: Examples, tokenizer: Any) -> list[str]:
    batch = examples.batch(range(len(examples)))
    names = {0: "^", 1: ".", 2: "_"}
    shown = []
    for tokens, mask, length in zip(batch.tokens, batch.response_mask, batch.lengths, strict=True):
        row = [(int(t), bool(m)) for t, m in zip(tokens[:length], mask[:length], strict=True)]
        text = [(names.get(t) or tokenizer.convert_ids_to_tokens(t), m) for t, m in row]
        shown.append("".join({".": "!", "_": "$"}.get(c, c.upper()) if m else c for c, m in text))
    return shown


def load(jsonl: Any, algo: Any, *rows: Any, own: str | None = None, context: int = 100, **keys: Any):
    tokenizer = letters(own)
    examples, report = load_examples(Data(name="x", path=jsonl(*rows), **keys), algo, tokenizer, context)
    return show(examples, tokenizer), report, examples


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


U, A, V, B = turn("user", "hi"), turn("assistant", "ho"), turn("user", "so"), turn("assistant", "la")


# ------------------------------------------------------------------------------------------------------- plain text


def test_the_response_and_its_end_are_learned(jsonl):
    rows, report, examples = load(jsonl, SFT, {"prompt": "ab", "answer": "cd"}, response_column="answer")
    assert rows == ["^abCD!"]  # BOS a b | c d EOS
    batch = examples.batch([0])
    assert batch.tokens.tolist() == [[0, 4, 5, 6, 7, 1]]
    assert batch.response_mask.tolist() == [[False, False, False, True, True, True]]
    assert examples.lengths == [6]
    assert str(report).endswith("1 of 1 examples, up to 6 tokens")


def test_a_response_that_brings_its_eos_gets_no_second_one(jsonl):
    assert load(jsonl, SFT, {"prompt": "a", "r": "b</s>"}, response_column="r")[0] == ["^aB!"]


def test_no_token_merges_over_the_border(jsonl):
    """`yz` is one token; a response that begins with z after a prompt that ends with y keeps its own z."""
    (row,), _, examples = load(jsonl, SFT, {"prompt": "yzy", "r": "zb"}, response_column="r")
    assert row == "^yzyZB!"
    assert examples.lengths == [6]  # BOS yz y | z b EOS


def test_the_template_goes_around_the_prompt(jsonl):
    keys = {"response_column": "r", "template": "q:{prompt} a:"}
    assert load(jsonl, SFT, {"prompt": "x", "r": "b"}, **keys)[0] == ["^q:x a:B!"]


def test_whole_texts_are_learned_as_they_are(jsonl):
    """Continued pre-training: nothing is added at the end, and the first token has nothing to be predicted from."""
    assert load(jsonl, ALL, {"prompt": "abc"})[0] == ["^ABC"]
    assert load(jsonl, ALL, {"prompt": "ab", "r": "c"}, response_column="r")[0] == ["^ABC!"]


def test_a_whole_text_is_opened_at_the_last_marker(jsonl):
    rows = [{"prompt": "h:a b:c h:d b:e"}, {"prompt": "h:a"}, {"prompt": "h:a b:"}]
    shown, report, _ = load(jsonl, SFT, *rows, response_marker="b:")
    assert shown == ["^h:a b:c h:d b:E!"]
    assert report.dropped == {
        "column `prompt` has no 'b:' (data.response_marker)": 1,
        "column `prompt` has an empty response": 1,
    }


# -------------------------------------------------------------------------------------------------------------- chat


def chat(jsonl: Any, algo: Any, *rows: Any, own: str = CHAT, **keys: Any):
    return load(jsonl, algo, *rows, own=own, chat=True, **keys)


def test_a_text_becomes_one_turn(jsonl):
    assert chat(jsonl, SFT, {"prompt": "hi", "r": "ho"}, response_column="r")[0] == ["^u:hi.a:HO!"]


def test_the_last_turn_or_every_turn_of_the_assistant(jsonl):
    row = {"prompt": [U, A, V, B]}
    assert chat(jsonl, SFT, row)[0] == ["^u:hi.a:ho.u:so.a:LA!"]
    assert chat(jsonl, ASSISTANT, row)[0] == ["^u:hi.a:HO!u:so.a:LA!"]
    assert chat(jsonl, ALL, row)[0] == ["^U:HI!A:HO!U:SO!A:LA!"]


def test_messages_in_front_of_a_response(jsonl):
    for response in ("la", [B], [U, A, V, B]):
        row = {"prompt": [U, A, V], "r": response}
        assert chat(jsonl, SFT, row, response_column="r")[0] == ["^u:hi.a:ho.u:so.a:LA!"]


def test_messages_as_tables_and_tools_have_them(jsonl):
    """Keys that other messages have are null; a call of a tool has no text; a text may be in parts."""
    own = CHAT.replace("m['content']", "('f' if 'tool_calls' in m else '') + m['content']")
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    parts = {"role": "assistant", "content": [{"type": "text", "text": "l"}, {"type": "text", "text": "a"}]}
    messages = [{**U, "tool_calls": None}, call, turn("tool", "x"), parts]
    assert chat(jsonl, SFT, {"prompt": messages}, own=own)[0] == ["^u:hi.a:f.t:x.a:LA!"]
    assert chat(jsonl, SFT, {"prompt": messages[:2]}, own=own)[0] == ["^u:hi.a:F!"]


@pytest.mark.parametrize("answer", ["", " \n"])
def test_a_conversation_that_ends_without_words_is_counted(answer, jsonl):
    for algo, row in (
        (SFT, {"prompt": [U, turn("assistant", answer)]}),
        (DPO, {"prompt": [U], "chosen": [A, V, turn("assistant", answer)], "rejected": [B]}),
    ):
        with pytest.raises(DataError, match="has an empty response"):
            chat(jsonl, algo, row)


def test_system_message_and_template(jsonl):
    keys = {"response_column": "r", "system": "be", "template": "q {prompt}"}
    assert chat(jsonl, SFT, {"prompt": "x", "r": "b"}, **keys)[0] == ["^s:be.u:q x.a:B!"]


def test_another_chat_template_of_text_or_file(jsonl, tmp_path):
    own = "{% for m in messages %}{{ m['content'] + '<end>' }}{% endfor %}"
    file = tmp_path / "own.jinja"
    file.write_text(own)
    for template in (own, str(file)):
        assert chat(jsonl, SFT, {"prompt": [U, A]}, chat_template=template)[0] == ["hi_HO$"]


MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}a:{% generation %}{{ m['content'] + '</s>' }}"
    "{% endgeneration %}{% else %}{{ 'u:' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)


def test_a_template_may_mark_what_it_generates(jsonl):
    row = {"prompt": [U, A, V, B]}
    assert chat(jsonl, ASSISTANT, row, own=MARKED)[0] == ["u:hi.a:HO!u:so.a:LA!"]
    assert chat(jsonl, SFT, row, own=MARKED)[0] == ["u:hi.a:ho.u:so.a:LA!"]


def test_the_end_of_the_turn_is_learned_where_the_marks_leave_it_out(jsonl):
    late = MARKED.replace("{{ m['content'] + '</s>' }}{% endgeneration %}", "{{ m['content'] }}{% endgeneration %}</s>")
    assert chat(jsonl, ASSISTANT, {"prompt": [U, A, V, B]}, own=late)[0] == ["u:hi.a:HO!u:so.a:LA!"]


def test_what_follows_the_last_turns_end_is_left_out(jsonl):
    """As in ChatML: a newline after the end of each turn, which no engine writes."""
    lines = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + '<end>\n' }}{% endfor %}"
    assert chat(jsonl, ASSISTANT, {"prompt": [U, A, V, B]}, own=lines)[0] == ["u:hi_\nA:HO$\nu:so_\nA:LA$"]


def test_a_turn_that_the_template_does_not_end_gets_eos(jsonl):
    bare = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    assert chat(jsonl, SFT, {"prompt": [U, A]}, own=bare)[0] == ["hi HO !"]


def test_no_token_merges_over_the_border_of_a_turn(jsonl):
    """`y` ends the prompt and `z` begins the response, which the tokenizer would make one token of."""
    bare = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    row = {"prompt": [turn("user", "ay"), turn("assistant", "zb")]}
    (shown,), _, examples = chat(jsonl, SFT, row, own=bare)
    assert (shown, examples.lengths) == ("ayZB!", [5])


FORGETFUL = (
    "{% for m in messages %}{{ m['role'][0] + ':' }}{% if loop.last %}{{ '?' }}{% endif %}{{ m['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
"""Keeps a mark of reasoning, `?`, in the last turn only."""


def test_a_template_that_drops_earlier_reasoning_is_refused(jsonl):
    single, multi = {"prompt": [U, A]}, {"prompt": [U, A, V, B]}
    with pytest.raises(DataError, match=r"row 1: the chat template writes a conversation anew .* message 2"):
        chat(jsonl, ASSISTANT, multi, own=FORGETFUL.replace("loop.last", "loop.last and m['role'] != 'user'"))
    with pytest.raises(DataError, match=r"row 2: the chat template writes"):
        keeps_two = FORGETFUL.replace("loop.last", "loop.last and loop.index > 2")
        chat(jsonl, ASSISTANT, single, multi, own=keeps_two)


def test_its_last_response_can_be_learned_all_the_same(jsonl):
    last = FORGETFUL.replace("loop.last", "loop.last and m['role'] != 'user'")
    assert chat(jsonl, SFT, {"prompt": [U, A, V, B]}, own=last)[0] == ["u:hi.a:ho.u:so.a:?LA!"]


# ------------------------------------------------------------------------------------------------------------- pairs

PAIR = ["^abC!", "^abD!"]


def test_pairs_of_texts(jsonl):
    row = {"prompt": "ab", "chosen": "c", "rejected": "d"}
    rows, report, examples = load(jsonl, DPO, row, row)
    assert rows == PAIR * 2
    batch = examples.batch([1, 0])
    assert batch.group.tolist() == [0, 0, 1, 1]
    assert examples.lengths == [10, 10]
    assert report.noun == "pairs"


def test_pairs_of_whole_texts_share_what_is_not_learned(jsonl):
    rows = load(jsonl, DPO, {"chosen": "ab c", "rejected": "ab d"}, prompt_column=None)[0]
    assert rows == ["^ab C!", "^ab D!"]
    rows = load(jsonl, DPO, {"chosen": "h:a b:c", "rejected": "h:a b:cd"}, prompt_column=None, response_marker="b:")[0]
    assert rows == ["^h:a b:C!", "^h:a b:CD!"]


def test_a_response_that_is_the_beginning_of_the_other(jsonl):
    """They part at the end: EOS against one more letter."""
    assert load(jsonl, DPO, {"chosen": "ab", "rejected": "abc"}, prompt_column=None)[0] == ["^ab!", "^abC!"]


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ({"prompt": "hi", "chosen": "ho", "rejected": "la"}, {}),
        ({"prompt": "hi", "chosen": [A], "rejected": [B]}, {}),
        ({"prompt": [U], "chosen": [A], "rejected": [B]}, {}),
        ({"prompt": "hi", "chosen": [U, A], "rejected": [U, B]}, {}),
        ({"chosen": [U, A], "rejected": [U, B]}, {"prompt_column": None}),
    ],
)
def test_pairs_of_conversations(row, keys, jsonl):
    assert chat(jsonl, RM, row, **keys)[0] == ["^u:hi.a:HO!", "^u:hi.a:LA!"]


def test_conversations_that_part_early_are_learned_from_there(jsonl):
    row = {"chosen": [U, A, V, B], "rejected": [U, B, V, A]}
    assert chat(jsonl, DPO, row, prompt_column=None)[0] == ["^u:hi.a:HO!u:so.a:LA!", "^u:hi.a:LA!u:so.a:HO!"]


def test_margins_are_on_both_rows(jsonl):
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c", "m": m} for m in (0.5, 2, "1.5", "x", float("nan"))]
    _, report, examples = load(jsonl, RM, *rows, margin_column="m")
    assert examples.batch([0, 1, 2]).labels.tolist() == [0.5, 0.5, 2, 2, 1.5, 1.5]
    assert report.dropped == {
        "column `m` has text that is no number": 1,
        "column `m` has a number that is not finite": 1,
    }
    assert load(jsonl, RM, rows[0])[2].batch([0]).labels.tolist() == [0, 0]


def test_pairs_that_are_none_are_counted(jsonl):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    _, report, _ = load(jsonl, DPO, good, {**good, "rejected": "b"}, {**good, "chosen": ""})
    assert report.dropped == {
        "column `rejected` is the same as `chosen`": 1,
        "column `chosen` is empty": 1,
    }
    other = {"chosen": [V, A], "rejected": [U, B]}
    _, report, _ = chat(jsonl, DPO, {"chosen": [U, A], "rejected": [U, B]}, other, prompt_column=None)
    assert report.dropped == {"column `rejected` does not begin as `chosen` does": 1}


# --------------------------------------------------------------------------------------------------------------- KTO


def test_single_responses_with_a_verdict(jsonl):
    values = [True, False, 1, 0, "true", "0", "maybe", None]
    rows = [{"prompt": "a", "r": "b", "good": value} for value in values]
    _, report, examples = load(jsonl, KTO, *rows, response_column="r", desirable_column="good")
    assert examples.batch(range(6)).labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert report.dropped == {
        "column `good` is neither true nor false, 1 nor 0": 1,
        "column `good` is null": 1,
    }


def test_pairs_are_taken_apart(jsonl):
    rows, report, examples = load(jsonl, KTO, {"prompt": "ab", "chosen": "c", "rejected": "d"})
    assert rows == PAIR
    assert examples.batch([0, 1]).labels.tolist() == [1, 0]
    assert examples.batch([0, 1]).group.tolist() == [0, 1]
    assert (report.read, report.used, report.made, len(examples)) == (1, 1, 2, 2)
    assert str(report).endswith("1 of 1 rows, as 2 examples, up to 5 tokens")


# --------------------------------------------------------------------------------------------------------------- PRM

STEPS = {"response_column": "r", "steps_column": "s", "placeholder": "?"}


def steps(examples: Examples) -> list[list[float]]:
    batch = examples.batch(range(len(examples)))
    masks = zip(batch.step_labels, batch.response_mask, strict=True)
    assert torch.equal(batch.step_labels != 0, (batch.step_labels != 0) & batch.response_mask)
    return [labels[mask].tolist() for labels, mask in masks]


def test_steps_end_at_the_placeholder(jsonl):
    rows = [{"prompt": "q", "r": "ab?c?", "s": [True, False]}, {"prompt": "q", "r": "a?", "s": [0.25]}]
    shown, _, examples = load(jsonl, PRM, *rows, **STEPS)
    assert examples.batch([0]).response_mask.tolist() == [[False] * 4 + [True, False, True, False]]
    assert shown[0] == "^qab?c?."
    assert steps(examples) == [[1, 0], [0.25]]


def test_steps_as_a_list(jsonl):
    """With a placeholder it closes each step; without, the end of the line does."""
    row = {"prompt": "q", "r": ["ab", "c"], "s": ["+", "-"]}
    shown, _, examples = load(jsonl, PRM, row, **STEPS)
    assert (shown, steps(examples)) == (["^qab?c?."], [[1, 0]])
    shown, _, examples = load(jsonl, PRM, row, **{**STEPS, "placeholder": None})
    assert (shown, steps(examples)) == (["^qab\nc\n"], [[1, 0]])
    assert examples.batch([0]).response_mask.tolist() == [[False, False, False, False, True, False, True]]


def test_labels_in_a_second_copy_of_the_text(jsonl):
    """Math-Shepherd: the whole text in one column, and again with + and - in place of the placeholder."""
    rows = [{"prompt": "q a? b-c?\n", "s": "q a+ b-c-\n"}, {"prompt": "q a?", "s": "q b+"}]
    shown, report, examples = load(jsonl, PRM, *rows, steps_column="s", placeholder="?")
    assert (shown, steps(examples)) == (["^q a? b-c?\n"], [[1, 0]])
    assert report.dropped == {"column `s` is not the text with + or - in place of ?": 1}


def test_steps_in_a_chat(jsonl):
    row = {"prompt": "q", "r": "a?b?", "s": [1, 0]}
    shown, _, examples = chat(jsonl, PRM, row, **STEPS)
    assert (shown, steps(examples)) == (["^u:q.a:a?b?."], [[1, 0]])


def test_bad_steps_are_counted(jsonl):
    good = {"prompt": "q", "r": "a?b?", "s": [1, 0]}
    bad = [[1], [1, 2], [1, "x"], [], "++", None]
    _, report, _ = load(jsonl, PRM, good, *({**good, "s": s} for s in bad), {**good, "r": "ab"}, **STEPS)
    assert report.dropped == {
        "column `s` has another number of labels than there are steps": 2,
        "column `s` has a number that is no probability": 1,
        "column `s` has text that is no number": 1,
        "column `s` is empty": 1,
        "column `s` is not the text with + or - in place of ?": 1,
        "column `s` is null": 1,
    }


def test_a_placeholder_of_two_tokens_is_refused(jsonl):
    with pytest.raises(DataError, match=r"data\.placeholder='ab' is 2 tokens"):
        load(jsonl, PRM, {"prompt": "q", "r": "ab", "s": [1]}, **{**STEPS, "placeholder": "ab"})


# ----------------------------------------------------------------------------------------------------- what is too long


def test_long_rows_are_dropped_or_cut(jsonl):
    rows = [{"prompt": "ab", "r": "c"}, {"prompt": "ab", "r": "cdef"}, {"prompt": "abcdef", "r": "g"}]
    shown, report, _ = load(jsonl, SFT, *rows, response_column="r", max_tokens=5)  # 5, 8 and 9 tokens
    assert shown == ["^abC!"]
    assert report.dropped == {"longer than 5 tokens (data.max_tokens, model.context_tokens)": 2}
    shown, report, _ = load(jsonl, SFT, *rows, response_column="r", max_tokens=5, overlong="cut")
    assert shown == ["^abC!", "^abCD"]  # no end is taught where there is none
    assert report.dropped == {"nothing to learn in its first 5 tokens": 1}
    assert "cut 1 rows" in str(report)


def test_the_models_context_is_the_limit_without_one(jsonl):
    rows = {"prompt": "a", "r": "b"}, {"prompt": "a", "r": "bc"}
    assert load(jsonl, SFT, *rows, response_column="r", context=4)[0] == ["^aB!"]


def test_steps_behind_the_cut_go(jsonl):
    row = {"prompt": "q", "r": "ab?c?", "s": [1, 0]}
    _, _, examples = load(jsonl, PRM, row, **STEPS, max_tokens=6, overlong="cut")
    assert steps(examples) == [[1]]


# ------------------------------------------------------------------------------------------------------------ errors

ERRORS: dict[str, tuple[Any, dict[str, Any], dict[str, Any], str]] = {
    "column": (SFT, {"text": "a"}, {"response_column": "r"}, r"row 1 has no column `prompt`; its columns are: text"),
    "no border": (SFT, {"prompt": "a"}, {}, r"nothing says where its response begins: .*algo\.learn=all"),
    "messages": (SFT, {"prompt": [U, A]}, {}, r"row 1: column `prompt` holds chat messages; set data\.chat=true"),
    "no template": (SFT, {"prompt": [U, A]}, {"chat": True}, r"the tokenizer has no chat template"),
    "no file": (SFT, {"prompt": [U, A]}, {"chat": True, "chat_template": "no.jinja"}, r"no\.jinja is no template"),
    "template": (SFT, {"prompt": "a"}, {"template": "x"}, r"data\.template has no \{prompt\}"),
    "system": (SFT, {"prompt": "a"}, {"system": "x"}, r"data\.system is only used with data\.chat=true"),
    "steps": (PRM, {"prompt": "a"}, {}, r"data\.steps_column is not set"),
    "no prompt": (SFT, {"prompt": "a"}, {"prompt_column": None}, r"data\.prompt_column is null, and only pairs"),
    "all bad": (SFT, {"prompt": "a", "r": ""}, {"response_column": "r"}, r"no usable example for algo=sft\n.*0 of 1"),
    "strict": (SFT, {"prompt": 1, "r": "b"}, {"response_column": "r", "strict": True}, r"row 1: column `prompt` is a"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_name_the_key_or_the_row(name, jsonl):
    algo, row, keys, message = ERRORS[name]
    with pytest.raises(DataError, match=message):
        load(jsonl, algo, row, **keys)


# --------------------------------------------------------------------------------------------------------- the toy set

LEARNED = {"sft": 5, "rm": 10, "prm": 4, "dpo": 10, "simpo": 10, "orpo": 10, "kto": 5, "kd": 5}
"""Tokens of one example that are learned: `cccc` and EOS, of both rows of a pair; the ends of four steps."""


@pytest.mark.parametrize("name", LEARNED)
def test_the_toy_set_serves_every_objective(name):
    algo = schema.SCHEMAS[f"algo/{name}"](name=name)
    examples, report = load_examples(ToyData(name="toy"), algo, letter_tokenizer(), 512)
    assert len(examples) == (512 if name == "kto" else 256)
    assert report.dropped == {}
    batch = examples.batch(range(len(examples)))
    assert batch.response_mask.sum() == LEARNED[name] * len(examples)
    assert not (batch.tokens[batch.response_mask] == 2).any()  # <unk>


def test_toy_rejections_differ_and_toy_verdicts_are_true():
    pairs, _ = load_examples(ToyData(name="toy"), DPO, letter_tokenizer(), 512)
    rows = pairs.batch(range(len(pairs))).tokens
    assert (rows[::2, 0] == rows[1::2, 0]).all()
    assert (rows[::2] != rows[1::2]).any(dim=1).all()
    solved, _ = load_examples(ToyData(name="toy"), PRM, letter_tokenizer(), 512)
    batch = solved.batch(range(len(solved)))
    right = batch.tokens[:, 1:9:2] == batch.tokens[:, :1]  # the letter before each `p`
    assert torch.equal(right, batch.step_labels[:, 2:9:2] == 1)
    assert 0.3 < right.float().mean() < 0.7


# ------------------------------------------------------------------------------------------------------ split, blend


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(2, 40), share=st.floats(0.01, 0.9), seed=st.integers(0, 3))
def test_a_split_is_whole_and_keeps_a_rows_examples_together(rows, share, seed):
    toy = ToyData(name="toy", rows=rows)
    examples, _ = load_examples(toy, KTO, letter_tokenizer(), 512)
    train, held = examples.split(share, seed)
    assert sorted([*train.index, *held.index]) == list(range(2 * rows))
    assert set(train.index // 2).isdisjoint(held.index // 2)  # row i gives examples 2i and 2i + 1
    assert len(held) == 2 * min(max(1, round(share * rows)), rows - 1)
    again = examples.split(share, seed)
    assert (train.fingerprint, held.fingerprint) == tuple(part.fingerprint for part in again)
    assert train.fingerprint != held.fingerprint


def test_one_row_cannot_be_split():
    examples, _ = load_examples(ToyData(name="toy", limit=1), SFT, letter_tokenizer(), 512)
    with pytest.raises(DataError, match="1 row cannot be split.*eval.every=0"):
        examples.split(0.5, 0)


def test_a_part_of_a_split_gives_its_own_rows():
    examples, _ = load_examples(ToyData(name="toy", rows=8), SFT, letter_tokenizer(), 512)
    _, held = examples.split(0.5, 1)
    assert torch.equal(held.batch([0, 3]).tokens, examples.batch([int(held.index[0]), int(held.index[3])]).tokens)
    assert held.lengths == [6] * 4


def test_a_blend_holds_out_every_copy_of_a_row():
    toys = {"few": ToyData(name="toy", rows=2), "many": ToyData(name="toy", rows=20)}
    examples, _ = load_examples(Blend(name="b", sources=toys, until="all"), SFT, letter_tokenizer(), 512)
    train, held = examples.split(0.3, 0)
    assert len(train) + len(held) == len(examples) > 22
    assert set(train.index).isdisjoint(held.index)

"""The sets that ship as choices read rows of the shape that their public cards describe."""

from dataclasses import replace
from typing import Any

import pyarrow as arrow
import pytest
from eyes import END, IMAGE, START, png
from letters import CHAT, letters
from pyarrow import parquet
from transformers import AutoTokenizer

from rlhf_hydra.config import schema
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.schema import Data
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.data.prompts import load_prompts

SFT, RM, PRM, DPO, KTO = (schema.SCHEMAS[f"algo/{name}"](name=name) for name in ("sft", "rm", "prm", "dpo", "kto"))


@pytest.fixture(scope="module")
def preset():
    composer = Composer()

    def find(name: str, *overrides: str) -> Data:
        return composer.compose([f"data={name}", *overrides]).run.data

    return find


def messages(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


FEEDBACK = {
    "prompt": "q", "prompt_id": "1", "chosen": messages("q", "yes"), "rejected": messages("q", "no"),
    "messages": messages("q", "yes"), "score_chosen": 8.0, "score_rejected": 6.5,
}  # fmt: skip
PLAIN = {"instruction": "q", "chosen": "yes", "rejected": "no"}
TALK = "\n\nHuman: hi\n\nAssistant: ho\n\nHuman: so\n\nAssistant:"
MIXED = {"chosen": messages("a", "b", "c", "yes"), "rejected": messages("a", "b", "c", "no")}
SHEPHERD = {"input": "q step one ки\nstep two ки", "value": ["+", "-"]}
AUTHORS = {"input": SHEPHERD["input"], "label": "q step one +\nstep two -", "task": "GSM8K"}
CARDS: list[tuple[str, tuple[str, ...], Any, dict[str, Any], list[str]]] = [
    ("openorca", (), SFT, {"id": "1", "system_prompt": "", "question": "q", "response": "yes"}, ["yes</s>"]),
    ("preference_mixture", (), RM, MIXED, ["yes</s>", "no</s>"]),
    ("ultrafeedback", (), DPO, FEEDBACK, ["yes</s>", "no</s>"]),
    ("ultrafeedback", (), KTO, FEEDBACK, ["yes</s>", "no</s>"]),
    ("ultrafeedback", ("data.hub=modelscope",), DPO, PLAIN, ["yes</s>", "no</s>"]),
    ("hh", (), DPO, {"chosen": f"{TALK} yes", "rejected": f"{TALK} no"}, [" yes</s>", " no</s>"]),
    ("math_shepherd", (), PRM, SHEPHERD, ["ки", "ки"]),
    ("math_shepherd", ("data.steps_column=label",), PRM, AUTHORS, ["ки", "ки"]),
]
"""Choice, further keys, objective, a row, and what is learned of it."""


def test_problems_with_drawings(preset, tmp_path, tiny_eyes):
    """Its columns of images hold a list of {bytes, path}."""
    row = {"images": [{"bytes": png(0), "path": None}], "problem": "<image>find a", "answer": "3"}
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "train.parquet")
    cfg = replace(preset("geometry3k", "model=qwen2.5-vl-7b"), path=str(tmp_path), label_column="answer")
    (prompt,), _ = load_prompts(cfg, AutoTokenizer.from_pretrained(tiny_eyes), 40)
    assert prompt.tokens[:8] == [START, *[IMAGE] * 6, END]
    assert (prompt.images, prompt.label, prompt.metadata) == ([png(0)], "3", {})


@pytest.mark.parametrize(("name", "keys", "algo", "row", "learned"), CARDS)
def test_rows_of_the_card_are_read(name, keys, algo, row, learned, preset, jsonl):
    tokenizer = letters(CHAT, "ки")
    cfg = replace(preset(name, *keys), path=jsonl(row), split="train")
    examples, report = load_examples(cfg, algo, tokenizer, 200)
    assert report.dropped == {}
    batch = examples.batch(range(len(examples)))
    found = [
        "".join(tokenizer.convert_ids_to_tokens(t[m])) for t, m in zip(batch.tokens, batch.response_mask, strict=True)
    ]
    assert "".join(found) == "".join(learned)


def test_prompts_to_sample_from(preset, jsonl):
    row = {"context_messages": messages("a", "b", "c"), "dataset": "x"}
    cfg = replace(preset("prompt_collection"), path=jsonl(row))
    (prompt,), _ = load_prompts(cfg, letters(CHAT), 100)
    assert prompt.text == "<s>u:a</s>a:b</s>u:c</s>a:"


def test_each_hub_has_its_own_names(preset):
    assert preset("openorca").path == "Open-Orca/OpenOrca"
    assert preset("openorca", "data.hub=modelscope").path == "AI-ModelScope/OpenOrca"
    assert preset("prompt_collection", "data.hub=modelscope").path == "AI-ModelScope/prompt-collection-v0.1"
    assert preset("gsm8k", "data.hub=modelscope").path == "AI-ModelScope/gsm8k"
    assert preset("ultrafeedback").split == "train_prefs"
    assert preset("ultrafeedback", "data.hub=modelscope").split == "train"
    assert preset("openorca", "data.hub=modelscope", "data.path=my/own").path == "my/own"

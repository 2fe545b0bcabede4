"""What people are told about data that cannot be used. `docs/add-data.md` shows this table."""

import gzip
import json
from pathlib import Path

import pytest
from letters import CHAT, letters

from rlhf_hydra.config.schema import SFT, Data
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.data.files import DataError

GOOD = '{"prompt": "a", "response": "b"}\n'
LONG = json.dumps({"prompt": "a", "response": "b" * 99})
MESSAGES = json.dumps({"prompt": ["hi", "ho"], "response": "b"})

FILES: dict[str, tuple[str, bytes | str, str]] = {
    "empty": ("a.jsonl", "", "a.jsonl has no rows"),
    "wrong encoding": ("a.jsonl", GOOD.encode() + b'{"prompt": "\xfc"}', "a.jsonl, line 2: byte 0xfc is not UTF-8"),
    "UTF-16": ("a.jsonl", GOOD.encode("utf-16"), "a.jsonl, line 1: byte 0xff is not UTF-8; save the file as UTF-8"),
    "truncated JSON": ("a.jsonl", GOOD + GOOD[:20], "a.jsonl, line 2, character 17: not JSON: Unterminated string"),
    "a key twice": (
        "a.jsonl",
        '{"prompt": "a", "prompt": "b"}',
        "line 1: an object has the key `prompt` twice",
    ),
    "NUL bytes": ("a.jsonl", GOOD + "\0" * 64, "a.jsonl, line 2: a NUL byte; the file is damaged"),
    "a list in .jsonl": ("a.jsonl", f"[{GOOD.strip()}]", "a.jsonl, line 1: a list; expected an object with columns"),
    "CSV in .jsonl": ("a.jsonl", "prompt,response\na,b\n", "a.jsonl, line 1, character 1: not JSON"),
    "JSON lines in .json": ("a.json", GOOD * 2, "a.json, line 2, character 1: not JSON: Extra data; is it JSON lines"),
    "an object, no list": ("a.json", GOOD, "a.json holds one object; expected a list of rows"),
    "a number among rows": ("a.json", f"[{GOOD}, 7]", "a.json, row 2: a number; expected an object"),
    "nested without end": ("a.json", "[" * 100_000, "a.json, line 1: nested too deeply"),
    "ragged CSV": ("a.csv", "prompt,response\na,b\nc\n", "a.csv, line 3: 1 cells under 2 columns"),
    "a quote that stays open": ("a.csv", 'prompt,response\n"a,b\n', "a.csv, line 2: not CSV: unexpected end of data"),
    "a column twice": ("a.csv", "prompt,prompt\na,b\n", "a.csv, line 1: two columns have the same name"),
    "JSON in .csv": ("a.csv", GOOD, "a.csv, line 1: JSON, where the names of the columns should be"),
    "no Parquet": ("a.parquet", "garbage" * 9, "a.parquet: not a Parquet file, or broken after row 0"),
    "cut Parquet": ("a.parquet", b"PAR1" + bytes(64), "a.parquet: not a Parquet file, or broken after row 0"),
    "no Arrow": ("a.arrow", "garbage" * 9, "a.arrow: not an Arrow file, or broken after row 0"),
    "Parquet called .jsonl": ("a.jsonl", b"PAR1" + bytes(64), "a.jsonl is a Parquet file; give it the suffix .parquet"),
    "compressed": ("a.jsonl", gzip.compress(GOOD.encode()), "a.jsonl is compressed (gzip); give it the suffix .gz"),
    "cut gzip": (
        "a.jsonl.gz",
        gzip.compress(GOOD.encode() * 99)[:-9],
        "a.jsonl.gz cannot be read: Compressed file ended",
    ),
    "another suffix": ("a.txt", GOOD, "a.txt is none of .jsonl, .json, .csv, .parquet, .arrow"),
    "no such file": ("b.jsonl", "", "data.path: there is no file"),
    "no such column": ("a.jsonl", '{"text": "a"}', "a.jsonl, row 1 has no column `prompt`; its columns are: text"),
}
"""Files that no run starts with: name, content, what is said."""

ROWS: dict[str, tuple[str, str]] = {
    "a value missing": ('{"prompt": "a"}', "column `response` is missing"),
    "null": ('{"prompt": null, "response": "b"}', "column `prompt` is null"),
    "a number for text": ('{"prompt": 7, "response": "b"}', "column `prompt` is a number; expected text or a list"),
    "an object for text": ('{"prompt": {}, "response": "b"}', "column `prompt` is an object; expected text or a list"),
    "not a list of messages": (MESSAGES, "column `prompt` is a list, but not of chat messages"),
    "nothing but blanks": ('{"prompt": "a", "response": " \\n"}', "column `response` is empty"),
    "half a character": ('{"prompt": "\\ud83d", "response": "b"}', "column `prompt` has half a character"),
    "too long": (LONG, "longer than 50 tokens (data.max_tokens, model.context_tokens)"),
}
"""Rows among good ones, which are counted: the row, the reason."""


def load(path: Path, **keys: object):
    cfg = Data(name="x", path=str(path), response_column="response", **keys)
    return load_examples(cfg, SFT(name="sft"), letters(), 50)


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_named_with_the_place(name, tmp_path):
    file, content, says = FILES[name]
    (tmp_path / file.replace("b.", "a.")).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        load(tmp_path / file)
    assert says in str(error.value)
    assert file in str(error.value)


OWN_NAME = {"empty", "another suffix", "no such file"}
"""Of a folder: fine as long as other files have rows, not read, and not there."""


@pytest.mark.parametrize("name", FILES.keys() - OWN_NAME)
def test_in_a_folder_too(name, tmp_path):
    file, content, says = FILES[name]
    (tmp_path / "train-1.jsonl").write_text(GOOD)
    path = tmp_path / file.replace("a.", "train-2.")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "no such column":  # which the first file has, so it is a bad row
        assert load(tmp_path)[1].dropped == {"column `prompt` is missing": 1}
        return
    with pytest.raises(DataError) as error:
        load(tmp_path)
    assert says.replace("a.", "train-2.") in str(error.value)


def test_a_bad_row_of_a_folder_is_told_with_its_file(tmp_path):
    (tmp_path / "train-1.jsonl").write_text(GOOD * 3)
    (tmp_path / "train-2.jsonl").write_text(GOOD + '{"prompt": "a", "response": ""}')
    assert "is empty (first: row 2 of train-2.jsonl)" in str(load(tmp_path)[1])
    with pytest.raises(DataError, match=r"row 2 of train-2\.jsonl: column `response` is empty"):
        load(tmp_path, strict=True)


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_is_counted_or_stops_the_run(name, tmp_path):
    row, says = ROWS[name]
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD + row + "\n" + GOOD)
    _, report = load(path)
    ((why, count),) = report.dropped.items()
    assert says in why and count == 1
    assert f"dropped 1: {why} (first: row 2)" in str(report)
    with pytest.raises(DataError) as error:
        load(path, strict=True)
    assert f"a.jsonl, row 2: {why}" in str(error.value)


def test_messages_without_a_role_are_counted_in_a_chat(tmp_path):
    path = tmp_path / "a.jsonl"
    bad = json.dumps({"prompt": [{"from": "human", "value": "hi"}], "response": "b"})
    path.write_text(GOOD + bad)
    cfg = Data(name="x", path=str(path), response_column="response", chat=True)
    _, report = load_examples(cfg, SFT(name="sft"), letters(CHAT), 50)
    assert list(report.dropped) == ["column `prompt` is a list, but not of chat messages ({role, content}, both text)"]


def test_the_table_in_the_documentation_is_this_one():
    text = (Path(__file__).parents[2] / "docs" / "add-data.md").read_text()
    for name, (*_, says) in (FILES | ROWS).items():
        assert f"| {name} | `` {says} `` |" in text, name

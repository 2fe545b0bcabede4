"""Every kind of file, and what is said about broken ones."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_hydra.config.schema import Data, ToyData
from rlhf_hydra.data import sources
from rlhf_hydra.data.files import DataError

ROWS = [{"prompt": "one", "answer": "1"}, {"prompt": "zwölf, 12", "answer": "12"}]


def write(path: Path, content: str | bytes) -> Data:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Data(name="test", path=str(path))


def parquet(path: Path, rows: list[dict]) -> Data:
    import pyarrow as arrow
    import pyarrow.parquet

    arrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    return Data(name="test", path=str(path))


def arrow_file(path: Path, rows: list[dict], stream: bool) -> Data:
    import pyarrow as arrow

    table = arrow.Table.from_pylist(rows)
    with (arrow.ipc.new_stream if stream else arrow.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table)
    return Data(name="test", path=str(path))


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    files = [
        write(tmp_path / "a.jsonl", "\n".join(lines)),
        write(tmp_path / "A.JSONL", "\n".join(lines)),
        write(tmp_path / "a.jsonl.gz", gzip.compress("\n".join(lines).encode())),
        write(tmp_path / "a.json", json.dumps(ROWS)),
        write(tmp_path / "a.csv", 'prompt,answer\none,1\n"zwölf, 12",12\n'),
        parquet(tmp_path / "a.parquet", ROWS),
        arrow_file(tmp_path / "a.arrow", ROWS, stream=False),
        arrow_file(tmp_path / "b.arrow", ROWS, stream=True),
    ]
    for cfg in files:
        assert [row for _, row in sources.read(cfg)] == ROWS


def test_row_numbers_are_the_lines_of_the_file(tmp_path):
    cfg = write(tmp_path / "a.jsonl", '{"prompt": "a"}\n\n{"prompt": "b"}\n')
    assert [number for number, _ in sources.read(cfg)] == [1, 3]
    # line 1 is the header, the first row spans lines 2 and 3
    cfg = write(tmp_path / "a.csv", 'prompt\n"two\nlines"\none\n')
    assert [number for number, _ in sources.read(cfg)] == [2, 4]


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    assert next(sources.read(write(tmp_path / "a.csv", b"\xef\xbb\xbfprompt\nx\n")))[1] == {"prompt": "x"}
    assert next(sources.read(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"prompt": "x"}')))[1] == {"prompt": "x"}


def test_limit_does_not_read_on(tmp_path):
    cfg = write(tmp_path / "a.jsonl", '{"prompt": "a"}\nnot json\n')
    cfg.limit = 1
    assert list(sources.read(cfg)) == [(1, {"prompt": "a"})]


BAD_FILES = {
    "empty.jsonl": ("", "has no rows"),
    "empty.json": ("", "line 1, character 1: not JSON"),
    "empty.csv": ("", "has no rows"),
    "empty.parquet": ("", "not a Parquet file"),
    "none.json": ("[]", "has no rows"),
    "header.csv": ("prompt,answer\n", "has no rows"),
    "truncated.jsonl": ('{"prompt": "a"}\n{"prompt": "b', "line 2, character 12: not JSON"),
    "truncated.json": ('[{"prompt": "a"},\n{"prom', "line 2, character 2: not JSON"),
    "truncated.parquet": ("PAR1 and then nothing", "not a Parquet file"),
    "lines.json": ('{"prompt": "a"}\n{"prompt": "b"}', "is it JSON lines"),
    "latin1.jsonl": (b'{"prompt": "a"}\n{"prompt": "\xfc"}', "line 2: byte 0xfc is not UTF-8"),
    "latin1.json": (b'[{"prompt": "a"},\n {"prompt": "\xfc"}]', "line 2: byte 0xfc is not UTF-8"),
    "latin1.csv": (b"prompt\na\n\xfc\n", "line 3: byte 0xfc is not UTF-8"),
    "utf16.jsonl": ('{"prompt": "a"}'.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    "text.jsonl": ('{"prompt": "a"}\n"b"\n', "line 2: a text; expected an object"),
    "null.jsonl": ("null\n", "line 1: a null; expected an object"),
    "number.json": ('[{"prompt": "a"}, 2]', "row 2: a number; expected an object"),
    "object.json": ('{"prompt": "a"}', "holds one object; expected a list"),
    "cells.csv": ("prompt,answer\na,1\nb\n", "line 3: 1 cells under 2 columns"),
    "twice.csv": ("prompt,prompt\na,b\n", "line 1: two columns have the same name"),
    "quote.csv": ('prompt\n"never closed\n', "not CSV"),
    "notes.txt": ("hello", "is none of .jsonl, .json, .csv, .parquet"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_with_the_place(name, tmp_path):
    content, message = BAD_FILES[name]
    cfg = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        list(sources.read(cfg))
    assert message in str(error.value) and name in str(error.value)


def test_a_missing_file_and_no_file(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*gone\.jsonl"):
        next(sources.read(Data(name="test", path=str(tmp_path / "gone.jsonl"))))
    with pytest.raises(DataError, match=r"data\.path is not set"):
        next(sources.read(Data(name="test")))


def folder(tmp_path: Path, **files: int) -> Data:
    """A folder of .jsonl files with so many rows each; the names' underscores become slashes."""
    for name, count in files.items():
        path = tmp_path / f"{name.replace('_', '/')}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(json.dumps({"prompt": f"{name} {i}"}) for i in range(count)))
    return Data(name="test", path=str(tmp_path))


def prompts(cfg: Data, **changes) -> list[str]:
    return [row["prompt"] for _, row in sources.read(replace(cfg, **changes))]


def test_files_of_a_folder_are_read_one_after_the_other(tmp_path):
    cfg = folder(tmp_path, b=1, a=2, sub_c=1)
    assert prompts(cfg) == ["a 0", "a 1", "b 0", "sub_c 0"]
    assert [str(number) for number, _ in sources.read(cfg)][-2:] == ["1 of b.jsonl", "1 of sub/c.jsonl"]


def test_splits_of_a_folder_are_words_of_names(tmp_path):
    cfg = folder(tmp_path, **{"train-1": 1, "data_train-2": 1, "test_x": 1, "dev": 1, "notes": 1})
    assert prompts(cfg) == ["data_train-2 0", "train-1 0"]
    assert prompts(cfg, split="test") == ["test_x 0"]
    assert prompts(cfg, split="validation") == ["dev 0"]
    with pytest.raises(DataError, match=r"no file of the split tset \(data\.split\); its data files are: data/train-2"):
        prompts(cfg, split="tset")


def test_the_card_of_a_folder_has_the_last_word(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    cfg = folder(tmp_path / "acme", one=1, two=2)
    card = "---\nconfigs:\n- config_name: x\n  data_files: [{split: odd, path: two.jsonl}]\n---\n"
    (tmp_path / "acme" / "README.md").write_text(card)
    assert prompts(cfg, split="odd") == ["two 0", "two 1"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:3]", [0, 1, 2]),
        ("train[7:]", [7, 8, 9]),
        ("train[20%:40%]", [2, 3]),
        ("train[-2:]", [8, 9]),
        ("train[:-8]", [0, 1]),
    ],
)
def test_parts_of_a_split(tmp_path, split, expected):
    cfg = folder(tmp_path, rows=10)
    file = replace(cfg, path=str(tmp_path / "rows.jsonl"))
    for source in (cfg, file):
        assert prompts(source, split=split) == [f"rows {i}" for i in expected]
    assert [int(number) for number, _ in sources.read(replace(file, split=split))] == [i + 1 for i in expected]


def test_a_part_without_rows_is_named(tmp_path):
    cfg = write(tmp_path / "a.jsonl", '{"prompt": "a"}')
    with pytest.raises(DataError, match=r"a\.jsonl has no rows in data\.split=train\[5:\]"):
        list(sources.read(replace(cfg, split="train[5:]")))


def test_a_split_that_is_none(tmp_path):
    folder(tmp_path, rows=1)
    with pytest.raises(DataError, match=r"data\.split='train\[x\]' is no split"):
        prompts(Data(name="test", path=str(tmp_path / "rows.jsonl")), split="train[x]")


def test_a_saved_dataset(tmp_path):
    from datasets import Dataset, DatasetDict

    saved = Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one")
    DatasetDict({"train": saved, "test": saved.select([1])}).save_to_disk(tmp_path / "both")
    one, both = (Data(name="test", path=str(tmp_path / name)) for name in ("one", "both"))
    assert list(sources.read(one)) == list(sources.read(both)) == [(1, ROWS[0]), (2, ROWS[1])]
    assert prompts(both, split="test") == ["zwölf, 12"]
    assert prompts(one, split="train[1:]") == ["zwölf, 12"]
    with pytest.raises(DataError, match=r"no split dev \(data\.split\); it has: train, test"):
        prompts(both, split="dev")


def test_a_column_longer_than_csv_allows_by_itself(tmp_path):
    (row,) = sources.read(write(tmp_path / "a.csv", f"prompt\n{'x' * 200_000}\n"))
    assert len(row[1]["prompt"]) == 200_000


def test_toy_letters_are_equally_frequent():
    rows = list(sources.read(ToyData(name="toy", rows=6, letters=3)))
    assert [row["prompt"] for _, row in rows] == list("abcabc")
    assert all(row["label"] == row["prompt"] for _, row in rows)

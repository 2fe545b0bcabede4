"""Every kind of file, and what is said about broken ones."""

import json
from pathlib import Path

import pytest

from rlhf_hydra.config.schema import Data, ToyData
from rlhf_hydra.data import sources
from rlhf_hydra.data.sources import DataError

ROWS = [{"prompt": "one", "answer": "1"}, {"prompt": "zwölf, 12", "answer": "12"}]


def write(path: Path, content: str | bytes) -> Data:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Data(name="test", path=str(path))


def parquet(path: Path, rows: list[dict]) -> Data:
    import pyarrow as arrow
    import pyarrow.parquet

    arrow.parquet.write_table(arrow.Table.from_pylist(rows), path)
    return Data(name="test", path=str(path))


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    files = [
        write(tmp_path / "a.jsonl", "\n".join(lines)),
        write(tmp_path / "a.json", json.dumps(ROWS)),
        write(tmp_path / "a.csv", 'prompt,answer\none,1\n"zwölf, 12",12\n'),
        parquet(tmp_path / "a.parquet", ROWS),
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


def test_a_folder_is_read_like_a_dataset_of_a_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "acme"
    folder.mkdir()
    write(folder / "train.jsonl", "\n".join(map(json.dumps, ROWS)))
    cfg = Data(name="test", path=str(folder))
    assert list(sources.read(cfg)) == [(1, ROWS[0]), (2, ROWS[1])]
    cfg.split = "tset"
    with pytest.raises(DataError, match=r"acme\[tset\].*tset.*\n.*data\.split"):
        next(sources.read(cfg))


def test_toy_letters_are_equally_frequent():
    rows = list(sources.read(ToyData(name="toy", rows=6, letters=3)))
    assert [row["prompt"] for _, row in rows] == list("abcabc")
    assert all(row["label"] == row["prompt"] for _, row in rows)

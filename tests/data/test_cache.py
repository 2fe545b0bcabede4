"""Tokens are made once: the second run maps them, and whatever decides them makes others."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from letters import CHAT, letters

from rlhf_hydra.config import schema
from rlhf_hydra.config.schema import Data, ToyData
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.report import unsaid
from rlhf_hydra.data.store import CHUNK, cache_folder, cached

SFT = schema.SFT(name="sft")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    write(path, 5)
    return path


def write(path: Path, n: int) -> None:
    path.write_text("\n".join(json.dumps({"prompt": "ab", "r": "cdef"[: 1 + i % 4]}) for i in range(n)))


def load(path: Path, algo: Any = SFT, tokenizer: Any = None, **keys: Any):
    cache, note = keys.pop("cache", path.parent / "cache"), keys.pop("note", unsaid)
    cfg = Data(**{"name": "x", "path": str(path), "response_column": "r", **keys})
    return load_examples(cfg, algo, tokenizer or letters(CHAT), 100, cache=cache, note=note)


def made(path: Path) -> set[str]:
    return {folder.name for folder in (path.parent / "cache").iterdir() if folder.is_dir()}


def test_the_second_run_maps_what_the_first_one_made(rows):
    first, told = load(rows)
    second, told_again = load(rows)
    assert "cache" not in str(told)
    assert f"tokens are from the cache, {rows.parent / 'cache'}" in str(told_again)
    assert (told_again.read, told_again.used, told_again.fingerprint) == (5, 5, told.fingerprint)
    assert isinstance(second.parts[0].tokens, np.memmap)
    for a, b in zip(vars(first.parts[0]).values(), vars(second.parts[0]).values(), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert first.lengths == second.lengths and first.fingerprint == second.fingerprint


def test_in_memory_it_is_the_same(rows):
    cfg = Data(name="x", path=str(rows), response_column="r")
    without, told = load_examples(cfg, SFT, letters(CHAT), 100)
    with_cache, _ = load(rows)
    assert without.fingerprint == with_cache.fingerprint == told.fingerprint
    assert torch.equal(without.batch(range(5)).tokens, with_cache.batch(range(5)).tokens)


def test_steps_and_labels_are_kept(tmp_path):
    for algo in (schema.PRM(name="prm"), schema.KTO(name="kto")):
        loaded = [
            load_examples(ToyData(name="toy"), algo, letters(), 100, cache=cache)[0].batch(range(40))
            for cache in (None, tmp_path, tmp_path)
        ]
        for batch in loaded[1:]:
            assert torch.equal(batch.labels, loaded[0].labels)
            assert (batch.step_labels is None) == (algo.name == "kto")
            assert batch.step_labels is None or torch.equal(batch.step_labels, loaded[0].step_labels)


def test_more_rows_than_are_held_in_memory(tmp_path):
    path = tmp_path / "rows.jsonl"
    write(path, 2 * CHUNK + 3)
    examples, _ = load(path)
    assert examples.lengths == [4 + 1 + i % 4 for i in range(2 * CHUNK + 3)]  # BOS a b | c.. EOS
    assert examples.batch([2 * CHUNK + 2]).tokens.tolist() == [[0, 4, 5, 6, 7, 8, 1]]


def test_what_decides_the_tokens_makes_others(rows):
    ways: list[dict[str, Any]] = [
        {},
        {"template": "x{prompt}"},
        {"chat": True},
        {"chat": True, "tokenizer": letters(CHAT.replace(":", "?"))},
        {"chat": True, "system": "be"},
        {"algo": schema.SFT(name="sft", learn="all")},
        {"max_tokens": 5},
        {"limit": 2},
        {"split": "train[:3]"},
        {"tokenizer": letters(CHAT, bos=False)},
        {"strict": True},
    ]
    for count, keys in enumerate(ways, start=1):
        load(rows, **keys)
        assert len(made(rows)) == count, keys
    load(rows, name="other", weight=2.0, rule="math")  # which play no role for them
    assert len(made(rows)) == len(ways)


def test_other_content_is_other_tokens_even_under_the_same_name(rows):
    load(rows)
    write(rows, 6)
    assert load(rows)[1].used == 6
    write(rows, 5)
    os.utime(rows, ns=(1, 1))  # another time, the same content
    assert "from the cache" in str(load(rows)[1])


def test_the_same_rows_elsewhere_are_the_same_tokens(rows):
    load(rows)
    other = rows.parent / "copy" / "other.jsonl"
    other.parent.mkdir()
    other.write_bytes(rows.read_bytes())
    told = str(load(other, cache=rows.parent / "cache", hub="modelscope")[1])
    assert told.startswith(f"{other}: 5 of 5") and "from the cache" in told


def test_a_folder_that_was_not_finished_is_made_anew(rows):
    load(rows)
    (name,) = made(rows)
    folder = rows.parent / "cache" / name
    (folder / "report.json").unlink()
    folder.rename(folder.with_name(f"{name}.part"))
    assert "from the cache" not in str(load(rows)[1])
    assert made(rows) == {name}


def test_what_fails_leaves_nothing(rows):
    rows.write_text('{"prompt": "a", "r": "b"}\n{"prompt": ')
    with pytest.raises(DataError, match="line 2"):
        load(rows)
    assert made(rows) == set()


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(rows):
    with pytest.raises(DataError, match=r"rows\.jsonl/cache, cannot be written: .*; set XDG_CACHE_HOME"):
        load(rows, cache=rows / "cache")  # below a file


def test_a_full_disk_leaves_nothing(tmp_path):
    def make(folder):
        (folder / "tokens.npy").write_bytes(b"some")
        Path("/dev/full").write_text("x")

    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        cached(tmp_path, "key", make)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


def test_a_cache_is_read_where_nothing_can_be_noted_down(rows):
    load(rows)
    known = rows.parent / "cache" / "known.json"
    known.unlink()
    known.mkdir()
    assert "from the cache" in str(load(rows)[1])


def test_who_waits_for_another_process_says_so(rows):
    load(rows)
    (name,) = made(rows)
    (rows.parent / "cache" / name / "report.json").unlink()
    lock, said = FileLock(rows.parent / "cache" / f"{name}.lock"), []

    def note(text):
        said.append(text)
        lock.release()

    lock.acquire()
    load(rows, note=note)
    assert said == ["another process makes these tokens; waiting for it"]


def test_a_report_says_again_what_was_dropped(rows):
    rows.write_text('{"prompt": "a", "r": "b"}\n{"prompt": "a", "r": ""}')
    assert [str(load(rows)[1]).splitlines()[1] for _ in "ab"] == ["  dropped 1: column `r` is empty (first: row 2)"] * 2


def test_the_cache_is_the_users(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/rlhf_hydra/tokens")

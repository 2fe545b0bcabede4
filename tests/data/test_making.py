"""Rows are made into tokens by one process or by many, and nobody can tell."""

from driving import processes_with
from letters import CHAT, letters

from rlhf_hydra.config.schema import KTO, Data
from rlhf_hydra.data.making import CHUNK, Maker, spread, tried
from rlhf_hydra.data.report import Progress

NEVER = 1e9


def rows(count):
    """Pairs that are taken apart; every seventh is none, every tenth is cut."""
    for i in range(count):
        rejected = "b" if i % 7 == 0 else "c" * (60 if i % 10 == 0 else 1 + i % 5)
        yield i + 1, {"prompt": "hi", "chosen": "b", "rejected": rejected}


def test_other_processes_make_the_same_and_end(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_HYDRA_TEST", str(tmp_path))
    cfg = Data(name="x", path="x.jsonl", chat=True, overlong="cut")
    make, count = Maker(cfg, KTO(name="kto"), letters(CHAT), 40), 4 * CHUNK + 5
    alone = list(tried(rows(count), make, NEVER))
    shared = list(spread(rows(count), make, 2))
    for one, other in zip(alone, shared, strict=True):
        assert (one.number, one.items, str(one.bad)) == (other.number, other.items, str(other.bad))
    assert sum(row.bad is not None for row in alone) == 1 + (count - 1) // 7
    assert any(line.cut for row in alone for example in row.items for line in example)
    half = spread(rows(count), make, 2)
    assert next(half).number == 1
    half.close()
    assert processes_with(f"RLHF_HYDRA_TEST={tmp_path}", patience_s=0) == []


def test_long_readings_say_how_far_they_are():
    said = []
    progress = Progress("rows.jsonl", said.append)
    progress.at(1)
    assert said == []
    progress.began, progress.due = progress.began - 10, 0
    progress.at(2000)
    progress.at(2001)
    assert said == ["rows.jsonl: 2,000 rows in 10 s, 200 rows/s"]

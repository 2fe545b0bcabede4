"""Datasets of both hubs, through the real clients, from a server on loopback."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Files, ask, serving

ROWS = b"".join(json.dumps({"prompt": "ab", "response": "abcd"[: 1 + i % 4]}).encode() + b"\n" for i in range(20))
SHORT = b"".join(ROWS.splitlines(keepends=True)[:3])
CARD = b"""---
configs:
- config_name: main
  data_files: [{split: train, path: main/train.jsonl}]
- config_name: other
  data_files: [{split: train, path: other/train.jsonl}]
---
"""
REPOS: dict[str, Files] = {
    "datasets/team/rows": {"README.md": b"# rows\n", "train.jsonl": ROWS, "test.jsonl": SHORT},
    "datasets/team/subsets": {"README.md": CARD, "main/train.jsonl": ROWS, "other/train.jsonl": SHORT},
    "datasets/team/broken": {"train.jsonl": ROWS + b'{"prompt": "ab'},
    "datasets/team/packed": {
        "a-train.jsonl.gz": gzip.compress(ROWS),
        "b-train.jsonl.gz": gzip.compress(SHORT),
    },
    "datasets/team/corrupt": {"train.jsonl": ROWS},
}
CHILD = """
import json, sys
from pathlib import Path
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import SFT, Data
from rlhf_hydra.data import sources
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.models.tiny import letter_tokenizer

def told(call, keys):
    data = Data(name="x", hub=HUB, response_column="response", **keys)
    try:
        return call(data)
    except Failure as failure:
        return str(failure)

def rows(**keys):
    return told(lambda data: [number for number, _ in sources.read(data)], keys)

def load(**keys):
    return told(lambda data: str(load_examples(data, SFT(name="sft"), letter_tokenizer(), 64, cache=CACHE)[1]), keys)

HUB, CACHE = sys.stdin.readline().strip(), Path(sys.stdin.readline().strip())
print(json.dumps([eval(line) for line in sys.stdin]))
"""
HUBS = ["huggingface", "modelscope"]


def told(server: Any, home: Path, hub: str, *lines: str) -> list[Any]:
    done = ask(server, home, CHILD, "\n".join([hub, str(home / "tokens"), *lines]))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=HUBS)
def visited(request, tmp_path_factory):
    """What a process finds on a hub that is busy at first, what was sent to it, and what the next one finds when the
    hub has gone."""
    home = tmp_path_factory.mktemp(request.param)
    with serving(REPOS) as server:
        server.trouble["train.jsonl"] = ["503"]
        server.refused["datasets/team/gated"] = 403
        found = told(
            server,
            home,
            request.param,
            "rows(path='team/rows')",
            "rows(path='team/rows', split='test')",
            "rows(path='team/rows', split='train[:10%]')",
            "rows(path='team/rows', split='train[5:8]', streaming=True)",
            "rows(path='team/rows', split='train[:10%]', streaming=True)",
            "rows(path='team/rows', streaming=True, limit=4)",
            "rows(path='team/subsets', subset='other')",
            "rows(path='team/subsets', subset='none')",
            "rows(path='team/rows', split='none')",
            "rows(path='team/none')",
            "rows(path='team/broken')",
            "load(path='team/rows')",
            "load(path='team/rows')",
            "rows(path='team/gated')",
            "rows(path='team/packed')",
        )
        sent = list(server.sent)
    return found, sent, told(server, home, request.param, "rows(path='team/rows')", "load(path='team/rows')")


def test_splits_slices_subsets_and_streams(visited, request):
    found, _, _ = visited
    hub = request.node.callspec.params["visited"]
    assert [len(rows) for rows in found[:4]] == [20, 3, 2, 3]
    assert found[3] == [6, 7, 8]
    # ModelScope's datasets are files here before their rows are read, so they can be counted.
    assert found[4] == [1, 2] if hub == "modelscope" else "the number of rows is not known" in found[4]
    assert found[5] == [1, 2, 3, 4]
    assert len(found[6]) == 3


def test_what_is_not_there_is_named(visited):
    found, _, _ = visited
    assert "team/subsets/none" in found[7] and "check data.path, data.subset, data.split, the network" in found[7]
    assert "team/rows[none]" in found[8] or "no file of the split none (data.split)" in found[8]
    assert "team/none" in found[9] and "check data.path" in found[9]
    assert "team/broken" in found[10] or "train.jsonl, line 21, character 12: not JSON" in found[10]


def test_a_gated_set_asks_for_the_token(visited):
    found, _, _ = visited
    assert "team/gated" in found[13] and "403" in found[13] and "for gated data, your token" in found[13]
    assert TOKEN not in str(found)


def test_compressed_files_are_one_set(visited):
    """As those of helpful and harmless are."""
    found, _, _ = visited
    assert len(found[14]) == 23


def test_files_are_fetched_once(visited):
    _, sent, _ = visited
    assert sent.count("test.jsonl") == 1


def test_tokens_come_from_the_cache_the_second_time(visited):
    found, _, _ = visited
    assert "20 of 20 examples" in found[11] and "from the cache" not in found[11]
    assert "20 of 20 examples" in found[12] and "tokens are from the cache" in found[12]


def test_a_hub_that_is_gone_is_not_missed(visited):
    _, _, (rows, loaded) = visited
    assert len(rows) == 20
    assert "tokens are from the cache" in loaded


@pytest.mark.parametrize("hub", HUBS)
def test_a_wrong_checksum_is_refused(hub, tmp_path):
    ask_for = "rows(path='team/corrupt')"
    with serving(REPOS) as server:
        server.trouble["train.jsonl"] = ["corrupt"] * (
            1 if hub == "huggingface" else 3
        )  # ModelScope's client tries thrice
        refused, again = told(server, tmp_path, hub, ask_for, ask_for)
    assert "cannot load" in refused and "team/corrupt" in refused
    assert "checksum" in refused or "Hash mismatch" in refused or "failed to download" in refused
    assert len(again) == 20

"""Models of both hubs, through the real clients, from a server on loopback; and folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Files, ask, serving

from rlhf_hydra.models.hub import ModelNotFound, resolve, verify

SMALL: Files = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 400,
    "pytorch_model.bin": b"a pickle",
}
LARGE: Files = {"config.json": SMALL["config.json"], "large.safetensors": bytes(22 << 20)}
"""Hugging Face's client writes to disk every 10 MiB: a download that is cut at 11 MiB goes on at 10."""
REPOS = {"models/team/small": SMALL, "models/team/large": LARGE, "models/team/corrupt": SMALL}
CHILD = """
import json, os, sys
from rlhf_hydra.models import hub

def told(path):
    if path == "offline":
        os.environ["HF_HUB_OFFLINE"] = "1"
        return
    try:
        return hub.resolve(path, which, revision)
    except hub.ModelNotFound as error:
        return str(error)

which, revision = sys.stdin.readline().strip(), sys.stdin.readline().strip() or None
print(json.dumps([told(line.strip()) for line in sys.stdin]))
"""
HUBS = ["huggingface", "modelscope"]


def told(server: Any, home: Path, hub: str, *paths: str, revision: str = "") -> list[str]:
    done = ask(server, home, CHILD, "\n".join([hub, revision, *paths]))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def files_in(folder: str) -> Files:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if not path.name.startswith(".")}


def without_pickles(files: Files) -> Files:
    return {name: data for name, data in files.items() if not name.endswith(".bin")}


@pytest.fixture(scope="module", params=HUBS)
def hub(request):
    return request.param


def test_busy_known_cut_and_gone(hub, tmp_path):
    """One process after the other, since each takes seconds to start."""
    with serving(REPOS) as server:
        server.trouble |= {"model.safetensors": ["503"], "large.safetensors": ["cut"]}
        server.refused["models/team/gated"] = 403
        ids = ["small", "small", "large", "other", "gated"]
        first, second, large, unknown, gated = told(
            server, tmp_path, hub, *(f"team/{name}" for name in ids), revision="v1"
        )
        sent, asked = list(server.sent), list(server.ranges)

    # Busy at first, and asked again; no file twice, and never a pickle.
    assert files_in(first) == without_pickles(SMALL)
    assert second == first
    assert sent.count("model.safetensors") == 1

    # Cut in half: the second request begins where the first ended.
    assert files_in(large) == LARGE
    start = 10 << 20 if hub == "huggingface" else 11 << 20
    assert asked == [f"large.safetensors bytes={start}-"]

    assert f"model.path: team/other is no local folder, and {hub} gave none" in unknown
    assert "check the id, the hub, the network" in unknown
    assert "team/gated" in gated and "403" in gated and "for gated models, your token" in gated
    kept_files = (path for path in tmp_path.rglob("*") if path.is_file())
    assert not any(TOKEN in text for text in (unknown, gated, *(path.read_text("latin-1") for path in kept_files)))

    # The hub is gone: a copy that is complete will do, and an unknown id is still an error.
    kept, none = told(server, tmp_path, hub, "team/small", "team/other", revision="v1")
    assert kept == first
    assert "gave none" in none


def test_a_wrong_checksum_is_refused(hub, tmp_path):
    """Hugging Face's client compares sizes only, ModelScope's tries three times."""
    with serving(REPOS) as server:
        server.trouble["model.safetensors"] = ["corrupt"] * (1 if hub == "huggingface" else 3)
        refused, again = told(server, tmp_path, hub, "team/corrupt", "team/corrupt")
    assert "checksum" in refused or "Hash mismatch" in refused
    assert files_in(again) == without_pickles(SMALL)


def test_offline_modelscope_is_not_asked(tmp_path):
    """As Hugging Face is not: its own client sees to that."""
    with serving(REPOS) as server:
        _, none = told(server, tmp_path, "modelscope", "offline", "team/small")
        assert "gave none" in none and server.log == []


def test_a_cache_that_is_only_read_is_taken_as_it_is(tmp_path):
    """Nothing was downloaded into it, and that it was compared cannot be noted down."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ("0" * 64)).write_text("another checksum")
    (tmp_path / ".verified").write_text("in the way of a folder")
    verify(tmp_path)
    (tmp_path / ".verified").unlink()
    with pytest.raises(OSError, match="has not the checksum"):
        verify(tmp_path)


# ------------------------------------------------------------------------------------------------------------ folders


def test_a_folder_is_itself(tiny):
    assert resolve(tiny) == tiny


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_missing_folder_is_no_hub_id(path):
    with pytest.raises(ModelNotFound, match=f"model.path: there is no folder {path}"):
        resolve(path)
    with pytest.raises(ModelNotFound, match=f"reward.path: there is no folder {path}"):
        resolve(path, key="reward.path")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("adapter_config.json", "holds adapters, and not the model that they belong to; give the merged model"),
        ("model/config.json", "holds no model: it has no config.json; there is .*/model"),
        ("README.md", "holds no model: it has no config.json$"),
    ],
)
def test_a_folder_without_a_model_is_refused(tmp_path, file, says):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    with pytest.raises(ModelNotFound, match=f"{tmp_path} {says}"):
        resolve(str(tmp_path))


def test_where_tiny_cannot_be_built_the_way_out_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelNotFound, match=r"model\.path: builtin:tiny is made in the cache.*; set XDG_CACHE_HOME"):
        resolve("builtin:tiny")


def test_tiny_is_built_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = resolve("builtin:tiny")
    built = sorted((tmp_path / "rlhf_hydra").iterdir())
    assert [str(path) for path in built] == [folder]
    assert resolve("builtin:tiny") == folder
    assert sorted((tmp_path / "rlhf_hydra").iterdir()) == built

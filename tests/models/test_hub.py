import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from rlhf_hydra.models.hub import ModelNotFound, resolve

FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights", "pytorch_model.bin": b"a pickle"}
COMMIT = "1" * 40


class Hub(BaseHTTPRequestHandler):
    """What the Hugging Face client asks of a hub, for the one model `team/small`."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        name = path.rpartition("/")[2]
        if path == "/api/models/team/small/revision/v1":
            self._send(json.dumps({"id": "team/small", "sha": COMMIT, "siblings": [{"rfilename": f} for f in FILES]}))
        elif path.startswith(f"/api/models/team/small/tree/{COMMIT}"):
            files = [{"type": "file", "path": f, "size": len(d), "oid": sha(d)} for f, d in FILES.items()]
            self._send(json.dumps(files))
        elif path == f"/team/small/resolve/{COMMIT}/{name}" and name in FILES:
            self._send(FILES[name], {"ETag": f'"{sha(FILES[name])}"', "X-Repo-Commit": COMMIT})
        else:
            self._send("{}", {"X-Error-Code": "RepoNotFound"}, 404)

    def _send(self, body, headers=None, status=200):
        data = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def sha(data):
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def ask(endpoint, home, path):
    """In a process of its own: the client reads its settings when it is imported."""
    code = "import sys; from rlhf_hydra.models.hub import resolve; print(resolve(sys.argv[1], revision='v1'))"
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", code, path], env=env, capture_output=True, text=True, timeout=120)


def test_a_folder_is_itself(tiny):
    assert resolve(tiny) == tiny


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_missing_folder_is_no_hub_id(path):
    with pytest.raises(ModelNotFound, match=f"model.path: there is no folder {path}"):
        resolve(path)


def test_tiny_is_built_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = resolve("builtin:tiny")
    built = sorted((tmp_path / "rlhf_hydra").iterdir())
    assert [str(path) for path in built] == [folder]
    assert resolve("builtin:tiny") == folder
    assert sorted((tmp_path / "rlhf_hydra").iterdir()) == built


def test_a_hub_id_is_fetched_without_pickles(tmp_path):
    with serving() as endpoint:
        done = ask(endpoint, tmp_path, "team/small")
    assert done.returncode == 0, done.stderr[-2000:]
    found = {path.name: path.read_bytes() for path in Path(done.stdout.strip()).iterdir()}
    assert found == {name: data for name, data in FILES.items() if not name.endswith(".bin")}


def test_an_unknown_id_names_the_hub_and_the_way_out(tmp_path):
    with serving() as endpoint:
        done = ask(endpoint, tmp_path, "team/other")
    assert "ModelNotFound: model.path: team/other is no local folder, and huggingface gave none" in done.stderr
    assert "check the id, model.hub, the network" in done.stderr

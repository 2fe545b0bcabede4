"""A hub on loopback: what the real clients of Hugging Face and ModelScope ask for models and datasets, and trouble."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "1" * 40
TOKEN = f"hf_{'secret' * 6}"
"""Of the clients: it must be in no message and no file."""
LARGE = (".safetensors", ".parquet", ".jsonl")
"""Files that Hugging Face keeps apart (LFS) and names by SHA-256."""
Files = dict[str, bytes]


class Server(ThreadingHTTPServer):
    """`repos`: the files of `models/team/small` or `datasets/team/rows`, by path. `trouble`: what happens to the next
    GETs of a file, by its path: `503`, `cut` in half, or `corrupt`. `refused`: the status that is all a repo answers.
    `log`: what was asked, and Range headers."""

    daemon_threads = True

    def __init__(self, repos: dict[str, Files]) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.repos, self.log = repos, list[str]()
        self.trouble: dict[str, list[str]] = {}
        self.refused: dict[str, int] = {}
        self.sent: list[str] = []
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(repos: dict[str, Files]) -> Iterator[Server]:
    server = Server(repos)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def do_GET(self) -> None:
        url = urlparse(self.path)
        path, query = unquote(url.path), {key: values[0] for key, values in parse_qs(url.query).items()}
        self.server.log.append(f"{self.command} {path}")
        for pattern, answer in ROUTES:
            if match := re.fullmatch(pattern, path):
                kind = (match["kind"] or "models").strip("/")
                if status := self.server.refused.get(f"{kind}/{match['repo']}"):
                    return self.json({"Message": "no"}, status, {"X-Error-Code": "GatedRepo"} if status == 403 else {})
                files = self.server.repos.get(f"{kind}/{match['repo']}")
                return self.missing("RepoNotFound") if files is None else answer(self, files, match, query)
        self.missing("EntryNotFound")

    # ------------------------------------------------------------------------------------------------ hugging face

    def info(self, files: Files, match: re.Match[str], _: dict[str, str]) -> None:
        siblings = [{"rfilename": name} for name in files]
        self.json({"_id": "1", "id": match["repo"], "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})

    def tree(self, files: Files, match: re.Match[str], _: dict[str, str]) -> None:
        under = (match["under"] or "").strip("/")
        self.json([entry(name, data) for name, data in files.items() if name.startswith(under)])

    def paths_info(self, files: Files, _: re.Match[str], __: dict[str, str]) -> None:
        text = self.body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        self.json([entry(name, data) for name, data in files.items() if name in wanted])

    def resolve(self, files: Files, match: re.Match[str], _: dict[str, str]) -> None:
        if match["file"] not in files:
            return self.missing("EntryNotFound")
        data = files[match["file"]]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha(data)}"'}
        if match["file"].endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        self.file(match["file"], data, headers)

    # -------------------------------------------------------------------------------------------------- modelscope

    def listing(self, files: Files, _: re.Match[str], query: dict[str, str]) -> None:
        rows = [
            {"Name": Path(name).name, "Path": name, "Type": "blob", "Size": len(data), "Sha256": sha256(data)}
            | {"Revision": COMMIT, "CommittedDate": 1, "IsLFS": False, "Id": git_sha(data)}
            for name, data in files.items()
        ]
        page, size = int(query.get("PageNumber", 1)), int(query.get("PageSize", 200))
        found = {"Files": rows[(page - 1) * size : page * size], "TotalCount": len(rows)}
        self.json({"Code": 200, "Success": True, "Message": "success", "RequestId": "1", "Data": found})

    def download(self, files: Files, _: re.Match[str], query: dict[str, str]) -> None:
        name = query["FilePath"]
        return self.file(name, files[name], {}) if name in files else self.missing("EntryNotFound")

    # ----------------------------------------------------------------------------------------------------- answers

    def file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        trouble = self.server.trouble.get(name, []) if self.command == "GET" else []
        what = trouble.pop(0) if trouble else ""
        if what == "503":
            return self.json({"error": "busy"}, status=503)
        if what == "corrupt":
            data = data[:12] + bytes([data[12] ^ 1]) + data[13:]  # inside a text of the rows
        start, size, status = 0, len(data), 200
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end, status = int(match[1]), int(match[2] or size - 1), 206
            headers = headers | {"Content-Range": f"bytes {start}-{end}/{size}"}
            self.server.ranges.append(f"{name} {match[0]}")
            data = data[: end + 1]
        if self.command == "GET":
            self.server.sent.append(name)
        data = data[start:]
        self.send(data, {"Accept-Ranges": "bytes", **headers}, status, cut=what == "cut")

    def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}, status)

    def missing(self, code: str) -> None:
        says = {"Code": 10010205001, "Message": "not found", "Success": False, "error": "not found"}
        self.json(says, 404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})

    def send(self, data: bytes, headers: dict[str, str], status: int, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


KIND = "(?P<kind>models|datasets)"
REPO = "(?P<repo>[^/]+/[^/]+)"
ROUTES = [
    (rf"/api/v1/{KIND}/{REPO}/repo/(?:files|tree)", Hub.listing),
    (rf"/api/v1/{KIND}/{REPO}/repo", Hub.download),
    (rf"/api/{KIND}/{REPO}(?:/revision/[^/]+)?", Hub.info),
    (rf"/api/{KIND}/{REPO}/tree/[^/]+(?P<under>/.*)?", Hub.tree),
    (rf"/api/{KIND}/{REPO}/paths-info/[^/]+", Hub.paths_info),
    (rf"/(?P<kind>datasets/)?{REPO}/resolve/[^/]+/(?P<file>.+)", Hub.resolve),
]


def entry(name: str, data: bytes) -> dict[str, Any]:
    found = {"type": "file", "path": name, "size": len(data), "oid": git_sha(data)}
    large = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
    return found | ({"lfs": large} if name.endswith(LARGE) else {})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


BRISK = "import time\nsleep = time.sleep\ntime.sleep = lambda seconds: sleep(min(seconds, 0.05))\n"
"""Clients wait for up to half a minute before they no longer ask."""


def ask(server: Server, home: Path, code: str, lines: str = "") -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own, since a client reads its settings when it is imported."""
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    env = {key: value for key, value in os.environ.items() if key not in unset}
    env |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home / "hf"), "MODELSCOPE_ENDPOINT": server.url}
    env |= {"HF_TOKEN": TOKEN, "MODELSCOPE_API_TOKEN": TOKEN, "MODELSCOPE_CACHE": str(home / "ms")}
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", BRISK + code]
    return subprocess.run(command, env=env, input=lines, capture_output=True, text=True, timeout=300)

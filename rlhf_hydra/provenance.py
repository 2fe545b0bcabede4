"""`provenance.json`: what decides a run besides its config, and where it ran. Takes a tenth of a second."""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_hydra.config.saved import words_of
from rlhf_hydra.config.schema import Model, RunConfig, Section
from rlhf_hydra.config.secrets import redacted

FILE = "provenance.json"
DIFF = "code.diff"
LARGEST_DIFF = 1_000_000
"""Bytes."""
ROOT = Path(__file__).resolve().parents[1]

Record = dict[str, Any]


def write(folder: Path, run: RunConfig, words: str, asked: Mapping[str, Any]) -> None:
    """Record the run that begins in `folder`; where it goes on, what is no longer as it was at the beginning.

    `words` is its command line, `asked` the keys that were left to be resolved, with what was asked for.
    """
    record, diff = gather(run, words, asked)
    if first := read(folder):
        changed = {key: value for key, value in record.items() if key != "asked" and first.get(key) != value}
        when = datetime.now(UTC).isoformat(timespec="seconds")
        save(folder, {**first, "resumed": [*first.get("resumed", []), {"at": when, **changed}]})
        return
    save(folder, record)
    if diff and len(diff) < LARGEST_DIFF:
        (folder / DIFF).write_text(redacted(diff))


def add(folder: Path, **parts: Any) -> None:
    """Fill in what is known later, such as `data` and `model`; a resumed run must not change what the first wrote."""
    save(folder, {**read(folder), **{key: part for key, part in parts.items() if key not in read(folder)}})


def read(folder: Path) -> Record:
    """The record of a run; empty if there is none."""
    file = folder / FILE
    return json.loads(file.read_text()) if file.exists() else {}


def save(folder: Path, record: Record) -> None:
    aside = folder / f".{FILE}.part"
    aside.write_text(redacted(json.dumps(record, indent=1, ensure_ascii=False)) + "\n")
    aside.replace(folder / FILE)


def gather(run: RunConfig, words: str, asked: Mapping[str, Any]) -> tuple[Record, str]:
    """The record, and the difference of the code from its commit."""
    commit, diff = code()
    record: Record = {
        "command": words,
        "overrides": words_of(words)[1],
        "directory": str(Path.cwd()),
        "asked": dict(asked),
        "commit": commit,
        "dirty": bool(diff),
        "diff_sha": digest(diff.encode()) if diff else None,
        "files": own_files(run),
        "seeds": {"seed": run.seed},
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
    }
    return record, diff


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------------------- code


def code() -> tuple[str | None, str]:
    """Commit of the checkout that this code lies in, and how the code differs from it; None and "" if installed."""
    if not (ROOT / ".git").exists():
        return None, ""
    commit = git("rev-parse", "--verify", "HEAD").strip() or None
    new = git("ls-files", "-z", "--others", "--exclude-standard", "--", "rlhf_hydra", "conf").split("\0")[:-1]
    diff = ("diff", "--no-color", "--no-ext-diff")
    parts = [git(*diff, "HEAD"), *(git(*diff, "--no-index", "--", os.devnull, name) for name in new)]
    return commit, "".join(parts)


def git(*words: str) -> str:
    """What git prints; nothing where it is not installed."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


def own_files(run: RunConfig) -> dict[str, str]:
    """Digest of each Python file that the config names, as `reward.path=score.py:score` does."""
    named = (match[1] for text in texts(run) if (match := re.fullmatch(r"(.+\.py):\w+", text)))
    files = {name: Path(name).expanduser() for name in named}
    return {name: digest(file.read_bytes()) for name, file in files.items() if file.is_file()}


def texts(value: Any) -> Iterator[str]:
    """Every text in a config."""
    if isinstance(value, Section):
        value = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            yield from texts(child)
    elif isinstance(value, str):
        yield value


# ------------------------------------------------------------------------------------------------ packages, machine


def packages() -> dict[str, str]:
    """Version of everything installed, read off the names of its folders: opening their files would take seconds."""
    found: dict[str, str] = {}
    for place in sys.path:
        for info in Path(place or ".").glob("*.dist-info"):
            name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
            found.setdefault(name.lower().replace("_", "-"), version)
    return dict(sorted(found.items()))


def hardware() -> Record:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {"cpu": cpu_name(), "cpus": cpus, "memory_gib": round(memory, 1), "gpus": gpu_names()}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return match[1] if match else platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """NVIDIA GPUs of this machine, as its driver lists them."""
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [match[1] for file in found if (match := re.search(r"Model:\s*(.+)", file.read_text()))]


# ---------------------------------------------------------------------------------------------------------- model


def model_record(cfg: Model, folder: str) -> Record:
    """Where the policy's start came from; the hubs name the folder of a download after its commit."""
    match = re.fullmatch(r"[0-9a-f]{40}", Path(folder).name)
    config = Path(folder) / "config.json"
    return {
        "path": cfg.path,
        "hub": None if cfg.path == "builtin:tiny" or Path(cfg.path).expanduser().is_dir() else cfg.hub,
        "revision": match[0] if match else cfg.revision,
        "config_sha": digest(config.read_bytes()) if config.is_file() else None,
    }

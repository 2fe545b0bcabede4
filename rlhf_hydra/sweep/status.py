"""How a trial is doing, as `status.json` in its folder."""

import json
import os
import signal
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from rlhf_hydra.config.failure import Failure

STATUS = "status.json"
OUTPUT = "output.log"
ATTEMPT = "--- attempt "
"""How the line in it begins with which an attempt begins."""

State = Literal["waiting", "queued", "running", "done", "failed", "killed", "stopped"]
"""queued: by Slurm. failed: it ended with an error. killed: by a signal, or because it hung. stopped: asked to end, its
state saved."""


@dataclass(frozen=True)
class Status:
    """Times are unix seconds."""

    state: State = "waiting"
    overrides: list[str] = field(default_factory=list)
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    heartbeat: float | None = None
    """When the sweep last saw it alive; an old one of a running trial means that the sweep itself has died."""
    pid: int | None = None
    job: str | None = None
    """By which Slurm knows it."""
    attempt: int = 0
    earlier_s: float = 0.0
    """Seconds that earlier attempts took."""
    detail: str = ""
    """Why it ended early: the last lines that it printed, or what the sweep had against it."""
    pruned: bool = False
    """Stopped for good, since others do better."""

    @property
    def is_final(self) -> bool:
        return self.state == "done" or self.pruned

    @property
    def seconds(self) -> float:
        """Of all attempts, until it was last seen alive."""
        until = self.ended or self.heartbeat
        return self.earlier_s + (until - self.started if until and self.started else 0.0)


def write(folder: Path, status: Status) -> None:
    """Whole or not at all: written aside, then renamed."""
    write_json(folder / STATUS, asdict(status))


def read(folder: Path) -> Status | None:
    """None if the folder has no trial. Failure if nobody can tell what became of it."""
    try:
        return Status(**json.loads((folder / STATUS).read_text()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise Failure(f"{folder / STATUS} cannot be read ({error}): remove it to run the trial again") from None


def write_json(path: Path, content: object) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(aside, path)


def outcome(code: int) -> State:
    """What the exit code of a trial means; -n: signal n ended it at once, 128 + n: it saved first."""
    if code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
        return "stopped"
    return "done" if code == 0 else "killed" if code < 0 else "failed"


def ended(status: Status, code: int, now: float, output: Path) -> Status:
    """`status` after its process has ended."""
    state = outcome(code)
    pruned = status.pruned and state != "done"
    detail = status.detail or ("" if state == "stopped" else last_lines(output))
    return replace(
        status,
        state="stopped" if pruned else state,
        exit_code=code,
        ended=now,
        heartbeat=now,
        pid=None,
        detail="" if state == "done" else detail,
        pruned=pruned,
    )


def last_lines(path: Path, count: int = 15, limit: int = 20_000) -> str:
    """The end of what the last attempt printed, without empty lines; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    last = next((n for n in range(len(lines), 0, -1) if lines[n - 1].startswith(ATTEMPT)), 0)
    return "\n".join([line.rstrip() for line in lines[last:] if line.strip()][-count:])

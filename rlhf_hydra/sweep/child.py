"""One trial's process: in a session of its own, so that it can be ended with all that it started."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf_hydra.sweep.status import ATTEMPT, OUTPUT


class Child:
    """Started at once; what it prints is added to `output.log`.

    Its standard input is a pipe that nobody writes to: it closes when this process ends, however it ends
    (`end_with_parent`).
    """

    def __init__(self, command: Sequence[str], folder: Path, env: Mapping[str, str], attempt: int) -> None:
        with (folder / OUTPUT).open("ab") as output:
            output.write(f"{ATTEMPT}{attempt}\n".encode())
            output.flush()
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def handle(self) -> dict[str, Any]:
        return {"pid": self.pid}

    def has_begun(self) -> bool:
        return True

    def poll(self) -> int | None:
        """The exit code once it has ended, negative for a signal; whatever it left behind is ended then."""
        code = self.process.poll()
        if code is not None:
            self.kill()
            assert self.process.stdin is not None
            self.process.stdin.close()
        return code

    def stop(self) -> None:
        """Ask it to save and end. Its own processes are not asked: they are its to end."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all of its processes at once."""
        kill_session(self.pid)

    def wait(self) -> int:
        return self.process.wait()


def kill_session(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def kill_orphan(pid: int, folder: Path) -> None:
    """End a trial that a sweep which died has left running, if `pid` is still that trial."""
    with suppress(OSError):
        if str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            kill_session(pid)


def end_with_parent() -> None:
    """Take the end of the sweep as a SIGTERM. Called by a trial, whose standard input is the sweep's pipe."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not through Python's buffer, whose lock a waiting thread would keep at exit
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()

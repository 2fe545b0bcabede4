"""How far a trial is, from what it has written so far."""

import json
import os
import statistics
from collections import deque
from pathlib import Path
from typing import Any

from rlhf_hydra.sweep.status import OUTPUT
from rlhf_hydra.tracking.jsonl import METRICS


class Progress:
    """Reads `metrics.jsonl` as it grows: each line once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, 0
        self._written: list[tuple[int, int]] | None = None
        self._heard = 0.0
        self.forget()
        self.refresh()

    def forget(self) -> None:
        self.step, self._offset = 0, 0
        self.last: dict[str, float] = {}
        """The newest value of each metric."""
        self.fresh: list[tuple[int, dict[str, float]]] = []
        """Step and metrics of the lines that the newest refresh has found."""
        self.step_s: deque[float] = deque(maxlen=20)

    def refresh(self) -> "Progress":
        self.fresh = []
        try:
            new = self._read()
        except OSError:
            return self
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # reports name such lines
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                self._take(row)
        return self

    def _read(self) -> bytes:
        """What has been added."""
        with (self.folder / METRICS).open("rb") as file:
            if (identity := os.fstat(file.fileno()).st_ino) != self._file:  # a resumed run wrote it anew
                self.forget()
                self._file = identity
            file.seek(self._offset)
            return file.read()

    def _take(self, row: dict[str, Any]) -> None:
        self.step = row.pop("step")
        numbers = {name: value for name, value in row.items() if value is not None}
        self.last |= numbers
        self.fresh.append((self.step, numbers))
        if "time/step_s" in numbers:
            self.step_s.append(numbers["time/step_s"])

    def left_s(self, steps: int) -> float | None:
        """Seconds to go, at the usual pace; None before the first step."""
        return statistics.median(self.step_s) * (steps - self.step) if self.step_s else None

    def silent_s(self, now: float) -> float:
        """Seconds in which nothing was seen to be written, until `now` on a clock that never jumps; those of files may
        be another machine's."""
        written = [found for name in (METRICS, OUTPUT) if (found := extent(self.folder / name))]
        if written != self._written:
            self._written, self._heard = written, now
        return now - self._heard


def extent(path: Path) -> tuple[int, int] | None:
    """Size and time of the last change; None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns

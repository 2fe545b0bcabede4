"""How far a trial is, from what it has written so far."""

import json
import os
import statistics
from collections import deque
from pathlib import Path

from rlhf_hydra.sweep.status import OUTPUT
from rlhf_hydra.tracking.jsonl import METRICS


class Progress:
    """Reads `metrics.jsonl` as it grows: each line once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, 0
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
        path, self.fresh = self.folder / METRICS, []
        if not path.exists():
            return self
        with path.open("rb") as file:
            if (identity := os.fstat(file.fileno()).st_ino) != self._file:  # a resumed run wrote it anew
                self.forget()
                self._file = identity
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(json.loads(line))
        return self

    def _take(self, row: dict[str, float | None]) -> None:
        self.step = int(row.pop("step") or 0)
        numbers = {name: value for name, value in row.items() if value is not None}
        self.last |= numbers
        self.fresh.append((self.step, numbers))
        if "time/step_s" in numbers:
            self.step_s.append(numbers["time/step_s"])

    def left_s(self, steps: int) -> float | None:
        """Seconds to go, at the usual pace; None before the first step."""
        return statistics.median(self.step_s) * (steps - self.step) if self.step_s else None

    def spoke_at(self) -> float:
        """When the trial last wrote a metric or a line, in unix seconds; 0: never."""
        files = (self.folder / METRICS, self.folder / OUTPUT)
        return max((file.stat().st_mtime for file in files if file.exists()), default=0.0)

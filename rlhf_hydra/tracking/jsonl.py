"""Metrics and samples as JSON lines: what every run writes and every report reads."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rlhf_hydra.tracking.tracker import Row, Status, Tracker

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"


class JsonLines(Tracker):
    """Appends `{"step": ..., "role/name": ...}` to metrics.jsonl and one object per sample to samples.jsonl.

    With `resume_step`, the first step that will run again, rows from there on are dropped first: what the stopped
    run wrote after its checkpoint is written again, and the file equals that of a run that never stopped.
    Numbers that are not finite become null, since JSON has no others.
    """

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, SAMPLES):
            _keep_before(folder / name, resume_step or 0)
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        self._samples = (folder / SAMPLES).open("a", encoding="utf-8")

    def log(self, metrics: dict[str, float], step: int) -> None:
        _append(self._metrics, {"step": step} | metrics)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        for row in rows:
            _append(self._samples, {"step": step} | row)

    def finish(self, status: Status, detail: str = "") -> None:
        self._metrics.close()
        self._samples.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; [] if there is none. A last line cut short by a crash is left out.

    Raises ValueError with file and line if another line is not JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}: not a JSON object ({error}); remove the line") from error
    return rows


def _keep_before(path: Path, step: int) -> None:
    """Drop rows of `step` and later, through a file aside so that a crash loses nothing."""
    aside = path.with_suffix(".part")
    with aside.open("w", encoding="utf-8") as file:
        for row in read(path):
            if row["step"] < step:
                _append(file, row)
    os.replace(aside, path)


def _append(file: IO[str], row: Mapping[str, Any]) -> None:
    file.write(json.dumps(_plain(row), ensure_ascii=False) + "\n")
    file.flush()


def _plain(value: Any) -> Any:
    """What JSON can hold: containers of text, finite numbers and null; other objects as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return value if value is None or isinstance(value, (str, int)) else str(value)

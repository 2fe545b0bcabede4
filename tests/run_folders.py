"""Run folders in tests, written by the project's own writers, without a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.saved import save_run_yaml
from rlhf_hydra.sweep.runs import Trial
from rlhf_hydra.tracking.jsonl import JsonLines

COMPOSER = Composer()
Curves = Mapping[str, Mapping[int, float]]


def trial(name: str, curves: Curves, state: str = "done", **overrides: Any) -> Trial:
    """A trial that was never in a file; `algo__kl__coef=0.1` sets `algo.kl.coef`."""
    asked = {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return Trial(name, Path(name), state, asked, [], {}, None, {m: dict(c) for m, c in curves.items()}, 0, "", ())


def leave_run(folder: Path, overrides: Sequence[str], curves: Curves, **status: Any) -> Path:
    """What a run with these metrics leaves; with its `status.json` if it was a trial of a sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    save_run_yaml(checked_run(overrides, COMPOSER), folder / "run.yaml", " ".join(["python -m rlhf_hydra", *overrides]))
    lines = JsonLines(folder)
    for step in sorted({step for curve in curves.values() for step in curve}):
        lines.log({metric: curve[step] for metric, curve in curves.items() if step in curve}, step)
    lines.finish("done")
    if status:
        (folder / "status.json").write_text(json.dumps({"overrides": list(overrides)} | status))
    return folder


def leave_sweep(folder: Path, trials: Mapping[str, Sequence[str]], **facts: Any) -> Path:
    """`sweep.json` of trials that lie in `folder/trials/KEY`: KEY -> its own overrides."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = {key: {"number": n, "overrides": list(lines)} for n, (key, lines) in enumerate(trials.items())}
    (folder / "sweep.json").write_text(json.dumps({"command": "python -m rlhf_hydra -m", "trials": listed} | facts))
    return folder

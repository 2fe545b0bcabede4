"""Whole runs in tests: compose, train, read what was left."""

import os
import select
from pathlib import Path

from rlhf_hydra import driver, supervised
from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.config.schema import Algo, RunConfig, Supervised
from rlhf_hydra.config.store import find_conf_dir
from rlhf_hydra.tracking import jsonl

SMALL = [
    "model=tiny",
    "data=toy",
    "rollout.prompts_per_step=8",
    "rollout.samples_per_prompt=2",
    "policy.samples_per_update=8",
]
"""Enough to pass through everything, over in a second a step."""


def algorithms(family: type[Algo]) -> list[str]:
    """The choices of `conf/algo` that belong to a family."""
    composer = Composer()
    names = sorted(path.stem for path in (find_conf_dir() / "algo").glob("*.yaml"))
    return [name for name in names if isinstance(composer.compose([f"algo={name}"]).run.algo, family)]


def compose(*overrides: str) -> RunConfig:
    critic = ["critic.samples_per_update=16"] if "algo=ppo" in overrides and "model=tiny" in overrides else []
    return checked_run([*critic, *overrides])


def run(folder: Path, *overrides: str, resume: bool = False) -> list[dict[str, float]]:
    """Train in this process; the metrics of all steps without times."""
    folder.mkdir(exist_ok=True)
    config = compose(*overrides)
    train = supervised.train if isinstance(config.algo, Supervised) else driver.train
    train(config, folder, " ".join(["python -m rlhf_hydra", *overrides]), resume=resume)
    return metrics(folder)


def metrics(folder: Path) -> list[dict[str, float]]:
    rows = jsonl.read(folder / jsonl.METRICS)
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def largest_difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """Over all metrics of all steps, relative to max(1, |value|)."""
    assert [row.keys() for row in one] == [row.keys() for row in other]
    pairs = [(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a]
    return max(abs(x - y) / max(1.0, abs(x)) for x, y in pairs)


def processes_with(variable: str, patience_s: float = 20.0) -> list[str]:
    """Processes that inherited this environment variable and do not end by themselves either: Ray's are told to end
    when the run does, and a busy machine takes a moment to let them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if pid == os.getpid() or variable.encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command, ended = (folder / "cmdline").read_text().replace("\0", " "), os.pidfd_open(pid)
        except OSError:  # gone, or not ours
            continue
        if command and not select.select([ended], [], [], patience_s)[0]:
            found.append(command)
        os.close(ended)
    return found

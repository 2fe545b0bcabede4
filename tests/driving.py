"""Whole runs in tests: compose, train, read what was left."""

from pathlib import Path

import yaml

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.schema import RL, SCHEMAS, RunConfig
from rlhf_hydra.config.store import find_conf_dir
from rlhf_hydra.driver import train
from rlhf_hydra.tracking import jsonl

SMALL = [
    "model=tiny",
    "data=toy",
    "rollout.prompts_per_step=8",
    "rollout.samples_per_prompt=2",
    "policy.samples_per_update=8",
]
"""Enough to pass through everything, over in a second a step."""


def rl_algorithms() -> list[str]:
    """Every choice of `algo` that samples, new files included."""
    folder = find_conf_dir() / "algo"

    def schema(name: str) -> str:
        """What the file, or the one that it varies, takes its keys from."""
        first = yaml.safe_load((folder / f"{name}.yaml").read_text())["defaults"][0]
        return schema(first) if isinstance(first, str) else next(iter(first.values()))

    names = sorted(path.stem for path in folder.glob("*.yaml"))
    return [name for name in names if issubclass(SCHEMAS[f"algo/{schema(name)}"], RL)]


def compose(*overrides: str) -> RunConfig:
    critic = ["critic.samples_per_update=16"] if "algo=ppo" in overrides and "model=tiny" in overrides else []
    return checked_run([*critic, *overrides])


def run(folder: Path, *overrides: str, resume: bool = False) -> list[dict[str, float]]:
    """Train in this process; the metrics of all steps without times."""
    folder.mkdir(exist_ok=True)
    train(compose(*overrides), folder, " ".join(["python -m rlhf_hydra", *overrides]), resume=resume)
    return metrics(folder)


def metrics(folder: Path) -> list[dict[str, float]]:
    rows = jsonl.read(folder / jsonl.METRICS)
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def largest_difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """Over all metrics of all steps, relative to max(1, |value|)."""
    assert [row.keys() for row in one] == [row.keys() for row in other]
    pairs = [(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a]
    return max(abs(x - y) / max(1.0, abs(x)) for x, y in pairs)

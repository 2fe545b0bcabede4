"""Two runs of one config: the same numbers, or the step where they part and what may have caused it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_hydra import provenance
from rlhf_hydra.tracking.jsonl import METRICS, read

MEASURED = ("time/", "system/")
"""Metrics of the machine, which no two runs have in common."""
CAUSES = ("commit", "diff_sha", "files", "data", "model", "seeds", "python", "packages", "hardware")
"""Parts of `provenance.json` that may change the numbers."""
SHOWN = 5
"""Metrics and packages that are listed one by one."""


def compare(first: Path, second: Path) -> tuple[bool, str]:
    """Whether both runs logged the same numbers, and a text that says so."""
    apart = list(parting(metrics(first), metrics(second)))
    steps = len(metrics(first))
    head = [f"differs from {first}:", *apart] if apart else [f"same as {first}: all metrics of {steps} steps are equal"]
    causes = list(differences(provenance.read(first), provenance.read(second)))
    reasons = [f"  {cause}" for cause in causes] or ["  code, data, model, packages and machine are the same"]
    return not apart, "\n".join([*head, *reasons])


def metrics(folder: Path) -> dict[int, dict[str, Any]]:
    """Step -> metrics, less those of the machine."""
    found: dict[int, dict[str, Any]] = {}
    for row in read(folder / METRICS):
        kept = {name: value for name, value in row.items() if not name.startswith(MEASURED)}
        found[row["step"]] = found.get(row["step"], {}) | kept
    return found


def parting(first: dict[int, dict[str, Any]], second: dict[int, dict[str, Any]]) -> Iterator[str]:
    """The first step at which the numbers differ."""
    for step in sorted(first.keys() | second.keys()):
        if step not in first or step not in second:
            yield f"  step {step} is in {'the first' if step in first else 'the second'} run alone"
            return
        here, there = first[step], second[step]
        names = [name for name in here | there if here.get(name) != there.get(name)]
        for name in names[:SHOWN]:
            yield f"  step {step}: {name} {here.get(name)} -> {there.get(name)}"
        if len(names) > SHOWN:
            yield f"  step {step}: and {len(names) - SHOWN} other metrics"
        if names:
            return


def differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """What is not the same in two records, key by key."""
    for cause in CAUSES if first and second else ():
        was, now = first.get(cause), second.get(cause)
        if isinstance(was, dict) and isinstance(now, dict):
            changed = [key for key in {**was, **now} if was.get(key) != now.get(key)]
            yield from (f"{cause}.{key}: {was.get(key)} -> {now.get(key)}" for key in changed[:SHOWN])
            if len(changed) > SHOWN:
                yield f"{cause}: and {len(changed) - SHOWN} others"
        elif was != now:
            yield f"{cause}: {was} -> {now}"
    if not (first and second):
        yield f"nothing is known of the {'second' if first else 'first'} run: it has no {provenance.FILE}"

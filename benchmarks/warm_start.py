"""The same sweep cold and warm: what a trial pays before its first step, and whether it finds the same.

    .venv/bin/python benchmarks/warm_start.py [KEY=VALUE ...]

Two trials of two steps one after the other, on one Ray cluster, with the vLLM engine; once each loads an engine
(`sweep.warm_start=false`), once the second takes over that of the first. `engine` is what the trial says about its
engine; `first step` is the time from the start of the trial's process to the beginning of its first step, Python,
imports and the other roles included. The two ways take turns; of `--repeats` the least counts. All metrics of a trial
but times are the same numbers in both, which is checked.
"""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

WORK = [
    "model=tiny", "data=toy", "algo=grpo", "cluster=cpu", "seed=1,2", "sweep.max_parallel=1", "steps=2",
    "rollout.prompts_per_step=8", "rollout.samples_per_prompt=2", "policy.samples_per_update=8",
]  # fmt: skip


@dataclass
class Trial:
    engine: str
    engine_s: float
    first_step_s: float
    metrics: list[dict[str, float]]


def sweep(warm: bool, overrides: list[str]) -> list[Trial]:
    with TemporaryDirectory() as name:
        options = [*WORK, *overrides, f"sweep.warm_start={str(warm).lower()}", f"hydra.sweep.dir={name}"]
        command = [sys.executable, "-m", "rlhf_hydra", "-m", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return [read(folder) for folder in sorted(Path(name).glob("trials/*/"))]


def read(folder: Path) -> Trial:
    said = re.search(r"engine (taken over, )?ready after ([\d.]+) s", (folder / "output.log").read_text())
    assert said is not None
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    steps_s = sum(row.get("time/step_s", 0.0) for row in rows)
    started = json.loads((folder / "status.json").read_text())["started"]
    metrics = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]
    return Trial(
        "taken over" if said[1] else "loaded", float(said[2]), file.stat().st_mtime - started - steps_s, metrics
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="as on the command line of a run")
    args = parser.parse_args()
    best: dict[tuple[bool, int], Trial] = {}
    found: dict[int, list[dict[str, float]]] = {}
    for _ in range(args.repeats):
        for warm in (False, True):
            for number, trial in enumerate(sweep(warm, args.overrides)):
                print(
                    f"  {'warm' if warm else 'cold'} {number}: first step after {trial.first_step_s:.1f} s", flush=True
                )
                assert trial.metrics == found.setdefault(number, trial.metrics), f"trial {number} found something else"
                best[warm, number] = min(best.get((warm, number), trial), trial, key=lambda one: one.first_step_s)
    report(best)


def report(best: dict[tuple[bool, int], Trial]) -> None:
    for warm, number in sorted(best):
        one = best[warm, number]
        way = f"{'warm' if warm else 'cold'}, trial {number}"
        engine = f"engine {one.engine + ' in':<14} {one.engine_s:5.1f} s"
        print(f"{way}   {engine}   first step after {one.first_step_s:5.1f} s")
    cold, warm_ = best[False, 1], best[True, 1]
    engine, step = warm_.engine_s / cold.engine_s, warm_.first_step_s / cold.first_step_s
    print(
        f"the second trial, warm over cold: engine {engine:.3f}, first step {step:.2f}; all metrics but times the same"
    )


if __name__ == "__main__":
    main()

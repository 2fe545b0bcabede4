"""Sweeps of real runs, from the command line to the last file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from driving import SMALL, largest_difference, metrics, processes_with, run

pytestmark = pytest.mark.slow

REWARD = """
import json, os, signal, sys
from pathlib import Path

def score(samples):
    here = Path(sys.argv[-1].removeprefix("run="))
    number, attempt = int(here.name.partition("-")[0]), json.loads((here / "status.json").read_text())["attempt"]
    if number == 1 and attempt == 1:
        raise ValueError("no such answer")
    if number == 4 and attempt == 1 and '"step": 1,' in (here / "metrics.jsonl").read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(sample.response.startswith(sample.prompt)) for sample in samples]
"""


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RLHF_HYDRA_TEST": str(folder), "COLUMNS": "200"}
    command = [sys.executable, "-m", "rlhf_hydra", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def statuses(folder: Path) -> list[dict]:
    """Of all trials that `sweep.json` lists, by number."""
    listed = json.loads((folder / "sweep.json").read_text())["trials"]
    keys = sorted(listed, key=lambda key: listed[key]["number"])
    return [json.loads((folder / "trials" / key / "status.json").read_text()) for key in keys]


def test_six_trials_of_which_one_raises_and_one_is_killed(tmp_path):
    """Four are done; the second start runs the other two, one of them from its checkpoint."""
    folder, reward = tmp_path / "sweep", tmp_path / "reward.py"
    reward.write_text(REWARD)
    options = [*SMALL, "algo=ppo", "critic.samples_per_update=16", "reward=function", f"reward.path={reward}:score"]
    often = ["steps=3", "checkpoint.every=1", "eval.every=3", "eval.limit=4"]
    grid = ["algo.kl.coef=0.003,0.01,0.03", "policy.optim.lr=1e-3,1e-4", "sweep.max_parallel=2"]
    first = call(tmp_path, "-m", *options, *often, *grid, f"hydra.sweep.dir={folder}")
    assert first.returncode == 1, first.stdout + first.stderr
    assert [s["state"] for s in statuses(folder)] == ["done", "failed", "done", "done", "killed", "done"]
    assert "no such answer" in statuses(folder)[1]["detail"] and statuses(folder)[4]["exit_code"] == -9
    assert "4 done, 1 failed, 1 killed" in first.stdout and "\nbest    " in first.stdout
    assert "\n#1 failed: error: reward function" in first.stdout
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("trials/[0235]-*/*")}

    second = call(tmp_path, "task=sweep_resume", f"run={folder}")
    assert second.returncode == 0, second.stdout + second.stderr
    assert [s["attempt"] for s in statuses(folder)] == [1, 2, 1, 1, 2, 1]
    assert [s["state"] for s in statuses(folder)] == ["done"] * 6
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/[0235]-*/*")} == finished
    for trial in folder.glob("trials/*"):
        assert [row["step"] for row in metrics(trial) if "reward/mean" in row] == [1, 2, 3]
        assert (trial / "model/model.safetensors").exists() and (trial / "curves.png").exists()
    assert processes_with(f"RLHF_HYDRA_TEST={tmp_path}") == []


PLACE = """
import os
from pathlib import Path
import ray

def score(samples):
    if ray.is_initialized():
        context = ray.get_runtime_context()
        line = f"{context.gcs_address} {context.get_placement_group_id()}\\n"
        with (Path(__file__).parent / "places").open("a") as file:
            file.write(line)
    return [len(sample.response) / 10 for sample in samples]
"""


@pytest.mark.ray
def test_two_trials_that_each_need_the_whole_cluster_share_one(tmp_path):
    """It is started once, and holds one after the other though two were allowed. The second takes over the engine of
    the first, and finds what it would have found alone."""
    folder, reward = tmp_path / "sweep", tmp_path / "reward.py"
    reward.write_text(PLACE)
    share = os.cpu_count() / 3  # of engine, reward and policy
    whole = [
        "cluster=cpu",
        "engine.name=hf",
        "strategy.name=single",
        f"cluster.cpus_per_worker={share}",
    ]
    options = [*SMALL, *whole, "algo=dr_grpo", "steps=2", "reward=function", f"reward.path={reward}:score"]
    done = call(tmp_path, "-m", *options, "seed=1,2", "sweep.max_parallel=2", f"hydra.sweep.dir={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("one Ray cluster for all trials") == 1 and "at most 1 at a time" in done.stdout
    one, two = statuses(folder)
    assert one["ended"] <= two["started"]
    addresses, groups = zip(*(line.split() for line in (tmp_path / "places").read_text().splitlines()), strict=True)
    assert len(set(addresses)) == 1 and len(set(groups)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["places", "reward.py", "sweep"]
    first, second = sorted(folder.glob("trials/*/"))
    assert "engine ready after" in (first / "output.log").read_text()
    assert "engine taken over, ready after" in (second / "output.log").read_text()
    alone = run(tmp_path / "alone", *options, "cluster.backend=local", "seed=2")
    assert largest_difference(metrics(second), alone) < 1e-6 and metrics(first) != alone
    assert processes_with(f"RLHF_HYDRA_TEST={tmp_path}") == []

"""Whole runs over Ray. One cluster serves all of them but the ones that are sent signals, which start their own."""

import json
import os
import signal
import subprocess
import sys
import tempfile

import pytest
from driving import SMALL, largest_difference, metrics, processes_with, run

from rlhf_hydra.interrupts import Interrupts, Stopped

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OVER_RAY = ["cluster=cpu", "engine.name=hf"]
IN_PROCESS = [*OVER_RAY, "cluster.backend=local"]


@pytest.fixture(scope="module")
def ray_cluster():
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    with tempfile.TemporaryDirectory(prefix="rlhf_hydra_test_", dir="/tmp", ignore_cleanup_errors=True) as folder:
        ray.init(address="local", include_dashboard=False, _temp_dir=folder, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def ppo_over_ray(ray_cluster, tmp_path_factory):
    """Folder of six steps of PPO over Ray, which saved after the third."""
    folder = tmp_path_factory.mktemp("ray") / "ppo"
    run(folder, *OVER_RAY, *SMALL, "algo=ppo", "steps=6", "checkpoint.every=3", "checkpoint.keep=5")
    return folder


def test_ray_and_this_process_give_the_same_numbers(ppo_over_ray, tmp_path):
    local = run(tmp_path / "local", *IN_PROCESS, *SMALL, "algo=ppo", "steps=6")
    assert largest_difference(metrics(ppo_over_ray), local) < 1e-6


@pytest.mark.deepspeed
def test_two_policy_workers_give_the_numbers_of_one(ppo_over_ray, ray_cluster, tmp_path):
    seats = ["cluster.placement.policy.workers=2", "strategy.zero_stage=3"]
    two = run(tmp_path / "two", *OVER_RAY, *SMALL, "algo=ppo", "steps=6", *seats)
    assert largest_difference(metrics(ppo_over_ray), two) < 1e-3


@pytest.mark.deepspeed
def test_a_resumed_run_over_ray_equals_one_that_never_stopped(ppo_over_ray, ray_cluster, tmp_path):
    """With the checkpoint after step 3 of a finished run; and so is a run repeated from there."""
    straight = metrics(ppo_over_ray)
    last = ppo_over_ray / "checkpoints" / "step-000006"
    last.rename(tmp_path / "away")
    weights = (ppo_over_ray / "model" / "model.safetensors").read_bytes()
    resumed = run(ppo_over_ray, *OVER_RAY, *SMALL, "algo=ppo", "steps=6", resume=True)
    assert resumed == straight
    assert (ppo_over_ray / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.vllm
@pytest.mark.deepspeed
def test_all_five_roles_with_vllm_and_deepspeed(ray_cluster, tmp_path):
    rows = run(tmp_path, "cluster=cpu", *SMALL, "algo=ppo", "steps=3")
    assert all(row["engine/parity"] < 1e-4 for row in rows)
    assert all(row["engine/logprob_diff"] < 1e-4 for row in rows)
    assert nothing_is_left(ray_cluster)


def test_an_exception_in_a_worker_is_shown_and_leaves_nothing(ray_cluster, tmp_path, capsys):
    reward = tmp_path / "reward.py"
    reward.write_text("def score(samples):\n    raise KeyError('no such answer')\n")
    with pytest.raises(SystemExit) as stop:
        options = ["reward=function", f"reward.path={reward}:score"]
        run(tmp_path / "run", *OVER_RAY, *SMALL, "algo=grpo", *options, "steps=2")
    assert stop.value.code == 1
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "reward worker 0 failed in `score`" in said
    assert "no such answer" in said
    assert nothing_is_left(ray_cluster)


def test_a_signal_ends_a_long_wait_for_a_worker(ray_cluster):
    """The call that is waited for sends it, and never returns."""
    from rlhf_hydra.cluster.ray_group import Future

    driver = os.getpid()

    def call():
        os.kill(driver, signal.SIGTERM)
        signal.pause()

    ref = ray_cluster.remote(call).remote()
    with pytest.raises(Stopped), Interrupts():
        Future("policy", "step", [ref]).get()
    ray_cluster.cancel(ref, force=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_run_and_leaves_no_process(number, tmp_path):
    """The run's own Ray cluster included; and the run goes on from where it was."""
    command = [sys.executable, "-m", "rlhf_hydra", *OVER_RAY, *SMALL, "algo=grpo", "steps=100000"]
    environment = {**os.environ, "RLHF_HYDRA_TEST": str(tmp_path)}
    process = subprocess.Popen(
        [*command, f"hydra.run.dir={tmp_path / 'run'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 2/"):
            process.send_signal(number)
    assert process.wait() == 128 + number, "".join(lines)
    assert processes_with(f"RLHF_HYDRA_TEST={tmp_path}") == []
    done = metrics(tmp_path / "run")[-1]["step"]
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert json.loads((saved / "driver.json").read_text())["step"] == done


def nothing_is_left(ray) -> bool:
    """No living actor, no placement group."""
    actors = ray._private.state.actors().values()
    groups = ray.util.placement_group_table().values()
    return all(a["State"] == "DEAD" for a in actors) and all(g["state"] == "REMOVED" for g in groups)


LESSONS = ["model=tiny", "data=toy", "data.rows=40", "policy.samples_per_update=8", "eval.every=3", "steps=4"]
TWO_WORKERS = ["cluster.placement.policy.workers=2", "strategy.zero_stage=2"]


@pytest.mark.deepspeed
@pytest.mark.parametrize("algo", ["sft", "dpo"])
def test_a_supervised_run_over_two_workers_gives_the_numbers_of_this_process(algo, ray_cluster, tmp_path):
    """The reference is asked by two workers as well, which then make room."""
    local = run(tmp_path / "local", *LESSONS, f"algo={algo}")
    two = run(tmp_path / "two", "cluster=cpu", *LESSONS, f"algo={algo}", *TWO_WORKERS)
    assert largest_difference(local, two) < 1e-3
    assert two[-1]["eval/loss"] < two[0]["eval/loss"]
    assert nothing_is_left(ray_cluster)


@pytest.mark.deepspeed
def test_a_teacher_is_sharded_with_its_student(ray_cluster, tmp_path):
    options = ["algo=kd", "algo.teacher.path=builtin:tiny", "algo.top_k=3"]
    local = run(tmp_path / "local", *LESSONS, *options)
    seats = [*TWO_WORKERS, "strategy.zero_stage=3"]
    assert largest_difference(local, run(tmp_path / "two", "cluster=cpu", *LESSONS, *options, *seats)) < 1e-3

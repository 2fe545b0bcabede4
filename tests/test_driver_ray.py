"""Whole runs over Ray. One cluster serves all of them but the ones that are sent signals, which start their own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec

import pytest
import torch
from driving import SMALL, algorithms, largest_difference, metrics, processes_with, run
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rlhf_hydra.cluster.group import WorkerFailed
from rlhf_hydra.config.schema import Supervised
from rlhf_hydra.interrupts import Interrupts, Stopped

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OVER_RAY = ["cluster=cpu", "engine.name=hf"]
IN_PROCESS = [*OVER_RAY, "cluster.backend=local"]
HAS_DASHBOARD = find_spec("aiohttp_cors") is not None


@pytest.fixture(scope="module")
def ray_cluster():
    os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # where jobs find `python`
    import ray

    with tempfile.TemporaryDirectory(prefix="rlhf_hydra_test_", dir="/tmp", ignore_cleanup_errors=True) as folder:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        quiet |= {} if torch.cuda.is_available() else {"num_gpus": 2}
        ray.init(address="local", include_dashboard=HAS_DASHBOARD, _temp_dir=folder, **quiet)
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
@pytest.mark.skipif(torch.cuda.is_available(), reason="its GPUs are pretended")
def test_roles_that_share_gpus_give_the_numbers_of_this_process(ray_cluster, tmp_path):
    """Two GPUs that Ray takes our word for, so their workers compute on the CPU: one each of three roles."""
    seats = [f"cluster.placement.{role}.gpus=0-1" for role in ("policy", "reference", "engine")]
    options = [*SMALL, "algo=grpo", "algo.kl.coef=0.01", "steps=2"]
    shared = run(tmp_path / "shared", *OVER_RAY, *options, "cluster.gpus_per_node=2", *seats)
    assert largest_difference(shared, run(tmp_path / "local", *IN_PROCESS, *options)) < 1e-5
    assert nothing_is_left(ray_cluster)


@pytest.mark.deepspeed
def test_adapters_of_two_workers_are_those_of_one_and_reach_the_engine_merged(ray_cluster, tmp_path):
    """Of a rank with which ZeRO-3 cuts the larger ones; the policy is its own reference."""
    options = ["algo=grpo", "algo.kl.coef=0.01", "steps=2", "policy.lora.rank=128"]
    seats = ["cluster.placement.policy.workers=2", "strategy.zero_stage=3"]
    one = run(tmp_path / "one", *IN_PROCESS, *SMALL, *options, "strategy.name=single")
    two = run(tmp_path / "two", *OVER_RAY, *SMALL, *options, *seats)
    assert largest_difference(one, two) < 1e-3
    assert all(row["engine/parity"] < 1e-5 for row in two) and two[-1]["policy/kl"] > 1e-3
    assert_adapters_are_the_model(tmp_path / "two")


def assert_adapters_are_the_model(folder):
    """The exported adapters on the model that they were made for, in PEFT, say what the merged model says."""
    base = json.loads((folder / "model-adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    tokens = torch.tensor([[3, 4, 5, 6, 3]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        before = plain(tokens).logits
        found = PeftModel.from_pretrained(plain, folder / "model-adapter").eval()(tokens).logits
        wanted = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)(tokens).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 1e-2


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


def test_too_little_memory_is_said_with_the_way_out(ray_cluster):
    from rlhf_hydra.cluster.ray_group import Future

    def call():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    ref = ray_cluster.remote(call).remote()
    with pytest.raises(
        WorkerFailed, match="critic worker 0 failed in `step`: (?s:.*)Tried to .*\nLower policy.tokens_"
    ):
        Future("critic", "step", [ref]).get()


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


@pytest.mark.skipif(not HAS_DASHBOARD, reason="needs ray[default]")
def test_a_run_is_sent_to_a_cluster_stopped_and_gone_on_with(ray_cluster, tmp_path):
    """By the URL of its dashboard, with a folder of configs: two jobs, whose output and exit codes come here."""
    url = f"http://{ray_cluster._private.worker.global_worker.node.address_info['webui_url']}"
    (tmp_path / "ours/algo").mkdir(parents=True)
    (tmp_path / "ours/algo/mine.yaml").write_text("defaults: [dr_grpo, _self_]\nname: mine\n")
    folder, sent = tmp_path / "run", [f"cluster.address={url}"]
    own = ["--config-dir", str(tmp_path / "ours"), "algo=mine", "steps=100000", f"hydra.run.dir={folder}"]
    command = [*OVER_RAY, "strategy.name=single", *SMALL, *own, *sent]
    run = subprocess.Popen([sys.executable, "-m", "rlhf_hydra", *command], stdout=subprocess.PIPE, text=True)
    lines = []
    for line in run.stdout:
        lines.append(line)
        if line.startswith("step 2/"):
            run.send_signal(signal.SIGINT)
    assert run.wait() == 130, "".join(lines)
    assert "cluster.address=null" in lines[0] and lines[1].startswith("follow  ray job logs")
    done = int(metrics(folder)[-1]["step"])
    (saved,) = (folder / "checkpoints").iterdir()
    assert json.loads((saved / "driver.json").read_text())["step"] == done

    again = ["task=resume", f"run={folder}", f"steps={done + 1}", "cluster.backend=local", *sent]
    resumed = subprocess.run([sys.executable, "-m", "rlhf_hydra", *again], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert metrics(folder)[-1]["step"] == done + 1
    wrong = ["task=resume", f"run={tmp_path}", *sent]  # no run there: found here, in the first second
    assert subprocess.run([sys.executable, "-m", "rlhf_hydra", *wrong], capture_output=True).returncode == 2
    assert nothing_is_left(ray_cluster)


def nothing_is_left(ray) -> bool:
    """No living actor, no placement group."""
    actors = ray._private.state.actors().values()
    groups = ray.util.placement_group_table().values()
    return all(a["State"] == "DEAD" for a in actors) and all(g["state"] == "REMOVED" for g in groups)


LESSONS = ["model=tiny", "data=toy", "data.rows=40", "policy.samples_per_update=8", "eval.every=3", "steps=4"]


BESIDE = {
    "dpo": ["policy.lora.rank=128"],
    "kd": ["algo.teacher.path=builtin:tiny", "algo.top_k=3"],
}


@pytest.mark.deepspeed
@pytest.mark.parametrize("algo", algorithms(Supervised))
def test_a_supervised_run_over_two_workers_gives_the_numbers_of_this_process(algo, ray_cluster, tmp_path):
    """What it comes to learn so is a test of `test_supervised.py`. The reference is asked by two workers as well, which
    then make room; a teacher is sharded with its student."""
    options = [f"algo={algo}", *BESIDE.get(algo, ())]
    stage = f"strategy.zero_stage={3 if algo == 'kd' else 2}"
    local = run(tmp_path / "local", *LESSONS, *options)
    two = run(tmp_path / "two", "cluster=cpu", *LESSONS, *options, "cluster.placement.policy.workers=2", stage)
    assert largest_difference(local, two) < 1e-3
    assert abs(two[-1]["eval/loss"] - two[0]["eval/loss"]) > 1e-3
    if algo == "dpo":
        assert_adapters_are_the_model(tmp_path / "two")
    assert nothing_is_left(ray_cluster)

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAUNCHERS = ["local.sh", "ray_cluster.sh", "slurm.sbatch"]
SCRIPTS = [*(f"launchers/{name}" for name in [*LAUNCHERS, "setup.sh"]), ".ci/run"]


def call(*command, **environment):
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_parses_and_can_be_run(script):
    assert os.access(ROOT / script, os.X_OK)
    assert call("bash", "-n", script).stderr == ""


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_ends_in_the_one_command(name):
    assert 'exec python -m rlhf_hydra "$@"' in (ROOT / "launchers" / name).read_text()


@pytest.mark.skipif(not (ROOT / ".venv").exists(), reason="the launcher would set up an environment first")
@pytest.mark.parametrize("name", ["local.sh", "slurm.sbatch"])
def test_a_launcher_passes_options_on(name):
    environment = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "1"}
    good = call(f"launchers/{name}", "task=check", "algo=ppo", **environment)
    assert good.returncode == 0, good.stdout + good.stderr
    bad = call(f"launchers/{name}", "task=check", "algo=grpoo", **environment)
    assert bad.returncode != 0 and "grpo" in bad.stdout + bad.stderr


def test_a_cluster_job_says_where_no_head_answers():
    # Port 1 on loopback: nothing listens there.
    found = call("launchers/ray_cluster.sh", "job", "127.0.0.1:1", "task=check", RAY_WAIT_S="1")
    assert found.returncode == 1 and "no Ray head answers at 127.0.0.1:1" in found.stderr


@pytest.mark.parametrize("arguments", [[], ["job"], ["worker", "no-port"], ["stop"]])
def test_a_wrong_cluster_command_shows_the_right_ones(arguments):
    found = call("launchers/ray_cluster.sh", *arguments)
    assert found.returncode == 2
    assert [line.split()[1] for line in found.stderr.splitlines()] == ["head", "worker", "job"]


def test_make_help_names_each_target():
    text = call("make", "--no-print-directory", "help").stdout
    assert [line.split()[1] for line in text.splitlines()] == [
        "help",
        "setup",
        "run",
        "pipeline",
        "test",
        "check",
        "format",
    ]


def test_the_base_install_is_light():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    heavy = ("torch", "transformers", "ray", "vllm", "deepspeed", "wandb", "mlflow", "tensorboard", "modelscope")
    assert not [line for line in project["dependencies"] if line.startswith(heavy)]

"""Commands that run as jobs of a cluster elsewhere. What a real one does with them: `tests/test_driver_ray.py`."""

import shlex
import socket
from types import SimpleNamespace

import pytest

from rlhf_hydra import __version__
from rlhf_hydra.cluster.jobs import entrypoint, exit_code, knock, require_same_version, run
from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import is_dashboard


def test_the_command_of_a_job_is_the_same_in_the_cluster_that_it_finds():
    line = entrypoint(["algo.kl.coef=0.1,0.2", "+reward.kwargs.text='a b'", "cluster.address=http://h:1"], None, True)
    assert shlex.split(line) == [
        *("exec", "python", "-m", "rlhf_hydra", "-m"),
        *("algo.kl.coef=0.1,0.2", "+reward.kwargs.text='a b'", "cluster.address=null"),
    ]


def test_a_planned_sweep_takes_no_address():
    line = entrypoint(["task=sweep_resume", "run=a", "cluster.address=http://h:1"])
    assert line == "exec python -m rlhf_hydra task=sweep_resume run=a"


def test_the_folder_of_configs_is_where_ray_unpacks_it(tmp_path):
    assert f' --config-dir "${{PYTHONPATH%%:*}}"/{tmp_path.name} algo=mine ' in entrypoint(["algo=mine"], str(tmp_path))


def test_a_secret_travels_as_the_name_of_its_variable(monkeypatch):
    monkeypatch.setenv("ACME_API_KEY", "very $ecret 123")
    line = entrypoint(["reward.kwargs.key=very $ecret 123"])
    assert "ecret" not in line and "'reward.kwargs.key=${oc.env:ACME_API_KEY}'" in line


@pytest.mark.parametrize("address", [None, "", "auto", "host:6379", "ray://host:10001"])
def test_other_addresses_are_connected_with(address):
    assert not is_dashboard(address) and is_dashboard("http://host:8265") and is_dashboard("https://host")


def test_nobody_who_answers_is_said_before_ray_is_asked():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        with pytest.raises(Failure, match="nobody answers at cluster.address=http://127.0.0.1:.*ssh -L"):
            run(f"http://127.0.0.1:{closed.getsockname()[1]}", "true")
    with pytest.raises(Failure, match="nobody answers"):
        knock("http://")


@pytest.mark.parametrize(
    ("status", "code", "stopped_by", "expected"),
    [
        ("SUCCEEDED", 0, 0, 0),
        ("FAILED", 2, 0, 2),
        ("FAILED", -9, 0, 137),
        ("STOPPED", None, 2, 130),
        ("STOPPED", None, 0, 143),  # by somebody else
    ],
)
def test_the_exit_code_is_that_of_the_job(status, code, stopped_by, expected):
    info = SimpleNamespace(status=status, driver_exit_code=code, message="")
    assert exit_code(info, SimpleNamespace(stopped_by=stopped_by, last="")) == expected


@pytest.mark.parametrize(
    ("code", "last", "says"),
    [
        (1, "/usr/bin/python: No module named rlhf_hydra\n", "none that has rlhf_hydra"),
        (127, "sh: 1: exec: python: not found\n", "none that has rlhf_hydra"),
        (None, "", "did not start: no disk"),
    ],
)
def test_a_cluster_that_cannot_run_it_is_said(code, last, says):
    info = SimpleNamespace(status="FAILED", driver_exit_code=code, message="no disk")
    with pytest.raises(Failure, match=says):
        exit_code(info, SimpleNamespace(stopped_by=0, last=last))


def test_a_job_of_another_version_is_refused(monkeypatch):
    monkeypatch.setenv("RLHF_HYDRA_SENT_BY", __version__)
    require_same_version()
    monkeypatch.setenv("RLHF_HYDRA_SENT_BY", "0.0.1")
    with pytest.raises(Failure, match=f"sent by rlhf_hydra 0.0.1 to a cluster that has {__version__}"):
        require_same_version()


def test_files_of_a_cluster_elsewhere_are_looked_for_there():
    files = ["data.path=/no/such.jsonl", "model.path=/no/such", "reward=function", "reward.path=/no/such.py:score"]
    with pytest.raises(ConfigError) as wrong:
        checked_run(["data=gsm8k", *files])
    assert {problem.key for problem in wrong.value.problems} == {"data.path", "model.path", "reward.path"}
    checked_run(["data=gsm8k", *files, "cluster.address=http://head:8265"])

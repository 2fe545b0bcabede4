"""The wheel, and a team's package, installed in an environment of their own: what works without the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
ACME = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "acme-rl"
version = "1.0"
[project.entry-points."rlhf_hydra.plugins"]
acme = "acme_rl:plugin"
""",
    "acme_rl/__init__.py": '''\
from dataclasses import dataclass

from rlhf_hydra.config.plugins import Plugin
from rlhf_hydra.config.schema import PPO, number


@dataclass
class AcmePPO(PPO):
    caution: float = number(0.2, gt=0, le=1)
    """How far one update may move the policy."""


plugin = Plugin(conf="acme_rl.conf", schemas={"algo/acme_ppo": AcmePPO})
''',
    "acme_rl/conf/__init__.py": "",
    "acme_rl/conf/algo/acme_ppo.yaml": """\
defaults:
  - /schema/algo@_here_: acme_ppo
  - _self_

name: acme_ppo
loss:
  clip_low: ${algo.caution}
  clip_high: ${algo.caution}
""",
    "acme_rl/conf/model/acme-7b.yaml": "defaults:\n  - llama3-8b\n  - _self_\n\nname: acme-7b\npath: acme/acme-7b\n",
}


class Home:
    """An environment with the wheel, and a folder in which its commands are given."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.work = folder / "env/bin", folder / "work"
        self.work.mkdir()
        venv.create(folder / "env", symlinks=True)
        packages = next((folder / "env").glob("lib/python*/site-packages"))
        # What torch and the like need is not installed again. A path in a .pth file is searched, and .pth files there
        # are not read, so that a checkout which is installed for development stays unseen.
        (packages / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "-q", "--no-index"]
        team = write(folder / "acme", ACME)
        self.run([*pip, "--no-deps", "--no-build-isolation", str(REPOSITORY), str(team)])

    def run(self, words: list[str], code: int = 0, **variables: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
        done = subprocess.run(words, cwd=self.work, env=env, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    def hydra(self, *words: str, code: int = 0, **variables: str) -> str:
        return self.run([str(self.bin / "rlhf-hydra"), *words], code, **variables)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    return Home(tmp_path_factory.mktemp("wheel"))


def test_the_checkout_is_not_seen(home):
    where = home.run([str(home.bin / "python"), "-c", "import rlhf_hydra; print(rlhf_hydra.__file__)"])
    assert Path(where).is_relative_to(home.bin.parent)
    assert (Path(where).parent / "conf/config.yaml").is_file()


def test_help_lists_the_choices_of_the_team(home):
    told = home.hydra("--help")
    assert "acme_ppo, cdpo" in told and "acme-7b" in told


def test_choices_of_the_team_are_checked_and_shown(home):
    choices = ["algo=acme_ppo", "model=acme-7b", "cluster=a100x8"]
    assert "ok  algo=acme_ppo model=acme-7b cluster=a100x8" in home.hydra("task=check", *choices)
    assert "clip_low: 0.05\n" in home.hydra(*choices, "algo.caution=0.05", "--cfg", "job", "--resolve")
    explained = home.hydra("task=check", "explain=algo.loss.clip_low", *choices)
    assert "algo.loss.clip_low = 0.2\n" in explained and "acme_rl/conf/algo/acme_ppo.yaml:7" in explained
    found = home.hydra("task=check", *choices, "algo.caution=2", "algo.cuation=1", code=2)
    assert "algo.caution=2.0 (command line): must be more than 0 and at most 1" in found
    assert "Did you mean algo.caution?" in found


def test_bash_completes_groups_options_and_keys(home):
    script = """
eval "$(rlhf-hydra -sc install=bash)"
for COMP_LINE in "$@"; do
    COMP_WORDS=($COMP_LINE); COMP_CWORD=1; COMP_POINT=${#COMP_LINE}
    hydra_bash_completion; echo "${COMPREPLY[*]}"
done
"""
    lines = ["rlhf-hydra alg", "rlhf-hydra algo=acme", "rlhf-hydra algo.kl.co", "rlhf-hydra sche"]
    told = home.run(["bash", "-c", script, "bash", *lines], PATH=f"{home.bin}:{os.environ['PATH']}")
    assert [line.split() for line in told.splitlines()] == [
        ["algo.", "algo="],
        ["algo=acme_ppo"],
        ["algo.kl.coef=", "algo.kl.controller="],
        [],
    ]


def test_a_sweep_runs_and_its_runs_can_be_resumed_and_repeated(home):
    home.hydra("-m", "algo=acme_ppo", "algo.caution=0.3", "seed=1,2", "steps=2")
    runs = sorted(file.parent for file in home.work.rglob("metrics.jsonl"))
    assert [steps(run) for run in runs] == [[1, 2], [1, 2]]
    assert "caution: 0.3\n" in (runs[0] / "run.yaml").read_text()
    packages = json.loads((runs[0] / "provenance.json").read_text())["packages"]
    assert packages["acme-rl"] == "1.0" and "torch" in packages
    home.hydra("task=resume", f"run={runs[0]}", "steps=3")
    assert steps(runs[0]) == [1, 2, 3]
    told = home.hydra("task=rerun", f"run={runs[1]}")
    assert f"same as {runs[1]}: all metrics of 2 steps are equal" in told and "are the same" in told


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]

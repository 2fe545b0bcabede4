"""`python -m rlhf_hydra`: what it prints, what it leaves, how it exits, and what it does not import."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.saved import save_run_yaml

HEAVY = ["torch", "ray", "vllm", "deepspeed", "transformers"]
PROBE = f"""
import json, sys
from rlhf_hydra.__main__ import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
print(json.dumps([code, sorted(set({HEAVY}) & set(sys.modules))]))
"""


def call(cwd, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rlhf_hydra", *words], cwd=cwd, capture_output=True, text=True)


QUICK = [
    ["--help"],
    ["--cfg", "job"],
    ["task=check"],
    ["task=check", "model=llama3-70b", "cluster=a100x16", "strategy.offload_optimizer=true"],
    ["task=check", "-m", "algo=ppo,grpo", "seed=1,2"],
    ["task=check", "-m", "sweep=optuna", "sweep.objective=reward/mean", "algo.kl.coef=interval(0,1)"],
]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_quick_answers_import_nothing_heavy_and_leave_no_file(tmp_path, words):
    done = subprocess.run([sys.executable, "-c", PROBE, *words], cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_imports_nothing_heavy_and_leaves_no_file(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "algo=gpo", "-m", "seed=1,2"], cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [2, []]
    assert list(tmp_path.iterdir()) == []


def test_help_lists_tasks_options_and_examples_and_no_schema(tmp_path):
    text = call(tmp_path, "--help").stdout
    assert "task=check" in text and "llama3-8b" in text and "python -m rlhf_hydra -m" in text
    assert "schema" not in text and "hydra/" not in text


def test_a_sound_run_is_summed_up(tmp_path):
    done = call(tmp_path, "task=check", "model=llama3-8b", "cluster=a100x16", "rollout.samples_per_prompt=4")
    assert done.returncode == 0
    assert "128 prompts x 4 samples = 512 responses" in done.stdout
    assert "engine    16 workers on GPUs 0-15 (vllm, bfloat16)" in done.stdout
    assert "policy    16 workers on GPUs 0-15 (deepspeed), 4 updates of 128 responses a step" in done.stdout


def test_a_sound_grid_is_listed(tmp_path):
    done = call(tmp_path, "task=check", "-m", "algo=ppo,grpo", "seed=1,2")
    assert done.stdout.splitlines() == [
        "ok  algo=ppo seed=1",
        "ok  algo=ppo seed=2",
        "ok  algo=grpo seed=1",
        "ok  algo=grpo seed=2",
        "4 runs are sound",
    ]


TEAM = Path(__file__).parent / "team"
TYPO = "error: algo.kl.cof=1 (command line): there is no such key\n    Did you mean algo.kl.coef?\n"
WRONG = {
    "algo.kl.cof=1": TYPO,
    "--cfg job algo.kl.cof=1": TYPO,
    "--cfg job --resolve outputs=${oc.env:NOT_SET_ANYWHERE}": "error: outputs=${oc.env:NOT_SET_ANYWHERE}",
    "--config-dir /not/there": "error: --config-dir=/not/there: there is no such folder\n",
    "--cfg job hydra.searchpath=[/not/there]": "error: hydra.searchpath=/not/there: does not exist\n",
    "--cfg job hydra.searchpath=[http://there]": "error: hydra.searchpath=[http://there] (command line): is no list",
    f"--cfg job --config-dir {TEAM} model=circle": "model/circle.yaml: extends itself",
    "--config-name other": "error: --config-path, --config-name: the config is always conf/config.yaml",
    "-m --cfg job": "error: -m: one config is shown at a time",
    "task=resume": "error: run (command line): task=resume needs the folder of a run",
    "task=resume run=nowhere": "error: run=nowhere (command line): there is no nowhere/run.yaml",
    "hydra.joob.name=x": "error: hydra.joob.name (command line): Hydra has no such key\n    Did you mean job?",
    "hydra.mode=MULTIRUN": "error: hydra.mode: a sweep is asked for with -m\n",
    "-m seed=1,2 task=check algo.kl.coef=-1,1": (
        "error: algo.kl.coef=-1.0 (command line): must be at least 0 and at most 10\n"
        "    in 2 of 4 runs, first: seed=1 task=check algo.kl.coef=-1\n"
    ),
    "-m algo.kl.coef=interval(0,1)": "error: algo.kl.coef (command line): a grid cannot be swept over an interval\n",
    "-m sweep.zip=[[seed,steps]] seed=1,2": "error: sweep.zip (command line): the values do not pair",
    "-m sweep=optuna algo.kl.coef=interval(0,1)": "error: sweep.objective: the search needs to know what is good",
    "-m hydra/launcher=joblib seed=1,2": "error: hydra: sweeps have no launchers, sweepers and subfolders of Hydra's\n",
    "task=sweep_resume": "error: run (command line): task=sweep_resume needs the folder of a sweep\n",
    "task=sweep_resume run=.": "(command line): no sweep in it\n    Give the folder that holds sweep.json",
    "-m seed=1,2 rollout.temperature=0": "    in 2 of 2 runs, first: seed=1 rollout.temperature=0\n",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_mistake_is_one_message_and_exit_code_2(tmp_path, typed):
    done = call(tmp_path, *typed.split())
    assert done.returncode == 2
    assert WRONG[typed] in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert done.stdout == "" and list(tmp_path.iterdir()) == []


def test_a_run_is_not_resumed_with_fewer_steps_than_it_has_done(tmp_path):
    """Nor changed by the attempt; and neither is one that has nothing to go on from."""
    folder = tmp_path / "run"
    (folder / "checkpoints/step-000004").mkdir(parents=True)
    save_run_yaml(checked_run(["model=tiny", "data=toy", "steps=4"]), folder / "run.yaml", "python -m rlhf_hydra")
    written = (folder / "run.yaml").read_text()
    lacks = call(tmp_path, "task=resume", "run=run", "steps=5")
    assert lacks.returncode == 1 and "no complete checkpoint" in lacks.stderr
    (folder / "checkpoints/step-000004/driver.json").write_text("{}")
    fewer = call(tmp_path, "task=resume", "run=run", "steps=3")
    assert fewer.returncode == 2
    assert fewer.stderr.startswith("error: steps=3 (command line): the run has done 4 steps\n    Set it to more than 4")
    assert (folder / "run.yaml").read_text() == written


def test_options_of_a_team_are_found_in_its_folder(tmp_path):
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo/ours.yaml").write_text("defaults:\n  - ppo\n  - _self_\n\nname: ours\nkl:\n  coef: 0.05\n")
    done = call(tmp_path, "--config-dir", ".", "--cfg", "job", "--package", "algo.kl", "algo=ours")
    assert "coef: 0.05" in done.stdout
    assert "ours, ppo" in call(tmp_path, "--config-dir", ".", "--help").stdout


def test_ctrl_c_is_no_defect(tmp_path):
    """While it reads a file that does not end."""
    endless = tmp_path / "metrics.jsonl"
    os.mkfifo(endless)
    words = [sys.executable, "-m", "rlhf_hydra", "task=report", "run=."]
    # Whoever starts the tests in the background lets their children ignore Ctrl-C.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    reader = subprocess.Popen(words, cwd=tmp_path, preexec_fn=listens, stdout=pipe, stderr=pipe, text=True)

    def let_go() -> None:  # or a command that ends too early would leave the next line waiting for its reader
        reader.wait()
        os.close(os.open(endless, os.O_RDONLY | os.O_NONBLOCK))

    Thread(target=let_go, daemon=True).start()
    with endless.open("w"):
        reader.send_signal(signal.SIGINT)
        assert reader.communicate() == ("", "") and reader.returncode == 130

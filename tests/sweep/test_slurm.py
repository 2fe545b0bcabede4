"""What Slurm is asked for, as text; the jobs themselves with submitit's local executor, which runs them as processes.
Programs stand in for runs. No test has a Slurm."""

import io
import json
import os
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.interrupts import Interrupts, Stopped
from rlhf_hydra.sweep.berths import Berths
from rlhf_hydra.sweep.launch import Launcher, Listed
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.slurm import Element, Queue, Slurm, parameters, require_slurm
from rlhf_hydra.sweep.status import ended, read, write
from rlhf_hydra.sweep.table import Screen

submitit = pytest.importorskip("submitit")

ON_SLURM = "sweep.backend=slurm"


def script(composer, *overrides: str, trials: int = 3) -> list[str]:
    """The options of an array of `trials`, as sbatch reads them."""
    from submitit.slurm.slurm import _make_sbatch_string

    asked = parameters(checked_run([ON_SLURM, *overrides], composer))
    text = _make_sbatch_string("COMMAND", "/sweep/slurm", map_count=trials, **asked)
    assert text.splitlines()[-1].endswith("COMMAND")
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_an_array_asks_for_what_the_run_uses(composer):
    """A core for each of eight GPUs, for the reward and for the run itself; a signal before the time is over."""
    lines = script(composer, "cluster=a100x8", "model=llama3-8b", "sweep.max_parallel=2", "sweep.slurm.partition=long")
    assert lines == [
        "array=0-2%2",
        "cpus-per-task=10",
        "gpus-per-node=8",
        "job-name=rlhf_hydra",
        "no-requeue",
        "nodes=1",
        "ntasks-per-node=1",
        "open-mode=append",
        "output=/sweep/slurm/%A_%a_0_log.out",
        "partition=long",
        "signal=USR2@180",
        "time=240",
        "wckey=submitit",
    ]


def test_a_run_without_gpus_asks_for_none(composer):
    """Five workers at 0.2 cores, and the run itself."""
    assert not [line for line in script(composer) if "gpus" in line]
    assert {"cpus-per-task=2", "array=0-2%3"} <= set(script(composer, "cluster=cpu"))


def test_what_is_given_counts_more(composer):
    given = ["cpus_per_task=4", "gpus_per_node=2", "mem_gib=1.5", "time_min=10", "save_s=60", "account=us"]
    given += ["options={exclusive:true,reservation:night}"]
    lines = script(composer, *(f"sweep.slurm.{line}" for line in given))
    wanted = {"cpus-per-task=4", "gpus-per-node=2", "mem=1.5G", "time=10", "signal=USR2@60", "account=us"}
    assert {*wanted, "exclusive", "reservation=night"} <= set(lines)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["cluster=cpu", "cluster.address=head:1"], "cluster.address"),
        (["cluster=a100x16", "model=llama3-8b"], "cluster.nodes"),
        (["sweep.slurm.options={requeue:true}"], "sweep.slurm.options"),
        (["sweep.slurm.time_min=3"], "sweep.slurm.save_s"),
        (["sweep=optuna", "sweep.objective=reward/mean"], "sweep.max_parallel"),
    ],
)
def test_what_a_job_cannot_do_is_refused(composer, overrides, key):
    with pytest.raises(ConfigError) as wrong:
        checked_run([ON_SLURM, *overrides], composer)
    assert [problem.key for problem in wrong.value.problems] == [key]


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a Slurm")
def test_a_machine_without_slurm_is_said():
    with pytest.raises(Failure, match="there is no Slurm on this machine"):
        require_slurm()


@pytest.mark.parametrize(("state", "code"), [("PREEMPTED", 143), ("TIMEOUT", 143), ("CANCELLED by 0", -9)])
def test_a_job_that_left_no_exit_code_has_that_of_its_state(plan, tmp_path, state, code):
    """After it had time to appear."""
    trial = next(iter(plan("seed=1").trials.values()))
    element = Element(trial, 1, job=Gone(tmp_path, state))
    assert element.poll() is None
    element.gone_at -= 15
    assert element.poll() == code
    assert f"Slurm says: {state.split()[0]}" in (trial.folder / "output.log").read_text()


def test_a_trial_that_never_left_the_queue_can_be_ended(plan):
    trial = next(iter(plan("seed=1").trials.values()))
    element = Slurm(lambda: None).begin(trial, 1, {})
    assert element.poll() is None and not element.has_begun()
    element.kill()
    assert ended(trial.status, element.wait(), 0.0, trial.folder / "output.log").state == "killed"


class Gone:
    """A job of which Slurm knows no more than its state."""

    def __init__(self, folder, state):
        self.paths, self.state = submitit.core.utils.JobPaths(folder, "1"), state


def launch(book, command, on_begin=None) -> tuple[str, list[str]]:
    """Run what is missing; what was said, and the states."""
    console = Console(file=io.StringIO(), width=200)
    missing = Listed([trial for trial in book.trials.values() if not trial.status.is_final])
    place = Slurm(lambda: submitit.LocalExecutor(book.folder / "slurm"), command, poll_s=0.1)
    try:
        with Interrupts() as interrupts, Screen(book.trials, Objective(None), console) as screen:
            Launcher(missing, Berths(Queue({})), screen, place).run(interrupts)
    except Stopped as stop:
        assert stop.code == 130
    return console.file.getvalue(), [trial.status.state for trial in book.trials.values()]


JOB = """
import json, time
attempt = json.loads((here / "status.json").read_text())["attempt"]
def save(*_):
    (here / f"checkpoints/step-{attempt}").mkdir(parents=True)
    (here / f"checkpoints/step-{attempt}/driver.json").write_text("{}")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("RAY_ADDRESS" in os.environ, flush=True)
if number == 1:
    raise KeyError("no such answer")
if number == 2 and attempt < 3:
    os.kill(os.getppid(), (signal.SIGUSR2, signal.SIGTERM)[attempt - 1])  # the job: its time is over, it is preempted
    while True:
        signal.pause()
if number == 3 and attempt == 1:
    os.kill(CONDUCTOR, signal.SIGINT)
    while True:
        signal.pause()
"""


def test_jobs_are_isolated_taken_back_stopped_and_found_again(plan, program, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:1")
    command = program(JOB.replace("CONDUCTOR", str(os.getpid())))
    book = plan("seed=0,1,2", ON_SLURM)
    said, states = launch(book, command)
    assert states == ["done", "failed", "done"]
    done, raised, taken = (trial.status for trial in book.trials.values())
    assert raised.detail.endswith("KeyError: 'no such answer'") and (done.attempt, taken.attempt) == (1, 3)
    assert said.count("stopped after") == said.count("taken back, goes on") == 2
    first, _, third = book.trials.values()
    assert (first.folder / "output.log").read_text() == "--- attempt 1\nFalse\n"
    assert sorted(path.name for path in (third.folder / "checkpoints").iterdir()) == ["step-1", "step-2"]

    write(first.folder, replace(done, state="running"))  # as if the sweep had died before it saw the end
    book = plan("seed=0,3", ON_SLURM)
    said, states = launch(book, command)
    assert book.trials[first.key].status.attempt == 1 and read(first.folder).job == done.job
    assert [trial.status.state for trial in book.trials.values() if trial.overrides == ["seed=3"]] == ["stopped"]
    assert json.loads((first.folder / "status.json").read_text())["state"] == "done"

"""The launcher with programs that stand in for runs: what they do to themselves, and what becomes of the others."""

import io
import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.interrupts import Interrupts, Stopped
from rlhf_hydra.sweep.berths import Berths
from rlhf_hydra.sweep.launch import Launcher, Listed
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.overview import study
from rlhf_hydra.sweep.place import Here, environment
from rlhf_hydra.sweep.room import CORES, MEMORY, Room
from rlhf_hydra.sweep.runs import read_sweep
from rlhf_hydra.sweep.table import Screen
from rlhf_hydra.sweep.terminal import print_report
from rlhf_hydra.sweep.trial import Book

ROOM = {CORES: 2.0, MEMORY: 64.0, "GPU of this machine": 0.0, "CPU": 2.0}


def launch(book: Book, command, most: int = 2, hang_timeout_s: float | None = None, source=None, reserve=None) -> str:
    """Run what is missing; what was said."""
    missing = [trial for trial in book.trials.values() if not trial.status.is_final]
    console = Console(file=io.StringIO(), width=200)
    berths, place = Berths(Room(ROOM, most), reserve), Here(environment(None, 2), command)
    with Interrupts() as interrupts, Screen(book.trials, Objective(None), console) as screen, closing(berths):
        launcher = Launcher(source or Listed(missing), berths, screen, place, hang_timeout_s)
        try:
            launcher.run(interrupts)
        finally:
            assert launcher.running == [] and berths.room.taken == []
    print_report(study(read_sweep([book.folder]), book.folder), console)
    return console.file.getvalue()


def states(book: Book) -> list[str]:
    return [trial.status.state for trial in book.trials.values()]


def is_gone(pid: int) -> bool:
    """Whether the process ends, now or in a moment."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([ended], [], [], 20)[0])
    finally:
        os.close(ended)


def test_a_trial_that_raises_or_is_killed_takes_nothing_with_it(plan, program):
    book = plan("seed=range(0,6)")
    text = """
if number == 1:
    raise KeyError("no such answer")
if number == 3:
    os.kill(os.getpid(), signal.SIGKILL)
if number == 4:
    os._exit(7)
"""
    said = launch(book, program(text))
    assert states(book) == ["done", "failed", "done", "killed", "failed", "done"]
    raised, killed, ended = (list(book.trials.values())[i].status for i in (1, 3, 4))
    assert (raised.exit_code, killed.exit_code, ended.exit_code) == (1, -9, 7)
    assert raised.detail.endswith("KeyError: 'no such answer'")
    assert raised.started <= raised.heartbeat <= raised.ended and raised.pid is None and raised.attempt == 1
    assert "3 done, 2 failed, 1 killed" in said and "#1 failed: KeyError: 'no such answer'" in said


def test_a_trial_whose_files_are_spoilt_takes_nothing_with_it(plan, program):
    """The second one waits until the first has done it."""
    book = plan("seed=0,1,2")
    os.mkfifo(book.folder / "pipe")
    text = """
import shutil
if number == 0:
    (here / "metrics.jsonl").write_text("hello\\n")
    shutil.rmtree(here)
    (here.parents[1] / "pipe").write_text("x")
    sys.exit(1)
if number == 1:
    (here.parents[1] / "pipe").read_text()
"""
    said = launch(book, program(text), hang_timeout_s=60)
    assert states(book)[1:] == ["done", "done"]
    assert f"how {next(iter(book.trials))} is doing could not be written down" in said


def test_a_trial_that_cannot_be_begun_lets_the_others_save(plan, program):
    book = plan("seed=0,1")
    (list(book.trials.values())[1].folder / "output.log").mkdir()
    text = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\nwhile True: signal.pause()"
    with pytest.raises(Failure, match="trial 1-.* could not be started: .*Is a directory"):
        launch(book, program(text))
    assert states(book)[0] == "stopped"


def test_two_trials_run_at_the_same_time(plan, program):
    """Each waits for the other."""
    book = plan("seed=0,1")
    for name in "01":
        os.mkfifo(book.folder / name)
    text = """
pipes = here.parents[1]
if number == 0:
    (pipes / "0").write_text("x"), (pipes / "1").read_text()
else:
    (pipes / "0").read_text(), (pipes / "1").write_text("x")
"""
    launch(book, program(text), hang_timeout_s=60)
    assert states(book) == ["done", "done"]


def test_one_at_a_time_is_one_at_a_time(plan, program):
    book = plan("seed=0,1,2")
    text = """
with (here.parents[1] / "log").open("a") as log:
    print("begin", number, file=log, flush=True)
    print("end", number, file=log, flush=True)
"""
    launch(book, program(text), most=1)
    log = (book.folder / "log").read_text().splitlines()
    assert log == [f"{what} {number}" for number in range(3) for what in ("begin", "end")]


def test_a_berth_goes_from_trial_to_trial_until_one_fails(plan, program):
    book, there = plan("cluster=cpu", "model=tiny", "algo=grpo", "seed=range(0,4)"), []
    text = """
with (here.parents[1] / "log").open("a") as log:
    print(os.environ["RLHF_HYDRA_BERTH"], file=log)
sys.exit(number == 1)
"""

    def reserve(run, name):
        there.append(name)
        return lambda: there.remove(name)

    launch(book, program(text), most=1, reserve=reserve)
    assert states(book) == ["done", "failed", "done", "done"]
    first, second, third, fourth = (book.folder / "log").read_text().split()
    assert first == second != third == fourth
    assert there == []


def test_a_berth_that_nobody_is_left_to_take_ends_while_others_run(plan, program):
    """The second trial waits for the end of the first one's."""
    book = plan("cluster=cpu", "model=tiny", "algo=grpo", "seed=0,1")
    os.mkfifo(book.folder / "pipe")
    ends = iter([lambda: (book.folder / "pipe").write_text("x"), lambda: None])
    text = "if number == 1: (here.parents[1] / 'pipe').read_text()"
    launch(book, program(text), hang_timeout_s=60, reserve=lambda run, name: next(ends))
    assert states(book) == ["done", "done"] and next(ends, None) is None


def test_a_trial_that_hangs_is_ended_and_says_so(plan, program):
    book = plan("seed=0,1")
    said = launch(book, program("if number == 0: signal.pause()"), hang_timeout_s=0.5)
    assert states(book) == ["killed", "done"]
    hung = next(iter(book.trials.values())).status
    assert "said nothing for" in hung.detail and "sweep.hang_timeout_s=0.5" in hung.detail
    assert "killed after" in said


def test_a_dead_trial_leaves_no_process_behind(plan, program):
    book = plan("seed=0")
    text = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
(here.parents[1] / "pid").write_text(str(child.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""
    launch(book, program(text))
    assert is_gone(int((book.folder / "pid").read_text()))


def test_the_second_start_runs_what_is_missing(plan, program, tmp_path):
    """A failed trial starts again from nothing, and one with a checkpoint keeps it."""
    book = plan("seed=0,1,2")
    text = """
with (here.parents[1] / "log").open("a") as log:
    print(number, sorted(path.name for path in here.iterdir()), file=log)
(here / "junk").write_text("")
if number == 2:
    (here / "checkpoints/step-000001").mkdir(parents=True, exist_ok=True)
    (here / "checkpoints/step-000001/driver.json").write_text("{}")
sys.exit(number > 0 and not (here.parents[1] / "again").exists())
"""
    command, files = program(text), ["output.log", "run.yaml", "status.json"]
    launch(book, command)
    assert states(book) == ["done", "failed", "failed"]
    before = [trial.status for trial in book.trials.values()]
    (book.folder / "again").touch()
    (book.folder / "log").unlink()
    launch(plan("seed=0,1,2"), command)
    assert states(book) == ["done"] * 3
    seen = sorted((book.folder / "log").read_text().splitlines())
    assert seen == [f"1 {files}", f"2 {['checkpoints', 'junk', *files]}"]
    assert [trial.status.attempt for trial in book.trials.values()] == [1, 2, 2]
    for trial, first in zip(book.trials.values(), before, strict=True):
        assert trial.status.earlier_s == (first.seconds if first.state == "failed" else 0)
        assert read_sweep([trial.folder]).trials[0].seconds == trial.status.seconds >= first.seconds > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_trials_save_and_the_rest_wait(plan, program, number):
    book = plan("seed=0,1,2")
    text = f"""
def save(*_):
    (here / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pipe = here.parents[1] / "pipe"
if number == 0:
    pipe.write_text("x")  # when the other one is ready, too
    os.kill(os.getppid(), {number:d})
else:
    pipe.read_text()
while True:
    signal.pause()
"""
    os.mkfifo(book.folder / "pipe")
    with pytest.raises(Stopped) as stop:
        launch(book, program(text))
    assert stop.value.code == 128 + number
    assert states(book) == ["stopped", "stopped", "waiting"]
    assert all((trial.folder / "saved").exists() for trial in list(book.trials.values())[:2])


def test_a_second_ctrl_c_does_not_wait(plan, program):
    book = plan("seed=0")
    text = """
def insist(*_):
    os.kill(os.getppid(), signal.SIGINT)
signal.signal(signal.SIGTERM, insist)
os.kill(os.getppid(), signal.SIGINT)
while True:
    signal.pause()
"""
    with pytest.raises(KeyboardInterrupt):
        launch(book, program(text))
    assert states(book) == ["killed"]


class Worse(Listed):
    """Finds that the first trial does worse than the others."""

    def prunes(self, trial, progress):
        return "worse than others" if trial.number == 0 else ""


def test_a_pruned_trial_is_over_for_good(plan, program):
    book = plan("seed=0,1")
    text = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
while number == 0:
    signal.pause()
"""
    launch(book, program(text), source=Worse(book.trials.values()))
    assert states(book) == ["stopped", "done"]
    status = next(iter(book.trials.values())).status
    assert (status.pruned, status.is_final, status.detail) == (True, True, "worse than others")


class Pointless(Listed):
    def finished(self, trial, status, progress):
        raise Failure("no metric of that name")


def test_a_search_that_makes_no_sense_ends_with_its_trials_saved(plan, program):
    book = plan("seed=0,1")
    text = "if number == 1: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)), signal.pause()"
    with pytest.raises(Failure):
        launch(book, program(text), source=Pointless(book.trials.values()))
    assert states(book) == ["done", "stopped"]


def test_a_trial_ends_with_a_sweep_that_is_killed(tmp_path):
    """Its standard input closes, which it takes for a SIGTERM."""
    os.mkfifo(tmp_path / "pipe")
    trial = f"""
import signal, sys
from pathlib import Path
from rlhf_hydra.sweep.child import end_with_parent
def save(*_):
    Path({str(tmp_path / "saved")!r}).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
end_with_parent()
Path({str(tmp_path / "pipe")!r}).write_text("ready")
while True:
    signal.pause()
"""
    sweep = f"""
import os, signal, sys
from pathlib import Path
from rlhf_hydra.sweep.child import Child
child = Child([sys.executable, "-c", {trial!r}], Path({str(tmp_path)!r}), os.environ, 1)
Path({str(tmp_path / "pipe")!r}).read_text()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", sweep], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert is_gone(int(done.stdout)) and Path(tmp_path / "saved").exists()

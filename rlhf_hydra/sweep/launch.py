"""Trials side by side, each in its own process, as many as there is room for; none can harm another."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rlhf_hydra.checkpoint import whole
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.interrupts import Interrupts, Stopped
from rlhf_hydra.sweep.berths import Berth, Berths
from rlhf_hydra.sweep.child import Child, kill_orphan
from rlhf_hydra.sweep.progress import Progress
from rlhf_hydra.sweep.runs import RUN
from rlhf_hydra.sweep.status import OUTPUT, STATUS, Status, ended, write
from rlhf_hydra.sweep.trial import Trial

POLL_S = 0.1
HEARTBEAT_S = 5.0

SOUND = (0, 128 + signal.SIGTERM)
"""Exit codes of a trial that ended as it should, done or pruned. Its engines are whole: at most in the midst of a call,
which they finish before they take the next."""

Command = Callable[[Trial], Sequence[str]]


def command_of(trial: Trial) -> list[str]:
    """Runs what `run.yaml` in its folder says, from its newest checkpoint if it has one."""
    return [sys.executable, "-m", "rlhf_hydra", "task=trial", f"run={trial.folder}"]


class Source(Protocol):
    """Where trials come from."""

    def take(self) -> Trial | None:
        """The next one to run; None if there is none, or none before another has ended."""

    def prunes(self, trial: Trial, progress: Progress) -> str:
        """Why the trial should end now; empty if it should not."""

    def finished(self, trial: Trial, status: Status, progress: Progress) -> None: ...


class Listed:
    """Trials that are all known before."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self.trials = iter(trials)

    def take(self) -> Trial | None:
        return next(self.trials, None)

    def prunes(self, trial: Trial, progress: Progress) -> str:
        return ""

    def finished(self, trial: Trial, status: Status, progress: Progress) -> None:
        pass


class Audience(Protocol):
    """Hears what happens."""

    def started(self, trial: Trial, status: Status) -> None: ...

    def ended(self, trial: Trial, status: Status, progress: Progress) -> None: ...

    def progressed(self, running: Sequence["Running"]) -> None: ...

    def stopping(self, count: int) -> None: ...


@dataclass
class Running:
    trial: Trial
    child: Child
    status: Status
    progress: Progress
    berth: Berth


class Launcher:
    def __init__(
        self,
        source: Source,
        berths: Berths,
        audience: Audience,
        env: Mapping[str, str],
        hang_timeout_s: float | None = None,
        command: Command = command_of,
    ) -> None:
        self.source, self.berths, self.audience = source, berths, audience
        self.env, self.hang_timeout_s, self.command = env, hang_timeout_s, command
        self.running: list[Running] = []
        self.next: Trial | None = None

    def run(self, interrupts: Interrupts) -> None:
        """Until all trials have ended. If a signal comes, or the source finds that it makes no sense to go on, those
        that run save and end first."""
        try:
            while True:
                with interrupts.held():
                    self.start_what_fits()
                    self.look()
                if not self.running and self.next is None:
                    return
                time.sleep(POLL_S)
        except (Stopped, Failure):
            self.stop()
            raise
        finally:
            while self.running:  # a second Ctrl-C, or a defect
                one = self.running.pop()
                one.child.kill()
                self.end(one, one.child.process.wait())

    def start_what_fits(self) -> None:
        while True:
            self.next = self.next or self.source.take()
            if self.next is None:
                self.berths.close()  # others may want what nobody is left to take over
            if self.next is None or not self.berths.room.fits(self.next.run):
                return
            self.start(self.next)
            self.next = None

    def start(self, trial: Trial) -> None:
        before = trial.status
        if before.state == "running" and before.pid:
            kill_orphan(before.pid, trial.folder)
        if not whole(trial.folder):
            clear(trial)
        now, attempt = time.time(), before.attempt + 1
        status = Status("running", trial.overrides, started=now, heartbeat=now, attempt=attempt)
        write(trial.folder, status)
        berth = self.berths.take(trial.run)
        child = Child(self.command(trial), trial.folder, {**self.env, **berth.env}, f"attempt {attempt}")
        status = replace(status, pid=child.pid)
        write(trial.folder, status)
        self.running.append(Running(trial, child, status, Progress(trial.folder), berth))
        self.audience.started(trial, status)

    def look(self) -> None:
        """What has become of the trials that run?"""
        for one in list(self.running):
            code = one.child.poll()
            one.progress.refresh()
            if code is not None:
                self.running.remove(one)
                self.end(one, code)
            else:
                self.watch(one, time.time())
        self.audience.progressed(self.running)

    def watch(self, one: Running, now: float) -> None:
        """End it if it hangs or does worse than others; note that it lives."""
        reason = self.source.prunes(one.trial, one.progress)
        if reason and not one.status.pruned:
            one.status = replace(one.status, pruned=True, detail=reason)
            one.child.stop()
        silent_s = now - max(one.progress.spoke_at(), one.status.started or now)
        if self.hang_timeout_s and silent_s > self.hang_timeout_s:
            says = f"said nothing for {silent_s:.0f} s (sweep.hang_timeout_s={self.hang_timeout_s:g})"
            one.status = replace(one.status, detail=says)
            one.child.kill()
        if now - (one.status.heartbeat or 0) >= HEARTBEAT_S:
            one.status = replace(one.status, heartbeat=now)
            write(one.trial.folder, one.status)

    def end(self, one: Running, code: int) -> None:
        status = ended(one.status, code, time.time(), one.trial.folder / OUTPUT)
        write(one.trial.folder, status)
        self.berths.give_back(one.berth, is_sound=code in SOUND)
        self.source.finished(one.trial, status, one.progress)
        self.audience.ended(one.trial, status, one.progress)

    def stop(self) -> None:
        """Let all trials save, however long it takes; a second Ctrl-C ends them."""
        self.audience.stopping(len(self.running))
        for one in self.running:
            one.child.stop()
        while self.running:
            self.look()
            time.sleep(POLL_S)


def clear(trial: Trial) -> None:
    """Take away what an attempt without a checkpoint has left."""
    for path in trial.folder.iterdir():
        if path.name not in (RUN, STATUS, OUTPUT):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def environment(address: str | None, at_once: int) -> dict[str, str]:
    """Of a trial: the Ray cluster of all, and its share of the cores."""
    cluster = {"RAY_ADDRESS": address} if address else {}
    threads = str(max(1, (os.cpu_count() or 1) // max(1, at_once)))
    return {"OMP_NUM_THREADS": threads, **os.environ, **cluster, "PYTHONUNBUFFERED": "1"}

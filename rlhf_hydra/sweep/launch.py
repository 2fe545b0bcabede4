"""Trials side by side, each in its own process, as many as there is room for; none can harm another."""

import shutil
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rlhf_hydra.checkpoint import whole
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.interrupts import Interrupts, Stopped
from rlhf_hydra.sweep.berths import Berth, Berths
from rlhf_hydra.sweep.place import Place, Process
from rlhf_hydra.sweep.progress import Progress
from rlhf_hydra.sweep.runs import RUN
from rlhf_hydra.sweep.status import OUTPUT, STATUS, State, Status, ended, write
from rlhf_hydra.sweep.trial import Trial

HEARTBEAT_S = 5.0

SOUND = (0, 128 + signal.SIGTERM)
"""Exit codes of a trial that ended as it should, done or pruned. Its engines are whole: at most in the midst of a call,
which they finish before they take the next."""


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

    def lost(self, trial: Trial, error: OSError) -> None:
        """What became of the trial could not be written down."""


@dataclass
class Running:
    trial: Trial
    child: Process
    status: Status
    progress: Progress
    berth: Berth
    saved: Sequence[Path]
    """The checkpoints that it began with."""


class Launcher:
    def __init__(
        self,
        source: Source,
        berths: Berths,
        audience: Audience,
        place: Place,
        hang_timeout_s: float | None = None,
    ) -> None:
        self.source, self.berths, self.audience, self.place = source, berths, audience, place
        self.hang_timeout_s = hang_timeout_s
        self.running: list[Running] = []
        self.new: list[Running] = []
        """Those that were not handed over yet."""
        self.next: Trial | None = None
        self.is_stopping = False

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
                time.sleep(self.place.poll_s)
        except (Stopped, Failure):
            self.stop()
            raise
        finally:
            while self.running:  # a second Ctrl-C, or a defect
                one = self.running.pop()
                one.child.kill()
                self.end(one, one.child.wait())

    def start_what_fits(self) -> None:
        while (trial := self.next or self.source.take()) and self.berths.room.fits(trial.run):
            self.next = None
            self.start(trial)
        self.next = trial
        if trial is None:
            self.berths.close()  # others may want what nobody is left to take over
        self.hand_over()

    def start(self, trial: Trial) -> None:
        """Failure if it cannot be, as where the disk is full."""
        before, now = trial.status, time.time()
        child = self.place.find(trial, before) if before.state in ("queued", "running") else None
        status, berth = replace(before, heartbeat=now), self.berths.take(trial.run)
        if child is None:
            status = Status("running", trial.overrides, started=now, heartbeat=now)
            status = replace(status, attempt=before.attempt + 1, earlier_s=before.seconds)
            try:
                child = self.begin(trial, status, berth)
            except OSError as error:
                self.berths.give_back(berth, is_sound=False)
                raise Failure(f"trial {trial.key} could not be started: {error}") from error
        self.new.append(Running(trial, child, status, Progress(trial.folder), berth, whole(trial.folder)))
        self.running.append(self.new[-1])

    def begin(self, trial: Trial, status: Status, berth: Berth) -> Process:
        if not whole(trial.folder):
            clear(trial)
        write(trial.folder, status)
        return self.place.begin(trial, status.attempt, berth.env)

    def hand_over(self) -> None:
        self.place.send()
        for one in self.new:
            state: State = "running" if one.child.has_begun() else "queued"
            one.status = replace(one.status, state=state, **one.child.handle)
            self.note(one.trial, one.status)
            self.audience.started(one.trial, one.status)
        self.new = []

    def note(self, trial: Trial, status: Status) -> None:
        """Write down how it is doing. A disk that is full, or a folder that is gone, must not harm the others."""
        try:
            write(trial.folder, status)
        except OSError as error:
            if status.ended:  # or else again at every heartbeat
                self.audience.lost(trial, error)

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
        if one.status.state == "queued" and one.child.has_begun():
            one.status = replace(one.status, state="running", started=now)
            self.audience.started(one.trial, one.status)
        reason = self.source.prunes(one.trial, one.progress)
        if reason and not one.status.pruned:
            one.status = replace(one.status, pruned=True, detail=reason)
            one.child.stop()
        if self.hang_timeout_s and one.child.has_begun():
            self.end_if_silent(one, self.hang_timeout_s)
        if abs(now - (one.status.heartbeat or 0)) >= HEARTBEAT_S:
            one.status = replace(one.status, heartbeat=now)
            self.note(one.trial, one.status)

    def end_if_silent(self, one: Running, most_s: float) -> None:
        silent_s = one.progress.silent_s(time.monotonic())
        if silent_s > most_s:
            says = f"said nothing for {silent_s:.0f} s (sweep.hang_timeout_s={most_s:g})"
            one.status = replace(one.status, detail=says)
            one.child.kill()

    def end(self, one: Running, code: int) -> None:
        status = ended(one.status, code, time.time(), one.trial.folder / OUTPUT)
        if is_taken_back := self.is_taken_back(one, status):
            status = replace(status, detail="taken back, goes on")
        self.note(one.trial, status)
        self.berths.give_back(one.berth, is_sound=code in SOUND)
        self.audience.ended(one.trial, status, one.progress)
        if is_taken_back:
            self.start(one.trial)
        else:
            self.source.finished(one.trial, status, one.progress)

    def is_taken_back(self, one: Running, status: Status) -> bool:
        """Whether the place has stopped it, and it has saved more than it began with."""
        is_ours = self.is_stopping or status.pruned or not self.place.takes_back
        return status.state == "stopped" and not is_ours and whole(one.trial.folder) != one.saved

    def stop(self) -> None:
        """Let all trials save, however long it takes; a second Ctrl-C ends them."""
        self.is_stopping = True
        self.audience.stopping(len(self.running))
        for one in self.running:
            one.child.stop()
        while self.running:
            self.look()
            time.sleep(self.place.poll_s)


def clear(trial: Trial) -> None:
    """Take away what an attempt without a checkpoint has left."""
    for path in trial.folder.iterdir():
        if path.name not in (RUN, STATUS, OUTPUT):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

"""What a sweep tells the terminal while it runs: a live table, or a line for each thing that happens where there is no
terminal."""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlhf_hydra.sweep.launch import Running
from rlhf_hydra.sweep.objective import Objective
from rlhf_hydra.sweep.progress import Progress
from rlhf_hydra.sweep.space import name_of
from rlhf_hydra.sweep.status import OUTPUT, Status
from rlhf_hydra.sweep.trial import Trial
from rlhf_hydra.sweep.words import SHORT_NAMES, short_key
from rlhf_hydra.tracking.console import duration

COLORS = {
    "done": "green",
    "running": "cyan",
    "queued": "dim cyan",
    "waiting": "dim",
    "failed": "red",
    "killed": "red",
    "stopped": "yellow",
    "unfinished": "yellow",
    "pruned": "yellow",
}
"""Of states, in the order in which they are counted."""
WIDEST = 24
"""Of a column; a longer value is cut."""
REDRAW_S = 0.5
REMIND_S = 600.0
"""Between two lines about the whole sweep where there is no terminal."""


class Screen:
    """Hears of every trial; shows `trials`, a mapping that may still grow, up to `expected`."""

    def __init__(
        self, trials: Mapping[str, Trial], objective: Objective, console: Console | None = None, expected: int = 0
    ) -> None:
        self.trials, self.objective, self.expected = trials, objective, expected
        self.console = console or Console(width=None if sys.stdout.isatty() else 120)
        self.statuses: dict[str, Status] = {}
        self.progress: dict[str, Progress] = {}
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.drawn = self.reminded = time.monotonic()

    def __enter__(self) -> "Screen":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def started(self, trial: Trial, status: Status) -> None:
        self.statuses[trial.key] = status
        again = f" (attempt {status.attempt})" if status.attempt > 1 else ""
        began = "started" if status.state == "running" else status.state
        self.say(f"{trial.key} {began}{again}: {' '.join(trial.overrides)}")

    def ended(self, trial: Trial, status: Status, progress: Progress) -> None:
        self.statuses[trial.key], self.progress[trial.key] = status, progress
        seconds = duration((status.ended or 0) - (status.started or 0))
        why = f", see {trial.folder / OUTPUT}" if status.state in ("failed", "killed") else ""
        detail = f" ({status.detail})" if status.state == "stopped" and status.detail else ""
        self.say(f"{trial.key} {status.state} after {seconds}{detail}{why}  {self.numbers(progress)}".rstrip())

    def progressed(self, running: Sequence[Running]) -> None:
        self.progress |= {one.trial.key: one.progress for one in running}
        self.statuses |= {one.trial.key: one.status for one in running}
        if self.live.is_started and time.monotonic() - self.drawn > REDRAW_S:
            self.live.update(self.table(), refresh=True)
            self.drawn = time.monotonic()
        if not self.live.is_started and time.monotonic() - self.reminded > REMIND_S:
            self.say(self._title())
            self.reminded = time.monotonic()

    def lost(self, trial: Trial, error: OSError) -> None:
        self.say(f"how {trial.key} is doing could not be written down: {error}")

    def stopping(self, count: int) -> None:
        self.say(f"stopping: {count} trials finish their step and save; Ctrl-C again ends them at once")

    def numbers(self, progress: Progress) -> str:
        return "  ".join(f"{name} {progress.last[name]:.4g}" for name in self.columns() if name in progress.last)

    def columns(self) -> list[str]:
        """The metrics that are shown."""
        names = (self.objective.metric, self.objective.against, self.objective.training)
        return list(dict.fromkeys(name for name in names if name))

    def say(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def table(self) -> Table:
        """A line for each trial that matters now, as many as the terminal has lines for."""
        table = Table(title=self._title(), title_justify="left", title_style="bold", box=None, pad_edge=False)
        keys = list(dict.fromkeys(name_of(line) for trial in self.trials.values() for line in trial.overrides))
        metrics = [SHORT_NAMES.get(name, name) for name in self.columns()]
        for name in ("trial", "state", *map(short_key, keys), "step", *metrics, "left"):
            is_narrow = name in ("trial", "state", "step", "left")  # the others give way first
            table.add_column(name, no_wrap=is_narrow, overflow="ellipsis", max_width=WIDEST)
        for key in self._visible():
            table.add_row(*self._row(key, keys))
        return table

    def _visible(self) -> list[str]:
        order = {"running": 0, "failed": 1, "killed": 1, "stopped": 1, "queued": 2, "waiting": 2, "done": 3}
        keys = sorted(self.trials, key=lambda key: order[self._status(key).state])
        return sorted(keys[: max(5, self.console.height - 4)], key=lambda key: self.trials[key].number)

    def _status(self, key: str) -> Status:
        if key not in self.statuses:
            self.statuses[key] = self.trials[key].status
        return self.statuses[key]

    def _progress(self, key: str) -> Progress:
        if key not in self.progress:
            self.progress[key] = Progress(self.trials[key].folder)
        return self.progress[key]

    def _title(self) -> str:
        states = [self._status(key).state for key in self.trials]
        counts = [f"{states.count(state)} {state}" for state in COLORS if state in states]
        to_come = [f"{self.expected - len(states)} to come"] if self.expected > len(states) else []
        left = self.left_s()
        return ", ".join([*counts, *to_come, *([] if left is None else [f"about {duration(left)} to go"])])

    def left_s(self) -> float | None:
        """Seconds until all trials have ended, if those to come take as long as those before; None: nobody knows."""
        found = {key: self._status(key) for key in self.trials}
        lefts = {key: self._left_s(key) for key, status in found.items() if status.state == "running"}
        took = [status.seconds for status in found.values() if status.state == "done"]
        took = took or [time.time() - (found[key].started or 0) + left for key, left in lefts.items() if left]
        if not lefts or not took:
            return None
        usual, waiting = statistics.fmean(took), sum(status.state in ("waiting", "queued") for status in found.values())
        to_come = waiting + max(0, self.expected - len(found))
        return (sum(usual if left is None else left for left in lefts.values()) + usual * to_come) / len(lefts)

    def _left_s(self, key: str) -> float | None:
        steps = self.trials[key].run.steps
        return self._progress(key).left_s(steps) if steps else None

    def _row(self, key: str, keys: Sequence[str]) -> list[str | Text]:
        trial, status, progress = self.trials[key], self._status(key), self._progress(key)
        own = {name_of(line): line.partition("=")[2].replace(" ", "") for line in trial.overrides}
        left = self._left_s(key) if status.state == "running" else None
        values = [f"{progress.last[name]:.4g}" if name in progress.last else "" for name in self.columns()]
        step = f"{progress.step}/{trial.run.steps or '?'}" if progress.last else ""
        state = Text("pruned" if status.pruned else status.state, style=COLORS[status.state])
        swept = [own.get(name, "") for name in keys]
        return [f"#{trial.number}", state, *swept, step, *values, duration(left) if left is not None else ""]

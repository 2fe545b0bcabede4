"""The small interface behind which all trackers stand."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from rlhf_hydra.tracking.told import Usage

Row = dict[str, Any]
Status = Literal["done", "stopped", "failed"]
Told = set[tuple[int, frozenset[str]]]
"""Step and names of each line of metrics."""
Note = Callable[[str], None]
"""Takes a line for people."""


class Tracker:
    """Listens to a run and ignores what it does not override. `step` counts from 1; 0 is before the first."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Numbers of one step, named `role/name`; an evaluation after it comes as a line of its own."""

    def samples(self, rows: Sequence[Row], step: int) -> None:
        """Some responses of the step: prompt, response, reward and what else is known of each."""

    def note(self, text: str) -> None:
        """A line for people."""

    def expect(self, steps: int) -> None:
        """How many steps there will be, where the config leaves that to the data."""

    def finish(self, status: Status, detail: str = "") -> None:
        """The end, called once whatever happened; `detail` says why a run stopped or failed."""


class Trackers(Tracker):
    """Several trackers, told in order."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def log(self, metrics: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(metrics, step)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        for tracker in self._trackers:
            tracker.samples(rows, step)

    def note(self, text: str) -> None:
        for tracker in self._trackers:
            tracker.note(text)

    def expect(self, steps: int) -> None:
        for tracker in self._trackers:
            tracker.expect(steps)

    def finish(self, status: Status, detail: str = "") -> None:
        """Finishes all of them, also when one raises."""
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.finish, status, detail)


class Once(Trackers):
    """Passes on what is new: a resumed run does some steps again, and most services keep both copies.

    `told`: step and names of what was logged before the run stopped.
    """

    def __init__(self, told: Told, *trackers: Tracker) -> None:
        super().__init__(*trackers)
        self._told = told
        self._last = max((step for step, _ in told), default=-1)

    def log(self, metrics: dict[str, float], step: int) -> None:
        if (step, frozenset(metrics)) not in self._told:
            super().log(metrics, step)

    def samples(self, rows: Sequence[Row], step: int) -> None:
        if step > self._last:
            super().samples(rows, step)


class WithSystem(Trackers):
    """Adds the machine's load to the metrics of each step."""

    def __init__(self, *trackers: Tracker) -> None:
        super().__init__(*trackers)
        self._usage = Usage()

    def log(self, metrics: dict[str, float], step: int) -> None:
        is_step = "time/step_s" in metrics
        super().log({**metrics, **self._usage.read()} if is_step else metrics, step)

"""The small interface behind which all trackers stand."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import monotonic
from typing import Any, Literal

from rlhf_hydra.config.secrets import redact
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
                stack.callback(tracker.finish, status, redact(detail))


class Guarded(Tracker):
    """A service, whose failure is no failure of the run. What it does not take is left out there; it is asked again
    after a pause that doubles each time, since a service that is away may cost many seconds to ask."""

    def __init__(self, name: str, tracker: Tracker, note: Note, pause_s: float = 60.0) -> None:
        self._name, self._tracker, self._note = name, tracker, note
        self._pause_s, self._again_at, self._left_out = pause_s, 0.0, 0

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._tell(lambda: self._tracker.log(metrics, step))

    def samples(self, rows: Sequence[Row], step: int) -> None:
        self._tell(lambda: self._tracker.samples(rows, step))

    def finish(self, status: Status, detail: str = "") -> None:
        self._again_at = 0.0
        self._tell(lambda: self._tracker.finish(status, detail))
        if self._left_out:
            self._note(f"{self._name} lacks {self._left_out} of the run's messages; the JSON lines have all of them")

    def _tell(self, call: Callable[[], None]) -> None:
        if monotonic() < self._again_at:
            self._left_out += 1
            return
        try:
            call()
        except Exception as error:  # whatever a service raises
            if not self._left_out:
                self._note(f"{self._name} fails, the run goes on without it: {first_line(error)}")
            self._left_out += 1
            self._again_at, self._pause_s = monotonic() + self._pause_s, 2 * self._pause_s


def first_line(error: Exception) -> str:
    """What is wrong, without what services add below, and without secrets."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return str(redact(f"{type(error).__name__}: {text}"[:500]))


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

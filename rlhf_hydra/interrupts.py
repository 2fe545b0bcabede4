"""SIGTERM and Ctrl-C end a run between two steps, with its state saved; a second Ctrl-C ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(Exception):
    """The run was asked to end. `code` is the process's exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


class Interrupts:
    """While entered, a signal raises `Stopped` inside `allowed()`, where nothing has changed yet, or at `check()`."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "Interrupts":
        self.received = 0
        self.is_allowed = False
        self.before: dict[int, Any] = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if self.is_allowed:
            self.check()

    def check(self) -> None:
        if self.received:
            self.is_allowed = False
            raise Stopped(self.received)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        self.is_allowed = True  # before the check, so that no signal falls between the two
        try:
            self.check()
            yield
        finally:
            self.is_allowed = False

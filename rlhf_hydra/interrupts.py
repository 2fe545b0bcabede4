"""SIGTERM and Ctrl-C end a run between two steps, with its state saved; a second Ctrl-C ends it at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """The run was asked to end. `code` is the process's exit status. Code that catches every `Exception`, as around a
    user's reward, lets it through."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number


class Interrupts:
    """While entered, a signal raises `Stopped`: at once, or at the end of `held()`, where the run's state changes."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "Interrupts":
        self.received = 0
        self.is_held = False
        self.before: dict[int, Any] = {number: signal.signal(number, self._receive) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.received = number
        if not self.is_held:
            raise Stopped(number)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Signals wait until the block has ended."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False
        if self.received:
            raise Stopped(self.received)

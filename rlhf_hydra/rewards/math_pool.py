"""Do two mathematical answers agree? Asked of math-verify, in processes that can be ended.

math-verify can hang or fill the memory on an answer such as `9^{9^{9^9}}`, is not safe in threads, and its own time
limit (a Python signal handler) does not run while C computes. So it runs in `math_child.py`.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from queue import LifoQueue
from typing import IO, cast

from rlhf_hydra.rewards.base import RewardError

Pair = tuple[str, str]
"""Label and response."""
RIGHT, WRONG, LIMIT, BAD_LABEL = "right", "wrong", "limit", "bad_label"
"""Verdicts. `limit`: over the time limit, or fatal to the process; `bad_label`: the label is no mathematics."""
CHUNK = 16
"""Answers per message: one at a time, a third of the time went into switching processes."""
MEMORY_GIB = 2.0
"""Address space of one child."""
CLOCKS = {-signal.SIGPROF, -signal.SIGALRM}
"""Exit codes of a child over its time limit."""


class MathPool:
    """`workers` children, started when there is something to ask, replaced when an answer ends one."""

    def __init__(self, timeout_s: float, workers: int) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise RewardError("the math rule needs math-verify: pip install math-verify")
        self._children = [Child(timeout_s) for _ in range(workers)]
        self._idle: LifoQueue[Child] = LifoQueue()  # last in, first out: few answers start few children
        for child in self._children:
            self._idle.put(child)

    def judge(self, pairs: Sequence[Pair]) -> list[str]:
        """The verdict on each (label, response)."""
        chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
        with ThreadPoolExecutor(len(self._children)) as threads:
            return [verdict for verdicts in threads.map(self._judge, chunks) for verdict in verdicts]

    def _judge(self, pairs: Sequence[Pair]) -> list[str]:
        child = self._idle.get()
        try:
            return child.judge(pairs)
        finally:
            self._idle.put(child)

    def close(self) -> None:
        for child in self._children:
            child.stop()


class Child:
    """One process of `math_child.py`. It ends with this one, however this one ends."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._life = -1

    def judge(self, pairs: Sequence[Pair]) -> list[str]:
        """The verdicts. An answer that ends the child over something else than its clocks is tried twice."""
        verdicts: list[str] = []
        died_at = -1
        while (done := len(verdicts)) < len(pairs):
            verdicts += self._ask(pairs[done:])
            if (done := len(verdicts)) < len(pairs):
                if self.stop() in CLOCKS or done == died_at:
                    verdicts.append(LIMIT)
                died_at = done
        return verdicts

    def stop(self) -> int | None:
        """End the process; its exit code, None where none ran."""
        process, self._process = self._process, None
        if process is None:
            return None
        os.close(self._life)
        process.kill()
        process.communicate()  # closes the pipes and waits
        return process.returncode

    def _ask(self, pairs: Sequence[Pair]) -> list[str]:
        """The verdicts up to the one that ended the child, if one did."""
        process = self._process or self._start()
        try:
            print(json.dumps(pairs), file=process.stdin, flush=True)
        except BrokenPipeError:
            return []
        lines = (cast(IO[str], process.stdout).readline().strip() for _ in pairs)
        return list(takewhile(bool, lines))

    def _start(self) -> subprocess.Popen[str]:
        inner, self._life = os.pipe()  # the outer end stays in this process: subprocess hands down only `inner`
        program = str(Path(__file__).with_name("math_child.py"))
        # -P: the program's folder is not a place to import from. A new session: Ctrl-C is for the parent.
        self._process = subprocess.Popen(
            [sys.executable, "-P", program, str(self.timeout_s), str(MEMORY_GIB), str(inner)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[inner],
            start_new_session=True,
        )
        os.close(inner)
        if cast(IO[str], self._process.stdout).readline() != "ready\n":
            raise RewardError(f"the math process did not start (exit code {self.stop()}); its messages are above")
        return self._process

"""Rows of the data made into rows of tokens: in this process, and where that takes long, in as many as there are cores.

Which process a row was made in cannot be told from the result: they come back in order.
"""

import os
import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from queue import SimpleQueue
from typing import Any

from rlhf_hydra.config.schema import Data, Supervised
from rlhf_hydra.data.files import DataError, Row
from rlhf_hydra.data.formats import Example, build_format
from rlhf_hydra.data.images import Gallery
from rlhf_hydra.data.report import BadRow, Tried, attempt
from rlhf_hydra.data.templates import Line, Renderer

PATIENCE_S = 10.0
"""How long one process is left to it. Others take about five seconds to start."""
CHUNK = 256
"""Rows that another process is given at a time."""


class Maker:
    """What makes a row into examples that fit. It raises BadRow, when it is made too."""

    def __init__(self, cfg: Data, algo: Supervised, tokenizer: Any, longest: int) -> None:
        self.given = cfg, algo, tokenizer, longest
        self.cfg, self.longest = cfg, longest
        renderer = Renderer(cfg, tokenizer)
        self.format = build_format(cfg, algo, renderer)
        if cfg.images_column:
            self.format = Gallery(cfg, renderer).around(self.format)

    def __reduce__(self) -> tuple[Any, ...]:
        return Maker, self.given

    def __call__(self, number: int, row: Row) -> list[Example]:
        return [[fit(line, self.longest, self.cfg.overlong) for line in example] for example in self.format(row)]


def fit(line: Line, longest: int, overlong: str) -> Line:
    """`line`, cut at `longest` tokens where `data.overlong` allows that. The first token of a row is never learned."""
    over = len(line.tokens) > longest
    if over and (overlong == "drop" or line.images_end > longest):
        raise BadRow(f"longer than {longest} tokens (data.max_tokens, model.context_tokens)")
    spans = [(max(start, 1), min(end, longest)) for start, end in line.learn]
    spans = [(start, end) for start, end in spans if start < end]
    if not spans:
        raise BadRow(f"nothing to learn in its first {longest} tokens" if over else "nothing to learn")
    return replace(line, tokens=line.tokens[:longest], learn=spans, cut=over)


def tried(rows: Iterable[tuple[int, Row]], make: Maker, patience_s: float = PATIENCE_S) -> Iterator[Tried]:
    """What became of each row, in order. After `patience_s` of work (no waiting counted) all cores share it."""
    rows, spent = iter(rows), 0.0
    for number, row in rows:
        began = time.perf_counter()
        done = attempt(make, number, row)
        spent += time.perf_counter() - began
        yield done
        if spent > patience_s and cores() > 1:
            yield from spread(rows, make, cores())


def spread(rows: Iterator[tuple[int, Row]], make: Maker, processes: int) -> Iterator[Tried]:
    """The same in other processes, a few chunks ahead of who reads."""
    children = [Child(make) for _ in range(processes)]
    idle: SimpleQueue[Child] = SimpleQueue()
    for child in children:
        idle.put(child)

    def ask(chunk: list[tuple[int, Row]]) -> list[Tried]:
        child = idle.get()
        try:
            return child.ask(chunk)
        finally:
            idle.put(child)

    threads, waiting = ThreadPoolExecutor(processes), deque[Future[list[Tried]]]()
    try:
        while chunk := list(islice(rows, CHUNK)):
            waiting.append(threads.submit(ask, chunk))
            if len(waiting) > 3 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for child in children:
            child.process.kill()
        threads.shutdown(cancel_futures=True)
        for child in children:
            child.process.communicate()  # closes the pipes and waits


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Child:
    """This file in a process of its own. It ends when its input does, and so with this process, however that ends."""

    def __init__(self, make: Maker) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C is for the parent
        )
        self.unsent: list[Any] = [make]

    def ask(self, rows: list[tuple[int, Row]]) -> list[Tried]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            for message in (*self.unsent, rows):
                pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
            self.unsent = []
            return pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError) as error:
            code = self.process.wait()
            raise DataError(f"a process that makes tokens has ended (exit code {code}); is the memory full?") from error


def serve() -> None:
    """What a child does."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    make = pickle.load(questions)
    while questions.peek(1):
        rows = pickle.load(questions)
        done = [replace(attempt(make, number, row), row={}) for number, row in rows]  # who asked has them
        pickle.dump(done, answers)
        answers.flush()


if __name__ == "__main__":
    serve()

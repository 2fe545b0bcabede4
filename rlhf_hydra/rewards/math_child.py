"""The program that `MathPool` runs: reads lines `[[label, response], ...]`, writes one verdict a line for each pair.

    python math_child.py SECONDS GIB LIFE

The kernel ends it without its help, also in the middle of a huge power in C, by the default action of a signal: after
SECONDS of CPU time on one answer, and when the other end of the pipe LIFE closes, which is when its parent ends.
It imports nothing of the project.
"""

import fcntl
import json
import logging
import os
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

import math_verify

WALL = 10
"""Wall time, as a multiple of CPU time: a busy machine does not make a right answer wrong."""


NUMBER = re.compile(r"[-+]?[\d., /]*\d ?%?( [A-Za-z]{3,})*")
"""`1,000`, `3/4`, `50%`, `18 dollars`: math-verify reads the unit as a product of letters if told that it is LaTeX."""


@lru_cache(maxsize=10_000)
def read_label(label: str) -> list[Any]:
    """The label's answer: what follows the last `####` (gsm8k), or all of it; LaTeX with or without dollars."""
    text = label.rsplit("####", 1)[-1].strip()
    # Without dollars math-verify takes the last number that it finds, which is 1 in `x^2 + 1`.
    if not ("$" in text or "\\boxed" in text or NUMBER.fullmatch(text)):
        text = f"${text}$"
    return math_verify.parse(text, parsing_timeout=None)


def read_answer(response: str) -> list[Any]:
    """The response's answer: on the line of the last `####`, else where math-verify finds it (boxed, last number)."""
    _, mark, end = response.rpartition("####")
    final = math_verify.parse(end.strip().split("\n", 1)[0], parsing_timeout=None) if mark else []
    return final or math_verify.parse(response, parsing_timeout=None)


def judge(label: str, response: str) -> str:
    if not (gold := read_label(label)):
        return "bad_label"
    return "right" if math_verify.verify(gold, read_answer(response), timeout_seconds=None) else "wrong"


def end_with(life: int) -> None:
    """Have the kernel send SIGIO, whose default ends a process, when the pipe's last writer is gone."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def limit(seconds: float) -> None:
    """Start the clocks of one answer; 0 stops them."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL * seconds)


def main(seconds: float, gib: float, life: int) -> None:
    end_with(life)
    resource.setrlimit(resource.RLIMIT_AS, (int(gib * 2**30),) * 2)
    logging.disable(logging.CRITICAL)
    judge("$x^2$", "$1 + x$")  # sympy and the LaTeX grammar load at first use
    print("ready", flush=True)
    for line in sys.stdin:
        for label, response in json.loads(line):
            limit(seconds)
            verdict = judge(label, response)
            limit(0)
            print(verdict, flush=True)  # at once: the next answer may be this process's last


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))

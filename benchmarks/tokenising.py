"""Rows made into tokens by one process, by all cores, and read from the cache; see README.md.

.venv/bin/python benchmarks/tokenising.py --model MODEL --rows 200000
"""

import argparse
import hashlib
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rlhf_hydra.config.schema import SFT, Data
from rlhf_hydra.data import making
from rlhf_hydra.data.examples import load_examples
from rlhf_hydra.models.hub import resolve


def write(path: Path, rows: int) -> None:
    """Questions of 45 words and answers of 100, on average, of a vocabulary of 5,000."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(5000)]

    def text(mean: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 2 * mean)))

    with path.open("w") as file:
        for _ in range(rows):
            file.write(json.dumps({"prompt": text(45), "response": text(100)}) + "\n")


def measure(name: str, load: Callable[[], Any], rows: int) -> None:
    start, before = time.perf_counter(), cpu()
    load()
    wall = time.perf_counter() - start
    print(f"{name:<12} {wall:8.2f} s wall {cpu() - before:8.2f} s CPU {rows / wall:8.0f} rows/s", flush=True)


def cpu() -> float:
    """Seconds of this process and of all that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def digests(cache: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(cache.glob("*/*.npy"))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--rows", type=int, default=200_000)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(resolve(args.model))
    with tempfile.TemporaryDirectory() as folder:
        path, caches = Path(folder) / "rows.jsonl", [Path(folder) / name for name in ("one", "all")]
        write(path, args.rows)
        data = Data(name="rows", path=str(path), response_column="response", template="Q: {prompt}\nA: ")

        def load(cache: Path, patience_s: float) -> None:
            making.tried.__defaults__ = (patience_s,)
            load_examples(data, SFT(name="sft"), tokenizer, 8192, cache=cache, note=print)

        measure("one process", lambda: load(caches[0], 1e9), args.rows)
        measure("all cores", lambda: load(caches[1], making.PATIENCE_S), args.rows)
        measure("from cache", lambda: load(caches[1], making.PATIENCE_S), args.rows)
        print("the same bytes" if digests(caches[0]) == digests(caches[1]) else "OTHER BYTES")


if __name__ == "__main__":
    main()

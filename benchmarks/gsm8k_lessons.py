"""SFT, a reward model, DPO, KTO and distillation of a real model on school mathematics, one after the other.

    git clone https://github.com/openai/grade-school-math
    .venv/bin/python benchmarks/gsm8k_lessons.py --data grade-school-math/grade_school_math/data --out /tmp/lessons

SFT learns 400 of the written solutions. The pairs are solutions of other models to the same question, one correct and
one not, of the 440 questions with the shortest ones; 120 of those questions are held out. KTO reads written solutions
(desirable) and incorrect ones of models, one by one, of 200 questions, 40 of them held out. All but SFT and its
distillation start from the SFT model. `--model` is a folder or hub id, `--only` repeats one of the five; each run keeps
its folder below `--out`, with the metrics of every step.
"""

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

LESSONS = {
    "sft": "steps=10 eval.every=5 eval.limit=32 policy.samples_per_update=16",
    "rm": "steps=32 eval.every=16 policy.samples_per_update=16 strategy.dtype=bfloat16",
    "dpo": "steps=40 eval.every=20 policy.samples_per_update=16 strategy.dtype=bfloat16",
    "kto": "steps=24 eval.every=12 policy.samples_per_update=16 strategy.dtype=bfloat16 policy.optim.lr=3e-5",
    "kd": "steps=6 eval.every=6 eval.limit=16 policy.samples_per_update=12 data.limit=80 algo.coef=1.0",
}
COLUMNS = {
    "sft": {"prompt_column": "question", "response_column": "answer"},
    "kd": {"prompt_column": "question", "response_column": "answer"},
    "kto": {"response_column": "response", "desirable_column": "good"},
}
FILES = {"sft": "sft", "kd": "sft", "rm": "pairs", "dpo": "pairs", "kto": "kto"}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def size(pair: dict[str, str]) -> int:
    return max(len(pair["chosen"]), len(pair["rejected"])) + len(pair["prompt"])


def pairs(rows: Iterable[dict[str, Any]], rng: random.Random) -> list[list[dict[str, str]]]:
    """Of each question with solutions of both kinds: its pairs, no solution in two of them."""
    found = []
    for row in rows:
        solutions = [value for value in row.values() if isinstance(value, dict)]
        good, bad = (
            sorted({s["solution"].strip() for s in solutions if s["is_correct"] is kind}) for kind in (True, False)
        )
        if good and bad:
            rng.shuffle(good)
            rng.shuffle(bad)
            zipped = zip(good, bad, strict=False)
            found.append([{"prompt": row["question"], "chosen": g, "rejected": b} for g, b in zipped])
    return sorted(found, key=lambda question: min(map(size, question)))


def alone(rows: Iterable[dict[str, Any]], rng: random.Random) -> list[list[dict[str, Any]]]:
    """Of each question with an incorrect solution: the written one and that, apart. The shortest 200, in any order."""
    found = []
    for row in rows:
        solutions = [value for value in row.values() if isinstance(value, dict)]
        if bad := sorted({s["solution"].strip() for s in solutions if not s["is_correct"]}):
            found.append((row["question"], row["ground_truth"].strip(), rng.choice(bad)))
    found.sort(key=lambda texts: len(texts[0]) + max(len(texts[1]), len(texts[2])))
    shortest = found[:200]
    rng.shuffle(shortest)
    return [
        [{"prompt": q, "response": good, "good": True}, {"prompt": q, "response": bad, "good": False}]
        for q, good, bad in shortest
    ]


def mixed(questions: Iterable[list[dict[str, Any]]], rng: random.Random) -> list[dict[str, Any]]:
    rows = [row for question in questions for row in question]
    rng.shuffle(rows)
    return rows


def prepare(data: Path, out: Path) -> None:
    """`{sft,pairs,kto}-{train,eval}.jsonl` in `out`."""
    solved, rng = read(data / "example_model_solutions.jsonl"), random.Random(0)
    questions = pairs(solved, rng)[:440]
    rng.shuffle(questions)
    held = [min(question, key=size) for question in questions[:120]]
    train = [pair for question in questions[120:] for pair in question[:2] if size(pair) < 520]
    rng.shuffle(train)
    write(out / "pairs-eval.jsonl", held)
    write(out / "pairs-train.jsonl", train)
    rng = random.Random(0)
    single = alone(solved, rng)
    write(out / "kto-eval.jsonl", mixed(single[:40], rng))
    write(out / "kto-train.jsonl", mixed(single[40:], rng))
    for name, source, count in (("train", "train", 400), ("eval", "test", 64)):
        rows = [row for row in read(data / f"{source}.jsonl") if len(row["question"]) + len(row["answer"]) < 600]
        write(out / f"sft-{name}.jsonl", rows[:count])


def command(algo: str, model: str, out: Path) -> list[str]:
    taught = str(out / "sft" / "model")
    columns = COLUMNS.get(algo, {})
    return [
        *(sys.executable, "-m", "rlhf_hydra", f"algo={algo}", "model=smollm2-135m", "cluster=local"),
        *("data=jsonl", f"data.path={out}/{FILES[algo]}-train.jsonl", "data.chat=true"),
        *("data@eval.data=jsonl", f"eval.data.path={out}/{FILES[algo]}-eval.jsonl", "eval.data.chat=true"),
        *(f"{part}.{key}={value}" for part in ("data", "eval.data") for key, value in columns.items()),
        *("policy.optim.lr=5e-5", "policy.optim.warmup_ratio=0.1", "policy.tokens_per_microbatch=2048"),
        *LESSONS[algo].split(),
        f"model.path={model if algo in ('sft', 'kd') else taught}",
        *([f"algo.teacher.path={taught}"] if algo == "kd" else []),
        f"hydra.run.dir={out / algo}",
    ]


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the three files of grade-school-math")
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=LESSONS)
    given = parser.parse_args(args)
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    prepare(given.data, out)
    for algo in [given.only] if given.only else LESSONS:
        subprocess.run(command(algo, given.model, out), check=True)
    for algo in LESSONS:
        if (metrics := out / algo / "metrics.jsonl").exists():
            rows = [row for row in read(metrics) if "eval/loss" in row]
            for name in sorted({name for row in rows for name in row if name.startswith("eval/")}):
                print(f"{algo:4} {name:28} {' -> '.join(f'{row[name]:.3f}' for row in rows if name in row)}")


if __name__ == "__main__":
    main()

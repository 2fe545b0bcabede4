"""The same GRPO work here and in TRL's GRPOTrainer, in turn, each in a process of its own.

    python3.11 -m venv /tmp/trl-venv
    /tmp/trl-venv/bin/pip install torch==2.13.0     # the same build as here
    /tmp/trl-venv/bin/pip install trl==1.16.0
    .venv/bin/python benchmarks/grpo_vs_trl.py --trl /tmp/trl-venv/bin/python

The work: 8 prompts x 8 responses of exactly 64 tokens, one update a rollout, a reference for the KL term, 20 steps; a
randomly initialised Llama of 3.1 million parameters in float32 learns to say one letter of 16. Model files, prompts,
reward, loss, optimizer and threads are the same; random numbers are not. `--cluster cpu` measures this side over Ray
with vLLM and DeepSpeed. The sides take turns, each first every other time; of `--repeats` the least counts, of seconds
and of CPU seconds. What a run of one step takes is the start, which is told apart.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Any

PROMPTS, SAMPLES, TOKENS, LR, BETA = 8, 8, 64, 2e-4, 0.001
LETTERS = "abcdefghijklmnop"
WANTED = "a"
MODEL = {"layers": 4, "hidden_size": 256, "heads": 4, "kv_heads": 4, "context_tokens": 512, "vocab_size": 19}
PHASES = ("generate", "score", "train", "sync")
HERE = Path(__file__).resolve().parents[1]


def share(response: str) -> float:
    return response.count(WANTED) / max(len(response), 1)


def score(samples: list[Any]) -> list[float]:
    """The reward on this side."""
    return [share(sample.response) for sample in samples]


def build_model(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_hydra.models.tiny import letter_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=MODEL["vocab_size"], hidden_size=MODEL["hidden_size"], intermediate_size=680,
        num_hidden_layers=MODEL["layers"], num_attention_heads=MODEL["heads"], num_key_value_heads=MODEL["kv_heads"],
        max_position_embeddings=MODEL["context_tokens"], tie_word_embeddings=False, initializer_range=0.05,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    print(f"model: {model.num_parameters() / 1e6:.2f} million parameters")


# ------------------------------------------------------------------------------------------------------- here


def here_command(model: Path, out: Path, steps: int, seed: int, cluster: str) -> list[str]:
    facts = [f"model.{key}={value}" for key, value in MODEL.items()]
    return [
        sys.executable, "-m", "rlhf_hydra", "algo=grpo", "model=tiny", f"model.path={model}", *facts,
        f"cluster={cluster}", "data=toy", f"data.letters={len(LETTERS)}",
        "reward=function", f"reward.path={__file__}:score", f"steps={steps}",
        f"seed={seed}", f"outputs={out}", f"hydra.run.dir={out}/run", f"algo.kl.coef={BETA}",
        f"rollout.prompts_per_step={PROMPTS}", f"rollout.samples_per_prompt={SAMPLES}",
        f"rollout.max_response_tokens={TOKENS}", f"rollout.min_response_tokens={TOKENS}",
        f"policy.samples_per_update={PROMPTS * SAMPLES}", f"policy.optim.lr={LR}",
        "policy.optim.schedule=linear", "policy.optim.min_lr_ratio=0", "policy.optim.warmup_ratio=0",
    ]  # fmt: skip


def read_here(out: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in (out / "run/metrics.jsonl").read_text().splitlines()]
    return {
        "rewards": [row["reward/mean"] for row in rows],
        "tokens": sum(row["tokens/generated"] for row in rows),
        "loop_s": sum(row["time/step_s"] for row in rows),
        "phases": {phase: sum(row[f"time/{phase}_s"] for row in rows) for phase in PHASES},
    }


# -------------------------------------------------------------------------------------------------------- TRL


def run_trl(model: str, out: Path, steps: int, seed: int) -> None:
    """In TRL's environment."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    spent = {"generate": 0.0, "score": 0.0, "step": 0.0, "tokens": 0.0}

    class Timed(GRPOTrainer):
        def _generate(self, *args, **kwargs):
            with stopwatch(spent, "generate"):
                return super()._generate(*args, **kwargs)

        def _generate_and_score_completions(self, *args, **kwargs):
            with stopwatch(spent, "score"):
                made = super()._generate_and_score_completions(*args, **kwargs)
            spent["tokens"] += float(made["completion_mask"].sum())
            return made

    class Steps(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            spent["step"] += time.perf_counter() - self.start

    def reward(completions, **_):
        return [share(completion) for completion in completions]

    config = GRPOConfig(
        output_dir=str(out / "trl"), per_device_train_batch_size=PROMPTS * SAMPLES, num_generations=SAMPLES,
        max_completion_length=TOKENS, generation_kwargs={"min_new_tokens": TOKENS}, max_steps=steps, learning_rate=LR,
        lr_scheduler_type="linear", adam_beta2=0.95, beta=BETA, loss_type="dapo", bf16=False, use_cpu=True,
        gradient_checkpointing=False, seed=seed, logging_steps=1, disable_tqdm=True, report_to="none",
        save_strategy="no", temperature=1.0,
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": LETTERS[i % len(LETTERS)]} for i in range(256)])
    policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = Timed(
        model=policy, reward_funcs=reward, args=config, train_dataset=rows, processing_class=tokenizer,
        callbacks=[Steps()],
    )  # fmt: skip
    trainer.train()
    score = spent["score"] - spent["generate"]
    phases = {"generate": spent["generate"], "score": score, "train": spent["step"] - spent["score"], "sync": 0.0}
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    result = {"rewards": rewards, "tokens": spent["tokens"], "loop_s": spent["step"], "phases": phases}
    (out / "trl.json").write_text(json.dumps(result))


@contextmanager
def stopwatch(spent: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent[name] += time.perf_counter() - start


# ---------------------------------------------------------------------------------------------------- measure


Side = Callable[[int, int, Path], dict[str, Any]]
"""Does the work: steps, seed and an empty folder -> what it took."""


def sides(model: Path, trl: str | None, cluster: str, threads: int) -> dict[str, Side]:
    def here(steps: int, seed: int, out: Path) -> dict[str, Any]:
        spent = measured(here_command(model, out, steps, seed, cluster), threads)
        return read_here(out) | spent

    def there(steps: int, seed: int, out: Path) -> dict[str, Any]:
        side = ["--side", str(model), str(out), str(seed)]
        spent = measured([str(trl), __file__, "--steps", str(steps), *side], threads)
        return json.loads((out / "trl.json").read_text()) | spent

    return {"here": here} | ({"TRL": there} if trl else {})


def measured(command: list[str], threads: int) -> dict[str, float]:
    """Wall and CPU seconds of a process with all that it starts, imports and all."""
    env = os.environ | {
        "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    start = time.perf_counter()
    with descendants_timed() as cpu, tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(command, cwd=HERE, env=env, stdout=output, stderr=subprocess.STDOUT)
        output.seek(0)
        said = output.read()[-4000:]
    wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{said}")
    return {"wall_s": wall, "cpu_s": sum(cpu.values())}


@contextmanager
def descendants_timed(interval_s: float = 0.2) -> Iterator[dict[tuple[int, int], float]]:
    """CPU seconds of each process (number and start) below this one, as last seen: Linux alone.

    What the kernel adds up for parents leaves out the children of those that ignore SIGCHLD, and Ray's daemon, the
    parent of its actors, does. The last `interval_s` of a process are not seen.
    """
    seen: dict[tuple[int, int], float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval_s):
            seen.update(descendants(os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def descendants(root: int) -> dict[tuple[int, int], float]:
    found, children = {}, defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = file.read_text().rpartition(")")[2].split()  # from field 3 of proc(5) on
            pid, seconds = int(file.parent.name), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            children[int(fields[1])].append((pid, int(fields[19]), seconds))
    parents = [root]
    while parents:
        for pid, started, seconds in children[parents.pop()]:
            found[pid, started] = seconds
            parents.append(pid)
    return found


def adopt_orphans() -> None:
    """Processes whose parent ends become this one's, so that they stay below it: Ray's are such."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def report(name: str, side: dict[str, Any]) -> None:
    phases = "  ".join(f"{phase} {seconds:.2f}" for phase, seconds in side["phases"].items())
    print(f"{name:<6} {side['tokens'] / side['loop_s']:7.0f} tokens/s  loop {side['loop_s']:.2f} s ({phases})")
    print(f"{'':<6} process {side['wall_s']:.1f} s wall, {side['cpu_s']:.1f} s CPU, start and export included")
    print(f"{'':<6} reward {' '.join(f'{reward:.2f}' for reward in side['rewards'])}", flush=True)


def compare(runs: dict[str, list[dict[str, Any]]], starts: dict[str, dict[str, Any]]) -> None:
    """The ratios, above 1 where this side is ahead, and how far the mean curves are apart."""

    def ratio(seconds: Callable[[str, dict[str, Any]], float]) -> float:
        least = {name: min(seconds(name, run) for run in some) for name, some in runs.items()}
        return least["TRL"] / least["here"]

    print(
        f"ratios: tokens/s of the loop {ratio(lambda _, run: run['loop_s'] / run['tokens']):.2f}"
        f"   with start and export {ratio(lambda _, run: run['wall_s'] / run['tokens']):.2f}\n"
        f"        CPU seconds {ratio(lambda _, run: run['cpu_s']):.2f}"
        f"   of all steps but the first {ratio(lambda name, run: run['cpu_s'] - starts[name]['cpu_s']):.2f}"
    )
    curves = {name: mean_curve(some) for name, some in runs.items()}
    for name, curve in curves.items():
        print(f"reward, mean of the repeats: {name:<4} {' '.join(f'{reward:.2f}' for reward in curve)}")
    apart = fmean(abs(x - y) for x, y in zip(curves["here"], curves["TRL"], strict=True))
    print(f"        apart by {apart:.3f} on average")


def mean_curve(runs: list[dict[str, Any]]) -> list[float]:
    return [fmean(rewards) for rewards in zip(*(run["rewards"] for run in runs), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", help="Python with TRL; without it only this side is measured")
    parser.add_argument("--cluster", default="local", choices=["local", "cpu"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--side", nargs=3, metavar=("MODEL", "OUT", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return run_trl(args.side[0], Path(args.side[1]), args.steps, int(args.side[2]))
    adopt_orphans()
    with tempfile.TemporaryDirectory() as folder:
        build_model(model := Path(folder) / "model")

        work = sides(model, args.trl, args.cluster, args.threads)

        def run(name: str, steps: int, seed: int) -> dict[str, Any]:
            return work[name](steps, seed, Path(tempfile.mkdtemp(dir=folder)))

        starts = {name: run(name, 1, 0) for name in work}
        for name, start in starts.items():
            print(f"{name:<6} a run of one step: {start['wall_s']:.1f} s wall, {start['cpu_s']:.1f} s CPU", flush=True)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in work}
        for seed in range(args.repeats):
            for name in sorted(work, reverse=seed % 2 == 0):
                runs[name].append(run(name, args.steps, seed))
                report(name, runs[name][-1])
        if args.trl:
            compare(runs, starts)


if __name__ == "__main__":
    main()

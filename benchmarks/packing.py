"""Training steps on the same rows: packed, padded in their order, and padded after sorting by length.

    .venv/bin/python benchmarks/packing.py

512 rows whose lengths are geometric (mean 100, cut at 1,000) in batches of 16, each a forward, a backward and a step of
AdamW; a random Llama of 3.1 million parameters with 2,000 tokens of vocabulary, float32. The three take turns, and of
each the quickest of `--repeats` counts. `slots` are the positions that are computed, padding included. The sum of the
losses at the start is the same number in all three, which is checked.
"""

import argparse
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.models.packed import ATTENTION, pack
from rlhf_hydra.models.policy import PolicyModel

ROWS, BATCH, MEAN, LONGEST, VOCABULARY = 512, 16, 100, 1000, 2000


def make_rows(count: int) -> list[list[int]]:
    """Lengths L with P(L = n) = (1 - p)^(n - 1) p, p = 1 / mean; at least 2, so that there is something to predict."""
    rng = random.Random(0)
    lengths = [1 + int(math.log(1 - rng.random()) / math.log(1 - 1 / MEAN)) for _ in range(count)]
    return [[rng.randrange(2, VOCABULARY) for _ in range(min(LONGEST, max(2, length)))] for length in lengths]


def make_model(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=5, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=LONGEST, tie_word_embeddings=True, attn_implementation=attention,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def padded(model: LlamaForCausalLM, rows: list[list[int]]) -> tuple[Tensor, int]:
    """Minus the sum of the log-probabilities, and the slots."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (losses * mask[:, 1:].flatten()).sum(), tokens.numel()


def packed(model: PolicyModel, rows: list[list[int]]) -> tuple[Tensor, int]:
    """The same, as the project does it: longest row first, end to end."""
    rows = sorted(rows, key=len, reverse=True)
    batch = RolloutBatch.from_sequences([row[:1] for row in rows], [row[1:] for row in rows], group=range(len(rows)))
    return -model(pack(batch), 1.0, "none")[0].sum(), int(batch.lengths.sum())


@dataclass
class Pass:
    wall_s: float = 0.0
    cpu_s: float = 0.0
    loss: float = 0.0
    slots: int = 0


def train(
    model: nn.Module, loss_of: Callable[[Any, list[list[int]]], tuple[Tensor, int]], rows: list, lr: float
) -> Pass:
    """One pass over the rows."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    result, wall, cpu = Pass(), time.perf_counter(), time.process_time()
    for start in range(0, len(rows), BATCH):
        loss, slots = loss_of(model, rows[start : start + BATCH])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        result.loss += loss.item()
        result.slots += slots
    result.wall_s, result.cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    rows = make_rows(args.rows)
    by_length = sorted(rows, key=len)
    ways = {
        "packed": (PolicyModel(make_model(ATTENTION)), packed, rows),
        "padded": (make_model("sdpa"), padded, rows),
        "padded, sorted": (make_model("sdpa"), padded, by_length),
    }
    first = {way: train(model, loss_of, rows, lr=0.0) for way, (model, loss_of, rows) in ways.items()}  # warms up
    losses = [run.loss for run in first.values()]
    assert max(losses) - min(losses) < 1e-5 * abs(losses[0]), losses
    best: dict[str, Pass] = {}
    for _ in range(args.repeats):
        for way, (model, loss_of, rows) in ways.items():
            run = train(model, loss_of, rows, lr=1e-4)
            best[way] = min(best.get(way, run), run, key=lambda run: run.wall_s)
    report(best, sum(map(len, rows)))


def report(best: dict[str, Pass], tokens: int) -> None:
    packed = best["packed"]
    print(f"{tokens} tokens, {torch.get_num_threads()} threads")
    for way, run in best.items():
        times, slots = run.wall_s / packed.wall_s, run.slots / packed.slots
        share = (
            "" if way == "packed" else f"  packed is {times:.2f} x faster, {times / slots:.2f} of the ratio of slots"
        )
        rate = f"{run.wall_s:6.2f} s wall {run.cpu_s:6.2f} s CPU {tokens / run.wall_s:7.0f} tokens/s"
        print(f"{way:<15} {rate}  {run.slots:7d} slots ({slots:.2f}){share}")


if __name__ == "__main__":
    main()

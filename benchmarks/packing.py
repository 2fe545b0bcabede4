"""Forward and backward of the same rows: packed, padded in their order, and padded after sorting by length.

    .venv/bin/python benchmarks/packing.py

96 rows whose lengths are log-normal (geometric mean 100, cut at 1,000) in batches of 16; a random Llama of 3.1 million
parameters with 2,000 tokens of vocabulary, float32. The three take turns, and of each the quickest of `--repeats`
counts. The loss is the same number in all three, which is checked.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.data.packing import partition
from rlhf_hydra.models.packed import ATTENTION, pack
from rlhf_hydra.models.policy import PolicyModel

ROWS, BATCH, LONGEST, VOCABULARY = 96, 16, 1000, 2000


def make_rows() -> list[list[int]]:
    rng = random.Random(0)
    lengths = [min(LONGEST, max(4, round(rng.lognormvariate(4.605, 1.0)))) for _ in range(ROWS)]
    return [[rng.randrange(2, VOCABULARY) for _ in range(length)] for length in lengths]


def make_model(attention: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=5, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=LONGEST, tie_word_embeddings=True, attn_implementation=attention,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def padded(model: LlamaForCausalLM, rows: list[list[int]]) -> Iterator[Tensor]:
    """The sum of the log-probabilities, a batch at a time."""
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        width = max(map(len, batch))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch])
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1]
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
        yield (logprobs * mask[:, 1:]).sum()


def packed(model: PolicyModel, rows: list[list[int]]) -> Iterator[Tensor]:
    """The same, in bins of as many tokens as a padded batch has at the most."""
    batch = RolloutBatch.from_sequences([row[:1] for row in rows], [row[1:] for row in rows], group=range(len(rows)))
    (bins,) = partition(batch.lengths.tolist(), 1, BATCH * LONGEST // 4)
    for bin_ in bins:
        yield model(pack(batch[bin_]), 1.0, "none")[0].sum()


def timed(losses: Callable[[], Iterator[Tensor]]) -> tuple[float, float]:
    start, total = time.perf_counter(), 0.0
    for loss in losses():
        loss.backward()
        total += loss.item()
    return time.perf_counter() - start, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rows, plain, policy = make_rows(), make_model("sdpa"), PolicyModel(make_model(ATTENTION))
    ways: dict[str, Callable[[], Iterator[Tensor]]] = {
        "packed": lambda: packed(policy, rows),
        "padded": lambda: padded(plain, rows),
        "padded, sorted": lambda: padded(plain, sorted(rows, key=len)),
    }
    found = {way: [timed(losses) for _ in range(1)] for way, losses in ways.items()}  # warm up
    for _ in range(repeats):
        for way, losses in ways.items():
            found[way].append(timed(losses))
    seconds = {way: min(s for s, _ in runs[1:]) for way, runs in found.items()}
    totals = [runs[0][1] for runs in found.values()]
    assert max(totals) - min(totals) < 1e-4 * abs(totals[0]), totals
    tokens = sum(map(len, rows))
    print(f"{len(rows)} rows, {tokens} tokens")
    for way, s in seconds.items():
        print(f"{way:<15} {s:6.2f} s  {tokens / s:6.0f} tokens/s  {s / seconds['packed']:.2f} x packed")


if __name__ == "__main__":
    main()

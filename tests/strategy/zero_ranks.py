"""The ranks of the DeepSpeed tests: `python zero_ranks.py FOLDER SIZE`, with MASTER_ADDR and MASTER_PORT set.

FOLDER holds `work.pt`: the model's folder, the run of each case, and the batch. For each case this trains three steps,
saves before the last one, takes it again from there, and writes what came out to `CASE-SIZE-RANK.pt`.
"""

import sys
from pathlib import Path

import torch

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.cluster.roles import shards
from rlhf_hydra.strategy.base import Rank
from rlhf_hydra.workers.policy import PolicyWorker, ReferenceWorker

STEPS, MAX_TOKENS = 3, 16


def train(worker, batch, rank, steps):
    parts, _ = shards(batch, rank.size, MAX_TOKENS)
    totals = StepTotals.of(batch)
    return [worker.step(parts[rank.index], totals, 0.0) for _ in range(steps)]


def weights(worker):
    return {name: tensor.clone() for name, tensor in worker.weights()}


def case(name, run, model, batch, rank, folder):
    worker = PolicyWorker(run, model, rank)
    if name == "zero3":  # the output layer in chunks, whose parameters the backward pass gathers again
        worker.trainer.engine.module.logits_at_once = 5 * worker.lm.config.vocab_size
    parts, _ = shards(batch, rank.size, MAX_TOKENS)
    before = worker.logprobs(parts[rank.index], 1.0)
    reference = ReferenceWorker(run, model, rank).logprobs(parts[rank.index], 1.0)
    metrics = train(worker, batch, rank, STEPS - 1)
    state = folder / f"{name}-{rank.size}"
    worker.save(state)
    metrics += train(worker, batch, rank, 1)
    straight = weights(worker)

    other = PolicyWorker(run, model, rank)
    other.load(state)
    train(other, batch, rank, 1)
    out = {"metrics": metrics, "weights": straight, "resumed": weights(other), "before": before, "reference": reference}
    worker.export(folder / f"{name}-{rank.size}-model")
    torch.save(out, folder / f"{name}-{rank.size}-{rank.index}.pt")


def main(index, folder, size):
    torch.set_num_threads(1)
    work = torch.load(folder / "work.pt", weights_only=False)
    for name, run in work["cases"].items():
        print(f"rank {index}: {name}", flush=True)
        case(name, run, work["model"], work["batch"], Rank(index, size), folder)


if __name__ == "__main__":
    arguments = Path(sys.argv[1]), int(sys.argv[2])
    torch.multiprocessing.spawn(main, arguments, nprocs=arguments[1])

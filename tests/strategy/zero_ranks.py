"""The ranks of the DeepSpeed tests: `python zero_ranks.py FOLDER SIZE`, with MASTER_ADDR and MASTER_PORT set.

FOLDER holds `work.pt`: the model's folder, the run of each case by size, and the batch. For each case this trains
three steps, saves before the last one, takes it again from there, and writes what came out to `CASE-SIZE-RANK.pt`.
"""

import sys
from pathlib import Path

import torch

from rlhf_hydra.algos.losses import StepTotals
from rlhf_hydra.cluster.roles import shards
from rlhf_hydra.models.lora import merged
from rlhf_hydra.strategy.base import Rank
from rlhf_hydra.workers.policy import PolicyWorker, ReferenceWorker, bare

STEPS, MAX_TOKENS = 3, 16


def train(worker, batch, rank, steps):
    parts, _ = shards(batch, rank.size, MAX_TOKENS)
    totals = StepTotals.of(batch)
    return [worker.step(parts[rank.index], totals, 0.0) for _ in range(steps)]


def weights(worker):
    return {name: tensor.clone() for name, tensor in worker.weights()}


def averages(worker):
    return {name: tensor.clone() for name, tensor in merged(worker.lm, bare(worker.trainer.averages()))}


def start(kind, run, model, rank):
    """With the output layer in chunks, of which the ranks have different numbers."""
    worker = kind(run, model, rank)
    worker.trainer.engine.module.logits_at_once = 5 * worker.lm.config.vocab_size
    return worker


def case(name, run, model, batch, rank, folder):
    worker = start(PolicyWorker, run, model, rank)
    parts, _ = shards(batch, rank.size, MAX_TOKENS)
    before = worker.logprobs(parts[rank.index], 1.0)
    reference = start(ReferenceWorker, run, model, rank).logprobs(parts[rank.index], 1.0)
    metrics = train(worker, batch, rank, STEPS - 1)
    state = folder / f"{name}-{rank.size}"
    worker.save(state)
    metrics += train(worker, batch, rank, 1)
    straight = weights(worker)

    other = start(PolicyWorker, run, model, rank)
    other.load(state)
    train(other, batch, rank, 1)
    out = {"metrics": metrics, "weights": straight, "resumed": weights(other), "before": before, "reference": reference}
    out |= {"average": averages(worker), "average resumed": averages(other)}
    out |= {"trained": worker.logprobs(parts[rank.index], 1.0), "base": worker.base_logprobs(parts[rank.index], 1.0)}
    worker.export(folder / f"{name}-{rank.size}-model")
    torch.save(out, folder / f"{name}-{rank.size}-{rank.index}.pt")


def main(index, folder, size):
    torch.set_num_threads(1)
    work = torch.load(folder / "work.pt", weights_only=False)
    for name, run in work["cases"][size].items():
        case(name, run, work["model"], work["batch"], Rank(index, size), folder)


if __name__ == "__main__":
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    if size == 1:
        main(0, folder, size)
    else:
        torch.multiprocessing.spawn(main, (folder, size), nprocs=size)

"""What a supervised run learns from: examples, the order in which they come, and what the reference says of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhf_hydra.algos.objectives import Objective, Totals
from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.cluster.roles import TokenModel
from rlhf_hydra.data.examples import Examples
from rlhf_hydra.data.order import Order, permutation
from rlhf_hydra.data.prompts import check_same
from rlhf_hydra.data.report import Note, Progress, unsaid

REFERENCE = "reference.safetensors"
"""In the run's folder: what the reference says of all examples."""


class Lessons:
    """Examples as the objective reads them. `refer` first, if it needs a reference."""

    def __init__(
        self, examples: Examples, goal: Objective, seed: int, max_tokens: int, limit: int | None = None
    ) -> None:
        self.examples, self.goal, self.max_tokens = examples, goal, max_tokens
        self.items = range(min(len(examples), limit or len(examples)))
        self.wanted: Sequence[int] = self.items
        """Those that the run will look at: the reference is asked about no others."""
        self.others = others(len(self.items), seed) if goal.needs_mismatched else []
        self.unit = examples.rows_each
        """Rows of an example."""
        self.known: dict[str, Tensor] = {}
        """The reference's log-probability of each response [rows], and of each `mismatched` one [examples]; NaN where
        it was not asked."""

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, items: Sequence[int]) -> RolloutBatch:
        batch = self.examples.batch(items)
        if not self.goal.needs_reference or not self.known:
            return batch
        return batch.replace(ref_totals=self.known["own"].view(len(self), -1)[list(items)].flatten())

    def mismatched(self, items: Sequence[int]) -> RolloutBatch:
        """The prompts of these examples, each with the response of another one; cut at `max_tokens`."""
        own, other = self.examples.batch(items), self.examples.batch([self.others[item] for item in items])
        prompts = [halves(own, i)[0] for i in range(len(items))]
        responses = [halves(other, i)[1] for i in range(len(items))]
        fitting = [r[: max(1, self.max_tokens - len(p))] for p, r in zip(prompts, responses, strict=True)]
        return RolloutBatch.from_sequences(prompts, fitting, group=range(len(items)), images=own.images or ())

    def refer(self, model: TokenModel, size: int, note: Note = unsaid) -> None:
        """Ask the reference about every example that is `wanted`, `size` at a time."""
        own = torch.full((len(self), self.unit), torch.nan)
        mismatched = torch.full((len(self),), torch.nan)
        for part in watched(parts(self.wanted, size), Progress("reference", note, len(self.wanted))):
            own[list(part)] = totals(model, self.batch(part)).view(-1, self.unit)
            if self.goal.needs_mismatched:
                mismatched[list(part)] = totals(model, self.mismatched(part))
        self.known = {"own": own.flatten()} | ({"mismatched": mismatched} if self.goal.needs_mismatched else {})

    def count(self, batch: RolloutBatch) -> Totals:
        return Totals.count(batch, in_pairs=self.unit == 2)

    def drift(self, model: TokenModel, items: Sequence[int]) -> Tensor:
        """log-probability of each mismatched response, less that under the reference. [items]"""
        return totals(model, self.mismatched(items)) - self.known["mismatched"][list(items)]

    def kl(self, model: TokenModel, items: Sequence[int], size: int) -> float:
        """KTO's z: max(0, mean of the `drift` of these examples); 0 for other objectives."""
        if not self.goal.needs_mismatched:
            return 0.0
        return max(0.0, float(torch.cat([self.drift(model, part) for part in parts(items, size)]).double().mean()))


def others(count: int, seed: int) -> list[int]:
    """For each of `count` examples another one, each once: the next on a random way round through all of them."""
    way = permutation(count, seed, -1)
    following = dict(zip(way, [*way[1:], *way[:1]], strict=True))
    return [following[item] for item in range(count)]


def halves(batch: RolloutBatch, row: int) -> tuple[list[int], list[int]]:
    """A row's tokens before the first one to learn, and from there on."""
    start = int(batch.response_mask[row].int().argmax())
    tokens = batch.tokens[row, : int(batch.lengths[row])].tolist()
    return tokens[:start], tokens[start:]


def totals(model: TokenModel, batch: RolloutBatch) -> Tensor:
    """log-probability of each response. [rows]"""
    return model.logprobs(batch, 1.0).get().sum(1)


def parts(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def watched(found: Iterator[Sequence[int]], progress: Progress) -> Iterator[Sequence[int]]:
    """`found`; what takes long is told how far it is."""
    done = 0
    for part in found:
        yield part
        done += len(part)
        progress.at(done)


class Passes:
    """Examples without end: pass after pass, each in an order that depends only on seed, pass and number.

    Nothing is left out: the last batch of a pass may be smaller.
    """

    def __init__(self, lessons: Lessons, size: int, seed: int) -> None:
        self.count, self.size, self.seed = len(lessons), size, seed
        self.fingerprint, self.order = lessons.examples.fingerprint, Order(len(lessons), seed)
        self.number, self.place = 0, 0

    def take(self) -> list[int]:
        """The next `size` examples, or what is left of the pass."""
        items = self.order.of_pass(self.number)[self.place : self.place + self.size]
        self.place += len(items)
        if self.place == self.count:
            self.number, self.place = self.number + 1, 0
        return items

    def first(self, count: int) -> Sequence[int]:
        """The `count` examples that come first, in the order of their numbers; all, where a pass has no more."""
        return range(self.count) if count >= self.count else sorted(self.order.of_pass(0)[:count])

    def state(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "seed": self.seed, "pass": self.number, "place": self.place}

    def load_state(self, state: dict[str, Any]) -> None:
        check_same(state, self.state())
        self.number, self.place = state["pass"], state["place"]


def refer(
    sets: Mapping[str, Lessons], file: Path, path: str, size: int, ask: Callable[[], TokenModel], note: Note = unsaid
) -> None:
    """Fill in what the reference, the model in `path`, says of the `sets`: from `file`, which is made by asking it."""
    about = {name: f"{its.examples.fingerprint}/{len(its.wanted)} of {len(its)}" for name, its in sets.items()}
    about |= {"path": path}
    if not file.exists() or read_about(file) != about:
        model = ask()
        for lessons in sets.values():
            lessons.refer(model, size, note)
        tensors = {f"{name}/{key}": t for name, lessons in sets.items() for key, t in lessons.known.items()}
        aside = file.with_suffix(".part")
        save_file(tensors, aside, metadata=about)
        aside.replace(file)
    with safe_open(file, framework="pt") as stored:
        for key in list(stored.keys()):
            name, _, kind = key.partition("/")
            sets[name].known[kind] = stored.get_tensor(key)


def read_about(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as stored:
        return stored.metadata()

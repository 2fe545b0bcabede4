"""Given texts beside a rollout, in a seeded order that can be resumed."""

from typing import Any

from rlhf_hydra.batch import RolloutBatch
from rlhf_hydra.data.examples import Examples
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.order import Order


class TextStream:
    """Texts without end: pass after pass, each in an order that depends only on seed, pass and number of texts."""

    def __init__(self, examples: Examples, seed: int) -> None:
        self.examples, self.seed, self.taken = examples, seed, 0
        self.order = Order(len(examples), seed)

    def take(self, n: int) -> RolloutBatch:
        """The next `n` texts; `response_mask` says what to learn. Runs on into the next pass where one ends."""
        items = self.order.take(self.taken, n)
        self.taken += n
        return self.examples.batch(items).only()

    def state(self) -> dict[str, Any]:
        return {"fingerprint": self.examples.fingerprint, "seed": self.seed, "taken": self.taken}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on after `state["taken"]` texts. DataError where that would not be the same order."""
        for key, mine in (("fingerprint", self.examples.fingerprint), ("seed", self.seed)):
            if state[key] != mine:
                raise DataError(f"cannot resume: algo.ptx.data has another {key}, {mine}, than before, {state[key]}")
        self.taken = int(state["taken"])

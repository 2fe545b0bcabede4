"""The order in which things come: seeded, and the same wherever a run goes on."""

import random
from functools import lru_cache, partial


def permutation(n: int, seed: int, number: int) -> list[int]:
    """A seeded order of range(n) for pass `number`."""
    # Sorted by random keys: Python promises the same `random()` in every version, and not the same `shuffle`.
    rng = random.Random(f"{seed}/{number}/{n}")
    keys = [rng.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)


class Order:
    """range(n) without end: pass after pass, each in an order that depends only on seed, pass and n."""

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.of_pass = lru_cache(maxsize=1)(partial(permutation, n, seed))

    def take(self, start: int, count: int) -> list[int]:
        """`count` of them from position `start` on, into the next pass where one ends."""
        items: list[int] = []
        while len(items) < count:
            number, place = divmod(start + len(items), self.n)
            items += self.of_pass(number)[place : place + count - len(items)]
        return items

"""n equal workers called as one, in this process or as Ray actors, through the same two verbs.

`all(method, *args)` makes the same call on every worker; `each(method, calls)` makes one call on each.
Both return at once with a `Pending`, whose `get` waits and gives one result per worker.
`stream` is for what is large: the items that the first worker's generator yields, passed on without being unpacked.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.strategy.base import Rank

Factory = Callable[[Rank], Any]
"""Makes the worker of one rank, e.g. `functools.partial(PolicyWorker, run, folder)`."""


class WorkerFailed(Failure):
    """A worker raised or died; the message names role, rank and method, and shows where."""


class Pending(Protocol):
    def get(self) -> list[Any]:
        """Wait; one result per worker. Raises WorkerFailed."""


class Group(Protocol):
    role: str
    size: int

    def all(self, method: str, *args: Any) -> Pending: ...

    def each(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Pending: ...

    def stream(self, method: str, *args: Any) -> Iterator[Any]: ...

    def close(self) -> None: ...


def invoke(worker: Any, method: str, args: Sequence[Any]) -> Any:
    """Call a method, or read an attribute."""
    found = getattr(worker, method)
    return found(*args) if callable(found) else found


class Done:
    def __init__(self, results: list[Any]) -> None:
        self.results = results

    def get(self) -> list[Any]:
        return self.results


class LocalGroup:
    """Workers in this process, called one after another."""

    def __init__(self, role: str, factory: Factory, size: int) -> None:
        self.role, self.size = role, size
        self.workers = [factory(Rank(i, size)) for i in range(size)]

    def all(self, method: str, *args: Any) -> Pending:
        return self.each(method, [args] * self.size)

    def each(self, method: str, calls: Sequence[tuple[Any, ...]]) -> Pending:
        return Done([invoke(w, method, args) for w, args in zip(self.workers, calls, strict=True)])

    def stream(self, method: str, *args: Any) -> Iterator[Any]:
        yield from getattr(self.workers[0], method)(*args)

    def close(self) -> None:
        for worker in self.workers:
            if hasattr(worker, "close"):
                worker.close()
        self.workers = []

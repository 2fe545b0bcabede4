"""Which rows go to which worker and into which micro-batch.

Cost is counted in tokens. Every worker gets the same number of micro-batches, since sharded training runs
collectives in each of them; a worker with fewer rows gets empty ones, which the workers run as zero-weight passes.
"""

import heapq
import math
from collections.abc import Sequence

Bins = list[list[int]]


def partition(lengths: Sequence[int], num_workers: int, max_tokens: int) -> list[Bins]:
    """Micro-batches of each worker: `result[worker][microbatch]` is a list of row numbers, longest row first.

    `num_workers * m` bins, with the smallest m for which first-fit decreasing keeps every bin within `max_tokens`; then
    rows are spread over that many bins as evenly as longest-processing-time-first does, unless that breaks the budget.
    A row longer than `max_tokens` gets a bin of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    filled = first_fit(lengths, order, max_tokens)
    num_bins = max(1, math.ceil(len(filled) / num_workers)) * num_workers
    even = balance(lengths, order, num_bins)
    if any(len(bin_) > 1 and sum(lengths[row] for row in bin_) > max_tokens for bin_ in even):
        even = filled + [[] for _ in range(num_bins - len(filled))]
    shares = balance([sum(lengths[row] for row in bin_) for bin_ in even], range(num_bins), num_workers, equal=True)
    return [[even[b] for b in sorted(share)] for share in shares]


def first_fit(lengths: Sequence[int], order: Sequence[int], max_tokens: int) -> Bins:
    """Each row, in `order`, into the first bin with room. O(rows * bins)."""
    bins: Bins = []
    room: list[int] = []
    for row in order:
        for b, free in enumerate(room):
            if lengths[row] <= free:
                bins[b].append(row)
                room[b] -= lengths[row]
                break
        else:
            bins.append([row])
            room.append(max_tokens - lengths[row])
    return bins


def balance(costs: Sequence[int], order: Sequence[int], num_parts: int, equal: bool = False) -> Bins:
    """Each item, costliest first, into the lightest part; with `equal`, all parts take the same number of items."""
    capacity = math.ceil(len(costs) / num_parts) if equal else len(costs)
    heap = [(0, part) for part in range(num_parts)]
    parts: Bins = [[] for _ in range(num_parts)]
    for item in sorted(order, key=lambda i: -costs[i]):
        load, part = heapq.heappop(heap)
        parts[part].append(item)
        if len(parts[part]) < capacity:
            heapq.heappush(heap, (load + costs[item], part))
    return parts

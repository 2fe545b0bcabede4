"""Several sources as one: which row of which source comes next, and what is told about them together."""

import hashlib
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from rlhf_hydra.config.schema import Blend, Data
from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.order import permutation
from rlhf_hydra.data.report import DataReport

Pick = tuple[int, int]
"""Number of the source, number of one of its items."""


def picks(cfg: Blend, sizes: Sequence[int], seed: int) -> list[Pick]:
    """The blend, from its sources' sizes: every draw takes source s with probability weight_s / sum of weights, and of
    it the next item of a seeded order. It ends as `cfg.until` says."""
    if cfg.until == "once":
        return [(source, item) for source, size in enumerate(sizes) for item in range(size)][: cfg.limit]
    bounds = list(accumulate(source.weight for source in cfg.sources.values()))
    rng = random.Random(f"blend/{seed}/{list(sizes)}")
    used_up, enough = 0, 1 if cfg.until == "first" else len(sizes)
    taken = [0] * len(sizes)
    orders: list[list[int]] = [[] for _ in sizes]
    found: list[Pick] = []
    while used_up < enough and len(found) != cfg.limit:
        source = bisect_right(bounds, rng.random() * bounds[-1], hi=len(bounds) - 1)
        place = taken[source] % sizes[source]
        if place == 0:
            orders[source] = permutation(sizes[source], seed, taken[source] // sizes[source])
        found.append((source, orders[source][place]))
        taken[source] += 1
        used_up += taken[source] == sizes[source]
    return found


def sources_of(cfg: Blend) -> Mapping[str, Data]:
    if not cfg.sources:
        raise DataError("data.sources is empty: a blend needs sources, each with a name, as conf/data/blend.yaml shows")
    return cfg.sources


def together(cfg: Blend, reports: Sequence[DataReport], drawn: Sequence[Pick]) -> DataReport:
    """One report on all sources; `drawn` is the blend."""
    counts = Counter(source for source, _ in drawn)
    digest = hashlib.sha256(repr([[report.fingerprint for report in reports], list(drawn)]).encode())
    named = list(zip(cfg.sources, reports, strict=True))
    return DataReport(
        source=f"blend of {len(reports)} sources",
        read=sum(report.read for report in reports),
        used=sum(report.used for report in reports),
        made=len(drawn),
        dropped={f"{name}: {why}": n for name, report in named for why, n in report.dropped.items()},
        examples={f"{name}: {why}": row for name, report in named for why, row in report.examples.items()},
        max_tokens=max(report.max_tokens for report in reports),
        fingerprint=digest.hexdigest()[:16],
        noun=reports[0].noun,
        notes=[
            f"{name}: {counts[i]} of {len(drawn)} ({counts[i] / len(drawn):.1%}), from {report.used} usable rows of "
            f"{report.source}"
            for i, (name, report) in enumerate(named)
        ]
        + [f"{name}: {note}" for name, report in named for note in report.notes],
    )

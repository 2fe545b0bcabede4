"""Where values stand on an axis from 0 to 1, and in which colours. Shared by the page and the plots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_hydra.sweep.findings import distinct, is_number
from rlhf_hydra.sweep.report import shown
from rlhf_hydra.sweep.runs import Value

RAMP = ("#2d3f8f", "#7a3b9a", "#c13f7b", "#e8703d", "#e0a019")
"""Low to high."""
KINDS = ("#2f5f9e", "#d1622b", "#1a7f5a", "#a83279", "#8a6d1d", "#5b4a9b", "#0f8b9a", "#b03a3a", "#6b7280", "#3f6212")
"""Of values without an order."""
MANY = 8
"""Values up to which each has a place of its own, at equal distances."""
WIDE = 20.0
"""Ratio of the largest to the smallest number from which an axis is logarithmic."""


@dataclass(frozen=True)
class Scale:
    key: str
    places: dict[Value, float]
    """Value -> 0 to 1."""
    ticks: list[tuple[float, str]]
    colors: dict[Value, str]


def scale(key: str, values: Sequence[Value]) -> Scale:
    """Few values stand at equal distances, many numbers where they belong, on a logarithm if they span much."""
    options = [value for value in distinct(values) if value is not None]
    numbers: list[Any] = [value for value in options if is_number(value)]
    if len(options) <= MANY or len(numbers) < len(options):
        places = {value: index / max(len(options) - 1, 1) for index, value in enumerate(options)}
        if len(options) == 1:
            places = {options[0]: 0.5}
        ticks = [(place, shown(value)) for value, place in places.items()]
    else:
        low, high = min(numbers), max(numbers)
        places, ticks = spread(numbers, is_log=low > 0 and high / low >= WIDE)
    has_order = len(numbers) == len(options)
    kinds = {value: KINDS[index % len(KINDS)] for index, value in enumerate(options)}
    return Scale(key, places, ticks, {value: ramp(places[value]) for value in options} if has_order else kinds)


def spread(numbers: Sequence[float], is_log: bool) -> tuple[dict[Value, float], list[tuple[float, str]]]:
    """Places in proportion, and five ticks."""
    low, high = min(numbers), max(numbers)
    bend, back = (math.log, math.exp) if is_log else (float, float)
    start, width = bend(low), (bend(high) - bend(low)) or 1.0
    ticks = [(part / 4, f"{back(start + width * part / 4):.3g}") for part in range(5)]
    return {value: (bend(value) - start) / width for value in numbers}, ticks


def ramp(place: float) -> str:
    """The colour at 0 to 1."""
    position = min(max(place, 0.0), 1.0) * (len(RAMP) - 1)
    index = min(int(position), len(RAMP) - 2)
    low, high = (bytes.fromhex(RAMP[n].removeprefix("#")) for n in (index, index + 1))
    mixed = (round(a + (b - a) * (position - index)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)

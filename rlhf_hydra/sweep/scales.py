"""Where values stand on an axis from 0 to 1, and in which colours. Shared by the page and the plots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_hydra.sweep.findings import are_many, distinct
from rlhf_hydra.sweep.runs import Value
from rlhf_hydra.sweep.words import shown

RAMP = ("#2d3f8f", "#7a3b9a", "#c13f7b", "#e8703d", "#e0a019")
"""Low to high."""
KINDS = ("#2f5f9e", "#d1622b", "#1a7f5a", "#a83279", "#8a6d1d", "#5b4a9b", "#0f8b9a", "#b03a3a", "#6b7280", "#3f6212")
"""Of values without an order."""
NO_COLOR = "#ffffff00"
LONGEST = 12
"""Words in a legend."""
WIDE = 5.0
"""Ratio of the largest to the smallest number from which an axis is logarithmic."""


@dataclass(frozen=True)
class Scale:
    """An axis of its own for a swept key, or for a metric, which has no colours."""

    key: str
    places: dict[Value, float]
    """Value -> 0 to 1."""
    ticks: list[tuple[float, str]]
    colors: dict[Value, str]

    @property
    def is_many(self) -> bool:
        """Whether values stand where they belong instead of at equal distances."""
        return len(self.ticks) < len(self.places)

    @property
    def legend(self) -> list[tuple[str, str]]:
        """(value, colour); of many numbers those at the ticks, of many words the first."""
        if self.is_many:
            return [(text, ramp(place)) for place, text in self.ticks]
        found = [(shown(value), color) for value, color in self.colors.items()]
        return found[:LONGEST] + [(f"and {len(found) - LONGEST} more", NO_COLOR)] * (len(found) > LONGEST)


def scale(key: str, values: Sequence[Value]) -> Scale:
    """Few values stand at equal distances, many numbers where they belong, on a logarithm if they span much."""
    options = distinct(values)
    numbers = [value for value in options if not isinstance(value, str)]
    if are_many(options):
        low, high = min(numbers), max(numbers)
        places, ticks = spread(numbers, is_log=low > 0 and high / low >= WIDE)
    else:
        places = {value: (index + 0.5) / len(options) for index, value in enumerate(options)}
        ticks = [(place, shown(value)) for value, place in places.items()]
    if len(numbers) == len(options):
        steps = places if are_many(options) else {v: n / max(len(options) - 1, 1) for n, v in enumerate(options)}
        return Scale(key, places, ticks, {value: ramp(step) for value, step in steps.items()})
    return Scale(key, places, ticks, {value: KINDS[index % len(KINDS)] for index, value in enumerate(options)})


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

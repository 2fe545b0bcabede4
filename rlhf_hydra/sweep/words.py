"""Values as readers see them."""

import math
from typing import Any

from rlhf_hydra.config.conditions import SHORT
from rlhf_hydra.sweep.settings import Setting

SHORT_NAMES = {metric: short for short, metric in SHORT.items()}


def short_key(key: str) -> str:
    """The last two words of a key."""
    return ".".join(key.split(".")[-2:])


def shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def measured(setting: Setting, metric: str) -> str:
    """The last value, over several seeds `0.520 ± 0.031`: mean and standard deviation, to the latter's two digits."""
    value, deviation = setting.last(metric), setting.deviation(metric)
    if value is None or not deviation:
        return shown(value) + ("" if deviation is None else " ± 0")
    places = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{value:.{places}f} ± {deviation:.{places}f}"

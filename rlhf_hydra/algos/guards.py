"""When a step must not be taken."""

import math
from collections.abc import Mapping


def non_finite(values: Mapping[str, float]) -> list[str]:
    """The names whose value is NaN or infinite."""
    return [name for name, value in values.items() if not math.isfinite(value)]


class SkipGuard:
    """Skips optimizer steps whose loss or gradient norm is not finite; gives up after `limit` of them in a row."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.skipped, self.in_a_row = 0, 0

    def skips(self, values: Mapping[str, float]) -> bool:
        """True: skip this step. Raises FloatingPointError with the names once `limit` steps in a row were skipped."""
        bad = non_finite(values)
        self.in_a_row = self.in_a_row + 1 if bad else 0
        self.skipped += bool(bad)
        if self.in_a_row >= self.limit:
            raise FloatingPointError(f"{self.in_a_row} steps in a row were not finite, the last in {', '.join(bad)}")
        return bool(bad)

    def state(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state(self, state: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]

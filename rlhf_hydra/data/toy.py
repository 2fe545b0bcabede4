"""The toy task: letters to repeat. Every machine makes the same rows, offline."""

from collections.abc import Iterator
from typing import Any

from rlhf_hydra.config.schema import ToyData

LABEL = "label"


def rows(cfg: ToyData) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows `{prompt: "c", label: "c"}`; the letters follow each other, so each is equally frequent."""
    for i in range(cfg.rows):
        letter = chr(ord("a") + i % cfg.letters)
        yield i + 1, {cfg.prompt_column: letter, LABEL: letter}

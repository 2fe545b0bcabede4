"""The toy task: letters to repeat. Every machine makes the same rows, offline."""

from collections.abc import Iterator
from typing import Any

from rlhf_hydra.config.schema import ToyData

LABEL = "label"
LETTERS = 4
"""Of a response."""


def rows(cfg: ToyData) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows `{prompt: "c", label: "c"}`; the letters follow each other, so each is equally frequent."""
    for i in range(cfg.rows):
        yield i + 1, {str(cfg.prompt_column): _letter(cfg, i), LABEL: _letter(cfg, i)}


def lessons(cfg: ToyData, in_steps: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same prompts, answered: `{prompt: "c", response: "cccc", chosen: "cccc", rejected: "cdca"}`.

    `in_steps`: the response is a solution whose letters are its steps, such as `cpdpcpcp`, and `verdicts` says which
    of them are right, `[true, false, true, true]`.
    """
    for i in range(cfg.rows):
        right = _letter(cfg, i)
        wrong = _letter(cfg, i + 1 + (i // cfg.letters) % (cfg.letters - 1))
        # Which letters are wrong: the bits of 1..15 one after the other, of 0..15 where none may be.
        bits = (i // cfg.letters) % 16 if in_steps else 1 + (i // cfg.letters) % 15
        mixed = [wrong if bits >> k & 1 else right for k in range(LETTERS)]
        solution: dict[str, Any] = {"response": right * LETTERS}
        if in_steps:
            solution["response"] = "".join(f"{letter}{cfg.placeholder}" for letter in mixed)
            solution["verdicts"] = [letter == right for letter in mixed]
        pair = {"chosen": right * LETTERS, "rejected": "".join(mixed)}
        yield i + 1, {str(cfg.prompt_column): right, LABEL: right, **solution, **pair}


def _letter(cfg: ToyData, i: int) -> str:
    return chr(ord("a") + i % cfg.letters)

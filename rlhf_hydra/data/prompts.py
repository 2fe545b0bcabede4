"""Prompts of a run: read, rendered and tokenised once, then served in a seeded order that can be resumed."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_hydra.batch import Images
from rlhf_hydra.config.schema import Blend, Data, ToyData
from rlhf_hydra.data import sources, toy
from rlhf_hydra.data.blend import picks, sources_of, together
from rlhf_hydra.data.files import DataError, Row
from rlhf_hydra.data.formats import present, text_or_messages
from rlhf_hydra.data.images import Gallery, contents
from rlhf_hydra.data.order import Order
from rlhf_hydra.data.report import BadKey, BadRow, DataReport, Ledger, Note, attempt, unsaid
from rlhf_hydra.data.templates import Line, Message, Renderer


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    """What the engine continues, special tokens included."""
    text: str
    """What was tokenised: after the template, special tokens that the tokenizer adds by itself not included."""
    label: Any
    """Value of `data.label_column`; None without one."""
    row: int
    """Line of a .jsonl or .csv file; position from 1 in any other source."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """The other columns of the row."""
    images: list[bytes] = field(default_factory=list)
    """What its images are found by (`data/images.py`)."""


def load_prompts(
    cfg: Data, tokenizer: Any, max_prompt_tokens: int, seed: int = 0, note: Note = unsaid
) -> tuple[list[Prompt], DataReport]:
    """The usable prompts of `cfg`, in the order of the source or, of a blend, in that of `seed`, and a report.

    Rows without a usable prompt or label are dropped and counted, or with `data.strict` refused; a missing column, a
    broken file or no usable row at all is a DataError.
    """
    if isinstance(cfg, Blend):
        found = sources_of(cfg).values()
        loaded = [load_prompts(source, tokenizer, max_prompt_tokens, seed, note) for source in found]
        drawn = picks(cfg, [len(prompts) for prompts, _ in loaded], seed)
        return [loaded[source][0][item] for source, item in drawn], together(cfg, [r for _, r in loaded], drawn)
    ledger = Ledger(sources.describe(cfg), cfg.strict, note)
    prompts = []
    for prompt in _tokenised(cfg, tokenizer, ledger):
        if not prompt.tokens:
            ledger.drop("prompt has no tokens", prompt.row)
        elif len(prompt.tokens) > max_prompt_tokens:
            ledger.drop(f"longer than {max_prompt_tokens} tokens (rollout.max_prompt_tokens)", prompt.row)
        else:
            prompts.append(prompt)
    ledger.used = ledger.made = len(prompts)
    report = ledger.report(max((len(p.tokens) for p in prompts), default=0), fingerprint(prompts), "prompts")
    if not prompts:
        raise DataError(f"no usable prompt in column `{cfg.prompt_column}`\n{report}")
    return prompts, report


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """16 hex digits that change when a text, a label or the order of the prompts does."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.text, prompt.label], sort_keys=True, default=str).encode())
        for image in prompt.images:
            digest.update(image)
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def shown(prompts: Sequence[Prompt]) -> Images:
    """The files of each prompt's images."""
    if not any(prompt.images for prompt in prompts):
        return ()
    return [[contents(image) for image in prompt.images] for prompt in prompts]


def _tokenised(cfg: Data, tokenizer: Any, ledger: Ledger) -> list[Prompt]:
    """All prompts at once, since that is several times faster. A plain text gets the tokenizer's prefix (BOS) and never
    its suffix: a response does not begin after EOS. A chat template writes its special tokens itself."""
    try:
        renderer = Renderer(cfg, tokenizer)
        gallery = Gallery(cfg, renderer) if cfg.images_column else None
    except BadRow as bad:
        raise DataError(f"{ledger.source}: {bad}") from bad
    column, label_column = _columns(cfg)

    def make(number: int, row: Row) -> Iterator[Prompt]:
        row, images, counts = gallery.hang(row) if gallery else (row, [], [])
        text = render(text_or_messages(row, column), column, renderer)
        label = None if label_column is None else present(row, label_column)
        rest = {name: row[name] for name in row if name not in (column, label_column, cfg.images_column)}
        tokens = gallery.expanded(Line(renderer.encode(text), []), images, counts).tokens if gallery else []
        yield Prompt(tokens, text, label, number, rest, images)

    rows = (attempt(make, number, row) for number, row in sources.read(cfg))
    found = [prompt for _, prompt in ledger.usable(rows)]
    if gallery:
        return found
    encode = renderer.encode_all if cfg.chat else renderer.opening_all
    return [replace(p, tokens=tokens) for p, tokens in zip(found, encode([p.text for p in found]), strict=True)]


def _columns(cfg: Data) -> tuple[str, str | None]:
    if cfg.prompt_column is None:
        raise DataError("data.prompt_column is null, and a run that samples needs prompts: name their column")
    return cfg.prompt_column, toy.LABEL if isinstance(cfg, ToyData) else cfg.label_column


def render(value: str | list[Message], column: str, renderer: Renderer) -> str:
    """Text of a prompt: `data.template` around a text, then the chat template if `data.chat`. Raises BadRow."""
    if not renderer.cfg.chat:
        if not isinstance(value, str):
            raise BadKey("holds chat messages; set data.chat=true", column)
        return renderer.fill(value)
    messages = renderer.turns(value, column)
    if messages[-1]["role"] == "assistant":
        raise BadRow("ends with a message of the assistant", column)
    return renderer.chat(messages, prompt=True)


# -------------------------------------------------------------------------------------------------------- order


class PromptStream:
    """Prompts without end: pass after pass, each in an order that depends only on seed, pass and number of rows."""

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        if not prompts:
            raise DataError("a stream needs at least one prompt")
        self.prompts, self.seed, self.taken = prompts, seed, 0
        self.fingerprint = fingerprint(prompts)
        self.order = Order(len(prompts), seed)

    def take(self, n: int) -> list[Prompt]:
        """The next `n` prompts; runs on into the next pass where one ends."""
        picked = [self.prompts[i] for i in self.order.take(self.taken, n)]
        self.taken += n
        return picked

    def state(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "seed": self.seed, "taken": self.taken}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on after `state["taken"]` prompts. Raises DataError where that would not be the same order."""
        check_same(state, self.state())
        self.taken = int(state["taken"])


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """DataError unless both are of the same data in the same order."""
    for key, what in (("fingerprint", "the data has changed"), ("seed", "the seed has changed")):
        if saved[key] != now[key]:
            says = f"cannot resume: {what} since the checkpoint ({key} {saved[key]}, now {now[key]})"
            raise DataError(f"{says}; leave it as it was, or start a new run")

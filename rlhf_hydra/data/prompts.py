"""Prompts of a run: read, rendered and tokenised once, then served in a seeded order that can be resumed."""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rlhf_hydra.config.schema import Data, ToyData
from rlhf_hydra.data import sources, toy
from rlhf_hydra.data.sources import DataError

Message = dict[str, Any]
Drops = dict[str, list[int]]
"""Numbers of the rows that are not used, by reason."""


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


@dataclass(frozen=True)
class DataReport:
    """What became of the rows. `str(report)` is a few lines for people."""

    source: str
    read: int
    used: int
    dropped: dict[str, int]
    """Rows that are not used, by reason."""
    examples: dict[str, int]
    """The first row that was dropped for each reason."""
    max_tokens: int
    """Of the longest prompt that is used."""
    fingerprint: str

    def record(self) -> dict[str, Any]:
        """What tells whether another run has the same data."""
        return {"source": self.source, "fingerprint": self.fingerprint, "rows": self.used}

    def __str__(self) -> str:
        head = f"{self.source}: {self.used} of {self.read} prompts, up to {self.max_tokens} tokens"
        reasons = (f"  dropped {count}: {why} (first: row {self.examples[why]})" for why, count in self.dropped.items())
        return "\n".join([head, *reasons])


def load_prompts(cfg: Data, tokenizer: Any, max_prompt_tokens: int) -> tuple[list[Prompt], DataReport]:
    """The usable prompts of `cfg`, in the order of the source, and a report on all rows.

    Rows without a usable prompt or label are dropped and counted; a missing column, a broken file or no usable row
    at all is a DataError.
    """
    drops: Drops = defaultdict(list)
    texts = list(_texts(cfg, tokenizer, drops))
    found = len(texts) + sum(map(len, drops.values()))
    prompts = []
    for prompt, tokens in zip(texts, _tokenise([p.text for p in texts], tokenizer, cfg.chat), strict=True):
        if not tokens:
            drops["prompt has no tokens"].append(prompt.row)
        elif len(tokens) > max_prompt_tokens:
            drops[f"longer than {max_prompt_tokens} tokens (rollout.max_prompt_tokens)"].append(prompt.row)
        else:
            prompts.append(replace(prompt, tokens=tokens))
    report = _report(sources.describe(cfg), found, prompts, drops)
    if not prompts:
        raise DataError(f"no usable prompt in column `{cfg.prompt_column}`\n{report}")
    return prompts, report


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """16 hex digits that change when a text, a label or the order of the prompts does."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.text, prompt.label], sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def _texts(cfg: Data, tokenizer: Any, drops: Drops) -> Iterator[Prompt]:
    """Prompts that are rendered and not tokenised yet; the numbers of rows that have none go to `drops`."""
    label_column = toy.LABEL if isinstance(cfg, ToyData) else cfg.label_column
    for number, row in sources.read(cfg):
        where = f"{sources.describe(cfg)}, row {number}"
        value = sources.column(row, cfg.prompt_column, where)
        label = None if label_column is None else sources.column(row, label_column, where)
        if why := _unusable(value) or ("label is null" if label_column and label is None else ""):
            drops[why].append(number)
        else:
            rest = {name: row[name] for name in row if name not in (cfg.prompt_column, label_column)}
            yield Prompt([], render(value, cfg, tokenizer, where), label, number, rest)


def _report(source: str, read: int, prompts: list[Prompt], drops: Drops) -> DataReport:
    return DataReport(
        source=source,
        read=read,
        used=len(prompts),
        dropped={why: len(rows) for why, rows in drops.items()},
        examples={why: rows[0] for why, rows in drops.items()},
        max_tokens=max((len(p.tokens) for p in prompts), default=0),
        fingerprint=fingerprint(prompts),
    )


# ---------------------------------------------------------------------------------------------------- rendering


def _unusable(value: Any) -> str:
    """Why a prompt cannot be used; empty when it can."""
    if value is None:
        return "prompt is null"
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(messages, list) or not all(_is_message(m) for m in messages):
        return "prompt is neither text nor a list of chat messages"
    text = "".join(message["content"] for message in messages)
    if not text.strip():
        return "prompt is empty"
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        return "prompt has half a character (a lone surrogate)"  # which no tokenizer takes
    return "last message is the assistant's" if messages[-1]["role"] == "assistant" else ""


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def render(value: str | list[Message], cfg: Data, tokenizer: Any, where: str = "prompt") -> str:
    """Text of a prompt: `cfg.template` around a text, then the chat template if `cfg.chat`."""
    if isinstance(value, str):
        value = _fill(cfg.template, value)
    elif cfg.template is not None:
        raise DataError(f"{where}: data.template goes around text, and column `{cfg.prompt_column}` holds messages")
    if cfg.chat:
        return _chat(value, cfg.system, tokenizer, where)
    if cfg.system is not None:
        raise DataError("data.system is only used with data.chat=true")
    if not isinstance(value, str):
        raise DataError(f"{where}: column `{cfg.prompt_column}` holds chat messages; set data.chat=true")
    return value


def _fill(template: str | None, prompt: str) -> str:
    if template is None:
        return prompt
    if "{prompt}" not in template:
        raise DataError(f"data.template has no {{prompt}}: {template!r}")
    return template.replace("{prompt}", prompt)


def _chat(value: str | list[Message], system: str | None, tokenizer: Any, where: str) -> str:
    if tokenizer.chat_template is None:
        raise DataError("data.chat=true, and the tokenizer has no chat template; set data.chat=false and data.template")
    messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs, and raise what they like
        raise DataError(f"{where}: the tokenizer's chat template refuses the messages: {error}") from error


def _tokenise(texts: list[str], tokenizer: Any, chat: bool) -> list[list[int]]:
    """Token ids of each text. A plain text gets the tokenizer's prefix (BOS), unless it already starts with it, and
    never its suffix: a response does not begin after EOS. A chat template writes its special tokens itself."""
    if not texts:
        return []
    prefix = [] if chat else _prefix(tokenizer)
    bare = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [tokens if tokens[: len(prefix)] == prefix else prefix + tokens for tokens in bare]


def _prefix(tokenizer: Any) -> list[int]:
    """Special tokens that the tokenizer puts before a text: what stands before the probe's own tokens."""
    probe = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    starts = range(len(full) - len(probe) + 1)
    return full[: next((i for i in starts if full[i : i + len(probe)] == probe), 0)]


# -------------------------------------------------------------------------------------------------------- order


class PromptStream:
    """Prompts without end: pass after pass, each in an order that depends only on seed, pass and number of rows."""

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        if not prompts:
            raise DataError("a stream needs at least one prompt")
        self.prompts, self.seed, self.taken = prompts, seed, 0
        self.fingerprint = fingerprint(prompts)
        self._pass, self._order = -1, [0]

    def take(self, n: int) -> list[Prompt]:
        """The next `n` prompts; runs on into the next pass where one ends."""
        picked = [self.prompts[self._index(self.taken + i)] for i in range(n)]
        self.taken += n
        return picked

    def state(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "seed": self.seed, "taken": self.taken}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on after `state["taken"]` prompts. Raises DataError where that would not be the same order."""
        mine = self.state()
        for key, what in (("fingerprint", "the data has changed"), ("seed", "the seed has changed")):
            if state[key] != mine[key]:
                raise DataError(f"cannot resume: {what} since the checkpoint ({key} {state[key]}, now {mine[key]})")
        self.taken = int(state["taken"])

    def _index(self, position: int) -> int:
        number, place = divmod(position, len(self.prompts))
        if number != self._pass:
            self._pass, self._order = number, permutation(len(self.prompts), self.seed, number)
        return self._order[place]


def permutation(n: int, seed: int, number: int) -> list[int]:
    """A seeded order of range(n) for pass `number`."""
    # Sorted by random keys: Python promises the same `random()` in every version, and not the same `shuffle`.
    rng = random.Random(f"{seed}/{number}/{n}")
    keys = [rng.random() for _ in range(n)]
    return sorted(range(n), key=keys.__getitem__)

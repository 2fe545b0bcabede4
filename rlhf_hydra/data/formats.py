"""From a row of the data to rows of tokens: what each objective reads, and in which forms it may come."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_hydra.config.schema import KTO, PAIRS, PRM, SFT, Data, Supervised
from rlhf_hydra.data.files import Row
from rlhf_hydra.data.report import BadKey, BadRow, Refused
from rlhf_hydra.data.templates import Line, Message, Renderer

Example = list[Line]
Format = Callable[[Row], list[Example]]
Value = str | list[Message]


def rows_each(algo: Supervised) -> int:
    """Rows of one example."""
    return 2 if isinstance(algo, PAIRS) else 1


def build_format(cfg: Data, algo: Supervised, renderer: Renderer) -> Format:
    """What turns a row into the examples of `algo`. It raises BadRow."""
    if isinstance(algo, PAIRS):
        return lambda row: [_pair(row, cfg, renderer)]
    if isinstance(algo, KTO):
        return lambda row: _judged(row, cfg, renderer)
    if isinstance(algo, PRM):
        return Steps(cfg, renderer)
    learn = algo.learn if isinstance(algo, SFT) else "response"
    return lambda row: [[_single(row, cfg, renderer, learn)]]


# --------------------------------------------------------------------------------------------------- single texts


def _single(row: Row, cfg: Data, renderer: Renderer, learn: str) -> Line:
    """Supervised fine-tuning, distillation."""
    column = cfg.response_column or _prompt_column(cfg)
    prompt = text_or_messages(row, _prompt_column(cfg)) if cfg.response_column else None
    line = _line(prompt, text_or_messages(row, column), column, cfg, renderer, learn)
    return Line(line.tokens, [(0, len(line.tokens))]) if learn == "all" else line


def _judged(row: Row, cfg: Data, renderer: Renderer) -> list[Example]:
    """Single responses with a verdict (KTO), or pairs taken apart."""
    if cfg.desirable_column is None:
        chosen, rejected = _pair(row, cfg, renderer)
        chosen.label, rejected.label = 1.0, 0.0
        return [[chosen], [rejected]]
    line = _single(row, cfg, renderer, "response")
    line.label = float(_truth(present(row, cfg.desirable_column), cfg.desirable_column))
    return [[line]]


def _line(prompt: Value | None, value: Value, column: str, cfg: Data, renderer: Renderer, learn: str) -> Line:
    """A response to `prompt`, or a whole text or conversation where `prompt` is None."""
    if isinstance(value, str) and not cfg.chat:
        if isinstance(prompt, list):
            raise _messages_without_chat(_prompt_column(cfg))
        if prompt is not None:
            return renderer.text(renderer.fill(prompt), value)
        return renderer.whole(value) if learn == "all" else renderer.text(*_cut_open(value, column, cfg))
    if not cfg.chat:
        raise _messages_without_chat(column)
    if isinstance(value, str) and prompt is None and learn == "all":
        return renderer.whole(value)
    messages = _conversation(prompt, value, column, renderer)
    return renderer.conversation(messages, _first(messages, column, learn))


def _first(messages: list[Message], column: str, learn: str) -> int:
    """Number of the first message that may be learned."""
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRow("has no message of the assistant", column)
    if learn != "response":
        return 0
    if messages[-1]["role"] != "assistant":
        raise BadRow("does not end with a message of the assistant", column)
    if not messages[-1]["content"].strip() and not messages[-1].get("tool_calls"):
        raise BadRow("has an empty response", column)
    return len(messages) - 1


def _cut_open(text: str, column: str, cfg: Data) -> tuple[str, str]:
    """Prompt and response of a whole text: up to the last `data.response_marker`, and behind it."""
    if cfg.response_marker is None:
        raise BadKey(
            "holds text, and nothing says where its response begins: set data.response_column, data.response_marker, "
            "or, to learn all of it, algo.learn=all",
            column,
        )
    head, marker, response = text.rpartition(cfg.response_marker)
    if not marker:
        raise BadRow(f"has no {cfg.response_marker!r} (data.response_marker)", column)
    if not response.strip():
        raise BadRow("has an empty response", column)
    return head + marker, response


def _conversation(prompt: Value | None, value: Value, column: str, renderer: Renderer) -> list[Message]:
    """The whole conversation: `value` goes on with `prompt`, or has it in front already."""
    if isinstance(value, str):
        if prompt is None:
            raise BadKey("is text; expected a list of messages (or set data.response_column)", column)
        value = [{"role": "assistant", "content": value}]
    if prompt is None:
        return value
    before = renderer.turns(prompt, column)
    if len(value) > len(before) and all(_same(a, b) for a, b in zip(before, value, strict=False)):
        return value
    if value[0]["role"] != "assistant":
        raise BadRow("neither goes on with the prompt nor begins with it", column)
    return [*before, *value]


def _same(a: Message, b: Message) -> bool:
    return a["role"] == b["role"] and a["content"].strip() == b["content"].strip()


def _messages_without_chat(column: str) -> BadKey:
    return BadKey("holds chat messages; set data.chat=true", column)


# ---------------------------------------------------------------------------------------------------------- pairs


def _pair(row: Row, cfg: Data, renderer: Renderer) -> Example:
    """A chosen and a rejected response to the same prompt, given apart or in front of both."""
    columns = cfg.chosen_column, cfg.rejected_column
    prompt = None if cfg.prompt_column is None else text_or_messages(row, cfg.prompt_column)
    chosen, rejected = (text_or_messages(row, column) for column in columns)
    margin = 0.0 if cfg.margin_column is None else _number(present(row, cfg.margin_column), cfg.margin_column)
    if chosen == rejected:
        raise BadRow(f"is the same as `{columns[0]}`", columns[1])
    given = list(zip((chosen, rejected), columns, strict=True))
    if cfg.chat:
        lines = _talks([_conversation(prompt, value, column, renderer) for value, column in given], columns, renderer)
    elif prompt is None and cfg.response_marker is None:
        lines = _apart([_line(None, value, column, cfg, renderer, "all") for value, column in given], renderer)
    else:
        lines = [_line(prompt, value, column, cfg, renderer, "response") for value, column in given]
        if prompt is None and len({tuple(line.tokens[: line.learn[0][0]]) for line in lines}) > 1:
            raise BadRow(f"has another prompt than `{columns[0]}`", columns[1])
    for line in lines:
        line.label = margin
    return lines


def _talks(talks: list[list[Message]], columns: tuple[str, str], renderer: Renderer) -> Example:
    """Learned are the assistant's turns from the first message on in which the two conversations differ."""
    for talk, column in zip(talks, columns, strict=True):
        _first(talk, column, "response")
    shared = next((i for i, (a, b) in enumerate(zip(*talks, strict=False)) if a != b), min(map(len, talks)))
    if shared == 0:
        raise BadRow(f"does not begin as `{columns[0]}` does", columns[1])
    return [renderer.conversation(talk, min(shared, len(talk) - 1)) for talk in talks]


def _apart(lines: Example, renderer: Renderer) -> Example:
    """Whole texts: learned is what comes after the tokens that both begin with, and EOS."""
    for line in lines:
        if renderer.eos is not None and line.tokens[-1] != renderer.eos:
            line.tokens.append(renderer.eos)
    a, b = (line.tokens for line in lines)
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    for line in lines:
        line.learn = [(min(shared, len(line.tokens) - 1), len(line.tokens))]
    return lines


# ---------------------------------------------------------------------------------------------------------- steps


class Steps:
    """Solutions whose steps are labelled (PRM). A step ends at its placeholder, or, of a list of steps without one,
    at the end of its line."""

    def __init__(self, cfg: Data, renderer: Renderer) -> None:
        self.cfg, self.renderer = cfg, renderer
        if cfg.steps_column is None:
            raise Refused("data.steps_column is not set: the column with the labels of the steps")
        self.column = cfg.steps_column
        self.marks = set() if cfg.placeholder is None else self._marks(cfg.placeholder)

    def __call__(self, row: Row) -> list[Example]:
        cfg = self.cfg
        column = cfg.response_column or _prompt_column(cfg)
        prompt = text_or_messages(row, _prompt_column(cfg)) if cfg.response_column else None
        value = present(row, column)
        steps = value if isinstance(value, list) and value and isinstance(value[0], str) else None
        labels = self._labels(row, "".join(steps) if steps else value)
        line, ends = self._listed(prompt, steps, column) if steps else self._marked(prompt, row, column)
        if len(ends) != len(labels):
            raise BadRow("has another number of labels than there are steps", self.column)
        line.steps = dict(zip(ends, labels, strict=True))
        line.learn = [(end, end + 1) for end in ends]
        return [[line]]

    def _marked(self, prompt: Value | None, row: Row, column: str) -> tuple[Line, list[int]]:
        """Steps that end where the placeholder stands in the text."""
        if not self.marks:
            raise BadKey("is no list of steps; set data.placeholder to what ends each step in the text", column)
        learn = "all" if prompt is None else "response"
        line = _line(prompt, text_or_messages(row, column), column, self.cfg, self.renderer, learn)
        return line, [i for a, b in line.learn for i in range(a, b) if line.tokens[i] in self.marks]

    def _listed(self, prompt: Value | None, steps: Sequence[Any], column: str) -> tuple[Line, list[int]]:
        """Steps of a list, each closed by the placeholder, or else by the end of its line."""
        for step in steps:
            _check_text(step, column)
        if self.marks:
            text = "".join(f"{step}{self.cfg.placeholder}" for step in steps)
            line = _line(prompt, text, column, self.cfg, self.renderer, "response" if prompt is not None else "all")
            return line, [i for a, b in line.learn for i in range(a, b) if line.tokens[i] in self.marks]
        if not isinstance(prompt, str) or self.cfg.chat:
            raise BadKey(
                "is a list of steps, which needs a text prompt and data.chat=false, or data.placeholder", column
            )
        tokens, ends = self.renderer.opening(self.renderer.fill(prompt)), []
        for step in steps:
            tokens = tokens + self.renderer.encode(step if step.endswith("\n") else step + "\n")
            ends.append(len(tokens) - 1)
        return Line(tokens, []), ends

    def _labels(self, row: Row, text: Any) -> list[float]:
        found = present(row, self.column)
        if isinstance(found, str) and isinstance(text, str) and self.cfg.placeholder:
            found = self._aligned(found, text.split(self.cfg.placeholder)[:-1])
        if found == []:
            raise BadRow("is empty", self.column)
        if not isinstance(found, list):
            raise BadRow(f"is {kind(found)}; expected a list with a label for each step", self.column)
        return [self._good(value) for value in found]

    def _aligned(self, text: str, steps: list[str]) -> list[str]:
        """Labels that stand in the placeholders' stead in a second copy of the text (Math-Shepherd)."""
        labels, rest = [], text
        for step in steps:
            tail = rest.removeprefix(step)
            label = next((token for token in self.cfg.step_tokens if tail.startswith(token)), None)
            if label is None or not rest.startswith(step):
                raise BadRow(
                    f"is not the text with {' or '.join(self.cfg.step_tokens)} in place of {self.cfg.placeholder}",
                    self.column,
                )
            labels.append(label)
            rest = tail.removeprefix(label)
        return labels

    def _good(self, value: Any) -> float:
        if isinstance(value, str) and value in self.cfg.step_tokens:
            return 1.0 - self.cfg.step_tokens.index(value)
        number = _number(value, self.column)
        if not 0 <= number <= 1:
            raise BadRow("has a number that is no probability", self.column)
        return number

    def _marks(self, placeholder: str) -> set[int]:
        """The tokens that the placeholder is, with and without a space in front, which some tokenizers take into it."""
        encoded = [self.renderer.encode(text) for text in (placeholder, f" {placeholder}")]
        blank = self.renderer.tokenizer.decode
        marks = {ids[-1] for ids in encoded if len(ids) == 1 or (len(ids) == 2 and not blank(ids[:1]).strip())}
        if not marks:
            says = f"data.placeholder={placeholder!r} is {len(encoded[0])} tokens of this tokenizer; take another"
            raise Refused(says)
        return marks


# --------------------------------------------------------------------------------------------------------- values


def _prompt_column(cfg: Data) -> str:
    if cfg.prompt_column is None:
        raise Refused("data.prompt_column is null, and only pairs can do without")
    return cfg.prompt_column


def present(row: Row, column: str) -> Any:
    if column not in row:
        raise BadRow("is missing", column)
    if row[column] is None:
        raise BadRow("is null", column)
    return row[column]


def text_or_messages(row: Row, column: str) -> Value:
    """A text, or a list of chat messages."""
    value = present(row, column)
    if isinstance(value, str):
        _check_text(value, column)
        return value
    if not isinstance(value, list):
        raise BadRow(f"is {kind(value)}; expected text or a list of chat messages", column)
    messages = [_plain(message) for message in value]
    if not all(_is_message(message) for message in messages):
        raise BadRow("is a list, but not of chat messages ({role, content}, both text)", column)
    _check_text("".join(message["content"] for message in messages), column)
    return messages


def _check_text(value: Any, column: str) -> None:
    if not isinstance(value, str):
        raise BadRow(f"is {kind(value)}; expected text", column)
    if not value.strip():
        raise BadRow("is empty", column)
    if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise BadRow("has half a character (a lone surrogate)", column)  # which no tokenizer takes


def _plain(message: Any) -> Any:
    """A message without its keys that are null: tables give each message the keys of all. Parts that are all text
    become one; a call of tools without a text gets an empty one."""
    if not isinstance(message, dict):
        return message
    given = {key: value for key, value in message.items() if value is not None}
    content = given.get("content", "" if given.get("tool_calls") else None)
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    ):
        content = "".join(part["text"] for part in content)
    return {**given, "content": content}


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _truth(value: Any, column: str) -> bool:
    """true, 1, "true" or "1", as text files have it, and their opposites."""
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if str(value).strip().lower() not in known:
        raise BadRow("is neither true nor false, 1 nor 0", column)
    return known[str(value).strip().lower()]


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"has {kind(value)} that is no number", column) from None
    if not math.isfinite(number):
        raise BadRow("has a number that is not finite", column)
    return number


def kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bytes: "bytes", bool: "a boolean"}
    names |= {int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")

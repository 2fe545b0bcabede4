"""From prompts, responses and conversations to tokens, and which of the tokens are to be learned.

Which tokens belong to the assistant is decided on tokens, never on the length of strings.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import Data
from rlhf_hydra.data.report import BadKey, BadRow, Refused
from rlhf_hydra.models import vision

Message = dict[str, Any]
Span = tuple[int, int]
MARK = "<image>"
"""Stands for an image in the text of a message, where the data has images."""


@dataclass
class Line:
    """One row of tokens."""

    tokens: list[int]
    learn: list[Span]
    """Tokens to learn, [start, end) each, in order."""
    label: float = 0.0
    cut: bool = False
    """Whether it was longer."""
    steps: dict[int, float] | None = None
    """Probability of good by token, for the tokens that end a step."""
    images: list[bytes] = field(default_factory=list)
    """What the images that it shows are found by (`data/images.py`)."""
    images_end: int = 0
    """Tokens up to the end of the last of them."""


class Renderer:
    """Renders with `data.template`, or with the chat template of `data` or else of the tokenizer."""

    def __init__(self, cfg: Data, tokenizer: Any) -> None:
        self.cfg, self.tokenizer = cfg, tokenizer
        if cfg.system is not None and not cfg.chat:
            raise Refused("data.system is only used with data.chat=true")
        if cfg.template is not None and "{prompt}" not in cfg.template:
            raise Refused(f"data.template has no {{prompt}}: {cfg.template!r}")
        self.chat_template = chat_template(cfg, tokenizer) if cfg.chat else None

    # -------------------------------------------------------------------------------------------------- texts

    def fill(self, prompt: str) -> str:
        """`data.template` around a prompt."""
        return prompt if self.cfg.template is None else self.cfg.template.replace("{prompt}", prompt)

    def encode(self, text: str) -> list[int]:
        """Tokens of `text` and nothing else."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def opening(self, text: str) -> list[int]:
        """Tokens of a text that begins a row: with the tokenizer's prefix (BOS), unless it brings that itself."""
        return self.opening_all([text])[0]

    def opening_all(self, texts: list[str]) -> list[list[int]]:
        prefix = self.prefix
        bare = self.encode_all(texts)
        return [tokens if tokens[: len(prefix)] == prefix else prefix + tokens for tokens in bare]

    def text(self, prompt: str, response: str) -> Line:
        """Prompt and response, tokenised apart and joined, then EOS unless it is there already.

        Apart, since that is what an engine continues: it is given the prompt's own tokens, so a token that merges
        the end of the prompt with the start of the response could never be sampled.
        """
        head, tail = self.opening(prompt), self.encode(response)
        if self.eos is not None and tail[-1:] != [self.eos]:
            tail = [*tail, self.eos]
        return Line(head + tail, [(len(head), len(head) + len(tail))])

    def whole(self, text: str) -> Line:
        """A text as it is, without EOS, all of it to be learned."""
        tokens = self.opening(text)
        return Line(tokens, [(0, len(tokens))])

    @cached_property
    def prefix(self) -> list[int]:
        """Special tokens that the tokenizer puts before a text: what stands before the probe's own tokens."""
        probe = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        starts = range(len(full) - len(probe) + 1)
        return full[: next((i for i in starts if full[i : i + len(probe)] == probe), 0)]

    @property
    def eos(self) -> int | None:
        return self.tokenizer.eos_token_id

    # --------------------------------------------------------------------------------------------------- chat

    def turns(self, prompt: str | list[Message], column: str) -> list[Message]:
        """A prompt as messages; a text is one turn of the user, in `data.template`."""
        if isinstance(prompt, str):
            return [{"role": "user", "content": self.fill(prompt)}]
        if self.cfg.template is not None:
            raise BadKey("holds messages, and data.template goes around text", column)
        return prompt

    def chat(self, messages: list[Message], prompt: bool = False) -> str:
        """Text of a conversation, with the system message; `prompt`: up to where the assistant is to begin."""
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    self.begun(messages),
                    tokenize=False,
                    add_generation_prompt=prompt,
                    chat_template=self.chat_template,
                )
            )
        except Exception as error:  # templates are programs, and raise what they like
            raise BadRow(f"the chat template refuses the messages: {error}") from error

    def begun(self, messages: list[Message]) -> list[Message]:
        """`messages`, begun with `data.system` unless they have a system message of their own; with their images."""
        if self.cfg.images_column is not None:
            messages = [{**m, "content": parts(m["content"])} if MARK in m["content"] else m for m in messages]
        if self.cfg.system is None or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": self.cfg.system}, *messages]

    def conversation(self, messages: list[Message], first: int) -> Line:
        """A conversation of which the assistant's turns from message `first` on are to be learned, the token that
        ends each turn included. What the template writes behind the last turn's end is left out, since no engine
        writes it; a last turn that the template does not end gets EOS."""
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i >= first]
        tokens, spans = self._marked(messages, turns) or self._compared(messages, turns)
        spans = [(start, self._end(tokens, start, end)) for start, end in spans]
        if turns[-1] == len(messages) - 1:
            start, end = spans[-1]
            tokens = tokens[:end]
            if tokens[-1] not in self.ends and self.eos is not None:
                tokens, spans[-1] = [*tokens, self.eos], (start, end + 1)
        return Line(tokens, spans)

    def _marked(self, messages: list[Message], turns: list[int]) -> tuple[list[int], list[Span]] | None:
        """By the template's own {% generation %}; None where it does not mark each of the assistant's turns."""
        if not re.search(r"\{%-?\s*generation\s*-?%\}", self.chat_template or ""):
            return None
        self.chat(messages)  # says what is wrong with them
        out = self.tokenizer.apply_chat_template(
            self.begun(messages), return_dict=True, return_assistant_tokens_mask=True, chat_template=self.chat_template
        )
        runs = _runs(out["assistant_masks"])
        assistants = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if len(runs) != len(assistants):
            return None
        tokens = out["input_ids"]
        runs = [(start, self._closed(tokens, end)) for start, end in runs]
        return tokens, [run for i, run in zip(assistants, runs, strict=True) if i in turns]

    def _closed(self, tokens: list[int], end: int) -> int:
        """The marks of some templates leave out the token that ends the turn."""
        follows = end < len(tokens) and tokens[end] in self.ends
        return end + 1 if follows and tokens[end - 1] not in self.ends else end

    def _compared(self, messages: list[Message], turns: list[int]) -> tuple[list[int], list[Span]]:
        """By rendering the conversation up to each border and comparing tokens.

        A border counts if the shorter render begins the longer one. Where a token would merge over it, the text is
        tokenised in pieces, as an engine would have continued it.
        """
        full = self.chat(messages)
        borders = []
        for i in turns:
            after = full if i + 1 == len(messages) else self.chat(messages[: i + 1])
            borders += [self.chat(messages[:i], prompt=True) if i else "", after]
        for text, i in zip(borders, [i for i in turns for _ in "ab"], strict=True):
            if not full.startswith(text):
                raise Refused(
                    f"the chat template writes a conversation anew when it goes on after message {i + 1} (it may drop "
                    "earlier reasoning), so the tokens of that turn cannot be told; set data.chat_template to one that "
                    "keeps what it wrote or marks {% generation %}, or learn the last response only"
                )
        texts = list(dict.fromkeys([full, *borders]))
        known = dict(zip(texts, self.encode_all(texts), strict=True))
        tokens, heads = known[full], [known[text] for text in borders]
        if any(tokens[: len(head)] != head for head in heads):
            tokens, heads = self._joined(full, borders)
        ends = [len(head) for head in heads]
        return tokens, list(zip(ends[::2], ends[1::2], strict=True))

    def _joined(self, full: str, borders: list[str]) -> tuple[list[int], list[list[int]]]:
        """Tokens of `full`, none of them across a border, and of each border's text."""
        tokens: list[int] = []
        heads, start = [], 0
        for text in borders:
            tokens = tokens + self.encode(full[start : len(text)])
            start = len(text)
            heads.append(tokens)
        return tokens + self.encode(full[start:]), heads

    def _end(self, tokens: list[int], start: int, end: int) -> int:
        """Where a turn ends: behind the token that ends it, if only white space follows that."""
        last = next((i for i in reversed(range(start, end)) if tokens[i] in self.ends), None)
        if last is not None and not self.tokenizer.decode(tokens[last + 1 : end]).strip():
            return last + 1
        return end

    @cached_property
    def ends(self) -> set[int]:
        """Tokens that can end a turn: EOS and special tokens of the tokenizer's own making."""
        tokenizer = self.tokenizer
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        return (special - {tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, None}) | (
            {self.eos} if self.eos is not None else set()
        )


def chat_template(cfg: Data, tokenizer: Any) -> str:
    """`data.chat_template`, a template or a file with one, or else that of the model. Raises Refused."""
    own = cfg.chat_template
    if own is None and cfg.images_column is not None:
        own = vision.chat_template(tokenizer.name_or_path)
    if own is None:
        if tokenizer.chat_template is None:
            fix = "set data.chat_template, or data.chat=false and data.template"
            raise Refused(f"data.chat=true, and the tokenizer has no chat template; {fix}")
        return tokenizer.chat_template
    try:
        return own if "{" in own else Path(own).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"data.chat_template={own} is no template, and no file with one: {error}") from error


def parts(text: str) -> list[dict[str, str]]:
    """A message's text and the images in it, as chat templates take them.

    >>> parts("see <image>!")
    [{'type': 'text', 'text': 'see '}, {'type': 'image'}, {'type': 'text', 'text': '!'}]
    """
    pieces = re.split(f"({MARK})", text)
    return [{"type": "image"} if piece == MARK else {"type": "text", "text": piece} for piece in pieces if piece]


def _runs(mask: list[int]) -> list[Span]:
    """[start, end) of each stretch of ones."""
    edges = [i for i, (a, b) in enumerate(zip([0, *mask], [*mask, 0], strict=True)) if a != b]
    return list(zip(edges[::2], edges[1::2], strict=True))

"""Images of a row: where they come from, and where they stand in its texts and tokens.

While a row is read, an image is the text `<image>` in a message, so that all else deals with text; the chat template
writes what the model knows it by, and in the end a token becomes as many as the image has.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import Data
from rlhf_hydra.data.files import DataError, Row
from rlhf_hydra.data.formats import Format
from rlhf_hydra.data.report import BadKey, BadRow
from rlhf_hydra.data.templates import MARK, Line, Renderer, Span
from rlhf_hydra.models.vision import Vision

PATH = b"path:"
"""Begins what an image in a file of its own is found by; any other image is found by its bytes."""


def contents(image: bytes) -> bytes:
    """The file of an image. DataError if it is not there any more."""
    if not image.startswith(PATH):
        return image
    try:
        return Path(image[len(PATH) :].decode()).read_bytes()
    except OSError as error:
        raise DataError(f"an image cannot be read any more: {error}") from error


def home(cfg: Data) -> Path:
    """Where relative paths begin: the folder of the data."""
    place = Path(cfg.path or ".").expanduser()
    return place.parent if place.is_file() else place


class Gallery:
    """The images of one source."""

    def __init__(self, cfg: Data, renderer: Renderer) -> None:
        self.cfg, self.column = cfg, str(cfg.images_column)
        self.home = home(cfg).absolute()
        self.vision = Vision.load(renderer.tokenizer.name_or_path)
        assert self.vision.processor  # without one, no image is at fault

    def around(self, make: Format) -> Format:
        """`make`, for rows with images."""

        def examples(row: Row) -> list[list[Line]]:
            row, images, counts = self.hang(row)
            return [[self.expanded(line, images, counts) for line in lines] for lines in make(row)]

        return examples

    def hang(self, row: Row) -> tuple[Row, list[bytes], list[int]]:
        """`row` with `<image>` where its images stand, what they are found by, and the tokens of each. BadRow."""
        if row.get(self.column) is None:
            raise BadRow("is missing" if self.column not in row else "is null", self.column)
        value = row[self.column]
        given = list(own(value)) if is_talk(value) else value if isinstance(value, list | tuple) else [value]
        if not given:
            raise BadRow("has no image", self.column)
        images = [self.found(image) for image in given]
        return self._marked(row, len(images)), images, [self._count(image) for image in images]

    def found(self, value: Any) -> bytes:
        """What an image is found by: `PATH` and a path, or the bytes of a file."""
        if isinstance(value, dict):  # as `datasets` has it
            value = value.get("path") if value.get("bytes") is None else decoded(value["bytes"], self.column)
        if isinstance(value, bytes):
            return value
        if isinstance(value, str) and value.startswith("data:"):
            return decoded(value.partition(",")[2], self.column)
        if isinstance(value, str) and re.match(r"\w+://", value):
            says = "holds addresses, and a run reads no web: save the images beside the data, and name their paths"
            raise BadKey(says, self.column)
        if isinstance(value, str):
            return PATH + str(self.home / Path(value).expanduser()).encode()
        if hasattr(value, "save"):  # Pillow's
            file = BytesIO()
            value.save(file, "PNG")
            return file.getvalue()
        raise BadRow("holds something that is no image (a path, bytes, {bytes, path}, or a list of them)", self.column)

    def expanded(self, line: Line, images: list[bytes], counts: list[int]) -> Line:
        """`line` with `counts[i]` tokens where one stood for image i. An image is never learned. Raises BadRow where
        the line shows another number of images than there are."""
        places = [i for i, token in enumerate(line.tokens) if token == self.vision.token]
        if len(places) != len(images):
            says = f"has another number of images than there are places for them ({MARK}, or parts of messages)"
            raise BadRow(says, self.column)
        times = [1] * len(line.tokens)
        for place, count in zip(places, counts, strict=True):
            times[place] = count
        starts = [0, *accumulate(times)]
        return replace(
            line,
            tokens=[token for token, n in zip(line.tokens, times, strict=True) for _ in range(n)],
            learn=[(starts[a], starts[b]) for span in line.learn for a, b in without(span, places)],
            images=images,
            images_end=starts[places[-1] + 1],
        )

    def _count(self, image: bytes) -> int:
        try:
            file = contents(image)
        except DataError as error:
            raise BadRow("names an image that is not there", self.column) from error
        try:
            return self.vision.count(file)
        except Exception as error:  # what Pillow raises depends on the format
            raise BadRow("holds an image that cannot be read", self.column) from error

    def _marked(self, row: Row, count: int) -> Row:
        """Messages as text; the images stand in front of the prompt where no text says where."""
        cfg = self.cfg
        names = [cfg.prompt_column, cfg.response_column, cfg.chosen_column, cfg.rejected_column]
        texts = {name: as_text(row[name]) for name in names if name is not None and name in row}
        if not any(MARK in text for value in texts.values() for text in words(value)):
            heads = [cfg.prompt_column] if cfg.prompt_column else [cfg.chosen_column, cfg.rejected_column]
            texts |= {name: behind(MARK * count, texts[name]) for name in heads if name in texts}
        return {**row, **texts}


def is_talk(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and "role" in m for m in value)


def is_image(part: Any) -> bool:
    """Whether a part of a message stands for an image."""
    return isinstance(part, dict) and (part.get("type") in ("image", "image_url") or part.get("image") is not None)


def own(talk: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """The images in the parts of messages."""
    for part in chain.from_iterable(m["content"] for m in talk if isinstance(m.get("content"), list)):
        if is_image(part):
            given = next(
                (part[key] for key in ("image", "path", "url", "image_url") if part.get(key) is not None), None
            )
            yield given["url"] if isinstance(given, dict) and "url" in given else given


def as_text(value: Any) -> Any:
    """Messages whose parts are one text each. Whatever else comes along stays as it is."""
    if not is_talk(value):
        return value
    return [{**m, "content": joined(m["content"])} if isinstance(m.get("content"), list) else m for m in value]


def joined(parts: list[Any]) -> Any:
    texts = [MARK if is_image(part) else part.get("text") if isinstance(part, dict) else part for part in parts]
    known = [text for text in texts if isinstance(text, str)]
    return "".join(known) if len(known) == len(texts) else parts


def words(value: Any) -> list[str]:
    """The texts of a text or of messages."""
    found = [m.get("content") for m in value] if is_talk(value) else [value]
    return [text for text in found if isinstance(text, str)]


def behind(marks: str, value: Any) -> Any:
    """`marks`, and then the text, or the first message of the user."""
    if isinstance(value, str):
        return marks + value
    first = next((i for i, m in enumerate(value) if m["role"] == "user"), None) if is_talk(value) else None
    if first is None or not isinstance(value[first].get("content"), str):
        return value
    return [*value[:first], {**value[first], "content": marks + value[first]["content"]}, *value[first + 1 :]]


def decoded(data: bytes | str, column: str) -> bytes:
    """Bytes, which in JSON are base64."""
    if isinstance(data, bytes):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow("holds bytes that are not base64", column) from error


def without(span: Span, places: Sequence[int]) -> list[Span]:
    """What is left of a span without these places.

    >>> without((2, 9), [4, 8])
    [(2, 4), (5, 8)]
    """
    edges = [span[0], *(edge for place in places if span[0] <= place < span[1] for edge in (place, place + 1)), span[1]]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]

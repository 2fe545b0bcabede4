"""Tokens of all examples, end to end: in memory, or in files that are mapped and not read.

A folder of the cache is named by what its content was made from: the data's own fingerprint, the tokenizer, the
template, the keys and this code. It is written aside, row by row, and renamed when it is whole.
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rlhf_hydra.data.files import DataError
from rlhf_hydra.data.report import DataReport, Note, unsaid
from rlhf_hydra.data.templates import Line

Numbered = tuple[int, list[Line]]
"""An example's rows of tokens, with the number of the row of the data that it comes from."""


@dataclass(frozen=True)
class Store:
    """R rows, N tokens in all, E examples."""

    tokens: np.ndarray
    """[N] int32."""
    learn: np.ndarray
    """[N] bool: tokens to learn."""
    steps: np.ndarray
    """[N] float32, or [0] where no row has labelled steps: probability that the step which ends here is good."""
    starts: np.ndarray
    """[R + 1] int64: row r is tokens[starts[r]:starts[r + 1]]."""
    labels: np.ndarray
    """[R] float32."""
    origin: np.ndarray
    """[E] int64: number of the row of the data that an example comes from."""
    images: np.ndarray
    """[K] uint8: what each image is found by (`data/images.py`), end to end."""
    image_ends: np.ndarray
    """[I] int64: image i ends at images[image_ends[i]], and begins where the one before it ends."""
    image_rows: np.ndarray
    """[I] int64, rising: the row r that shows an image."""

    def shown(self, row: int) -> list[bytes]:
        """What the images of a row are found by."""
        first, end = np.searchsorted(self.image_rows, [row, row + 1])
        ends = [int(self.image_ends[i]) if i >= 0 else 0 for i in range(first - 1, end)]
        return [self.images[a:b].tobytes() for a, b in pairwise(ends)]


DTYPES = {
    "tokens": "<i4",
    "learn": "|b1",
    "steps": "<f4",
    "starts": "<i8",
    "labels": "<f4",
    "origin": "<i8",
    "images": "|u1",
    "image_ends": "<i8",
    "image_rows": "<i8",
}
CHUNK = 1024
"""Examples that are in memory while a cache is written."""


def collect(examples: Iterable[Numbered]) -> Store:
    """A store in memory."""
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, dtype)] for name, dtype in DTYPES.items()}
    for chunk in _chunks(examples):
        for name, values in chunk.items():
            parts[name].append(values)
    return Store(**{name: np.concatenate(arrays) for name, arrays in parts.items()})


def write(examples: Iterable[Numbered], folder: Path) -> Store:
    """A store in the files of `folder`, mapped. Memory holds CHUNK examples at a time."""
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in DTYPES}
        sizes = dict.fromkeys(DTYPES, 0)
        for name, file in files.items():
            _header(file, name, 0)
        for chunk in _chunks(examples):
            for name, values in chunk.items():
                files[name].write(values.tobytes())
                sizes[name] += len(values)
        for name, file in files.items():
            file.seek(0)
            _header(file, name, sizes[name])  # numpy leaves room, so that a header with another size is as long
    return mapped(folder)


def mapped(folder: Path) -> Store:
    return Store(**{f.name: _map(folder / f"{f.name}.npy") for f in fields(Store)})


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:  # of no bytes there is no map
        return np.load(path)


def _header(file: BinaryIO, name: str, size: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": DTYPES[name], "fortran_order": False, "shape": (size,)})


def _chunks(examples: Iterable[Numbered]) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of a store, CHUNK examples at a time."""
    columns = {name: array(code) for name, code in zip(DTYPES, "ibfqfqBqq", strict=True)}
    columns["starts"].append(0)
    end, image_end, row, waiting = 0, 0, 0, 0
    for number, lines in examples:
        columns["origin"].append(number)
        for line in lines:
            end += len(line.tokens)
            columns["starts"].append(end)
            _add(line, columns)
            for image in line.images:
                image_end += len(image)
                columns["images"].frombytes(image)
                columns["image_ends"].append(image_end)
                columns["image_rows"].append(row)
            row += 1
        waiting += 1
        if waiting == CHUNK:
            yield _arrays(columns)
            waiting = 0
    yield _arrays(columns)


def _add(line: Line, columns: dict[str, array]) -> None:
    columns["tokens"].extend(line.tokens)
    columns["labels"].append(line.label)
    learn = bytearray(len(line.tokens))
    for start, end in line.learn:
        learn[start:end] = b"\1" * (end - start)
    columns["learn"].frombytes(learn)
    if line.steps is not None:
        columns["steps"].extend(line.steps.get(i, 0.0) for i in range(len(line.tokens)))


def _arrays(columns: dict[str, array]) -> dict[str, np.ndarray]:
    """The columns as arrays, and emptied."""
    found = {name: np.array(values).astype(DTYPES[name]) for name, values in columns.items()}
    for name in columns:
        columns[name] = array(columns[name].typecode)
    return found


def fingerprint(store: Store) -> str:
    """16 hex digits that change when a token, what is learned of it, a label or the order does."""
    digest = hashlib.sha256()
    for part in (store.tokens, store.learn, store.starts, store.labels, store.steps, store.images, store.image_rows):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------------- cache


def cache_folder() -> Path:
    """Where tokens are kept unless told otherwise: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlhf_hydra" / "tokens"


Made = tuple[Store, DataReport]


def cached(cache: Path, key: str, make: Callable[[Path], Made], note: Note = unsaid) -> Made:
    """The store that `make(folder)` writes, from the cache if it is there. Of processes that want the same, one makes
    it and the others wait. DataError where the cache cannot be written."""
    folder = cache / key
    if not (folder / "report.json").exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(cache / f"{key}.lock", note):
                if not (folder / "report.json").exists():
                    return _made(folder, make)
        except OSError as error:
            fix = "set XDG_CACHE_HOME to a folder with room that may be written"
            raise DataError(f"the cache of tokens, {cache}, cannot be written: {error.strerror}; {fix}") from error
    report = DataReport(**json.loads((folder / "report.json").read_text(encoding="utf-8")))
    report.notes.append(f"tokens are from the cache, {folder}")
    return mapped(folder), report


@contextmanager
def _alone(path: Path, note: Note) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note("another process makes these tokens; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _made(folder: Path, make: Callable[[Path], Made]) -> Made:
    aside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was ended
    aside.mkdir()
    try:
        _, report = make(aside)
        (aside / "report.json").write_text(json.dumps(asdict(report)), encoding="utf-8")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return mapped(folder), report


class Known(dict[str, str]):
    """Facts that survive the process, in one small file of the cache."""

    def __init__(self, cache: Path) -> None:
        self.path = cache / "known.json"
        try:
            super().__init__(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            super().__init__()
        self.read = dict(self)

    def save(self) -> None:
        """Where that is possible: without them, files are only read once more."""
        if self == self.read:
            return
        aside = self.path.with_name(f"known.{os.getpid()}.part")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(self), encoding="utf-8")
            aside.replace(self.path)


def cache_key(parts: dict[str, Any]) -> str:
    """32 hex digits that change when a part does, or the code that makes tokens from it."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(code.read_bytes())
    return digest.hexdigest()[:32]


def tokenizer_identity(tokenizer: Any) -> str:
    """What decides how a text is tokenised: vocabulary, merges, special tokens."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    inner = core.to_str() if core is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    named = json.dumps([tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, tokenizer.pad_token])
    return hashlib.sha256((inner + named).encode()).hexdigest()

"""Rows from local files, and what is wrong with a file. Every reader is lazy, but for .json, and names file and line.

A row comes with the number under which a person finds it: the line of a .jsonl or .csv file, the position, counted
from 1, of any other.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from rlhf_hydra.config.failure import Failure

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row]]
LONGEST_CELL = 2**31 - 1


class DataError(Failure, ValueError):
    """Data that cannot be used. The message names file, row and column, and the way out."""


def jsonl_rows(path: Path) -> Rows:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if text := _decode(line, path, number).strip():
                hint = "; a JSON list belongs into a .json file" if text.startswith("[") else ""
                yield number, _object(_json(text, path, number), f"{path}, line {number}", hint)


def json_rows(path: Path) -> Rows:
    with _open(path) as file:
        rows = _json(_decode(file.read(), path), path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds one {_kind(rows)}; expected a list of rows, `[{{...}}, ...]`")
    for number, row in enumerate(rows, start=1):
        yield number, _object(row, f"{path}, row {number}")


def csv_rows(path: Path) -> Rows:
    csv.field_size_limit(LONGEST_CELL)
    with _open(path) as file:
        cells = csv.reader((_decode(line, path, n) for n, line in enumerate(file, start=1)), strict=True)
        try:
            header = next(cells, [])
            _check_header(header, path)
            start = cells.line_num + 1
            for row in cells:
                if len(row) != len(header) and row:
                    raise DataError(f"{path}, line {start}: {len(row)} cells under {len(header)} columns")
                if row:
                    yield start, dict(zip(header, row, strict=True))
                start = cells.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {cells.line_num}: not CSV: {error}") from error


def parquet_rows(path: Path) -> Rows:
    import pyarrow.parquet

    return _arrow_rows(path, "Parquet", lambda: pyarrow.parquet.ParquetFile(path).iter_batches())


def arrow_rows(path: Path) -> Rows:
    """Both layouts of Arrow: with an index at the end (Feather), and the stream that `datasets` writes."""
    import pyarrow as arrow

    def batches() -> Iterator[Any]:
        with arrow.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                reader = arrow.ipc.open_file(source)
                yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                source.seek(0)
                yield from arrow.ipc.open_stream(source)

    return _arrow_rows(path, "Arrow", batches)


def _arrow_rows(path: Path, kind: str, batches: Callable[[], Iterator[Any]]) -> Rows:
    import pyarrow as arrow

    number = 0
    try:
        for batch in batches():
            names = batch.schema.names
            if len(set(names)) < len(names):
                raise DataError(f"{path}: two columns have the same name: {', '.join(names)}")
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: not {_a(kind)} file, or broken after row {number}: {reason}") from error


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".parquet": parquet_rows,
    ".arrow": arrow_rows,
}
"""Reader of each kind of file, by suffix."""


def suffix(path: Path) -> str:
    """That of a file's kind: of a.jsonl.gz it is .jsonl, since text may be compressed."""
    last, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    return inner if last == ".gz" and inner in (".jsonl", ".json", ".csv") else last


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


BEGINNINGS = {
    b"PAR1": "a Parquet file; give it the suffix .parquet",
    b"ARROW1": "an Arrow file; give it the suffix .arrow",
    b"\x1f\x8b": "compressed (gzip); give it the suffix .gz",
    b"PK\x03\x04": "compressed (zip); unpack it",
}
"""What files of another kind begin with."""


def file_rows(path: Path) -> Rows:
    """Rows of one file. Raises DataError."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
        for magic, kind in BEGINNINGS.items():
            if start.startswith(magic) and not kind.endswith(path.suffix.lower()):
                raise DataError(f"{path} is {kind}")
        yield from READERS[suffix(path)](path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


class Place(int):
    """Number of a row in one file of several."""

    file: str

    def __str__(self) -> str:
        return f"{int(self)} of {self.file}"


def folder_files(folder: Path, split: str) -> list[Path]:
    """The data files of a folder that belong to `split`, by a word in their names or folders (`train-00001.parquet`,
    `test/a.jsonl`). Files of which none has such a word are all `train`."""
    files = [file for file in sorted(folder.rglob("*")) if suffix(file) in READERS and file.name not in NO_DATA]
    words = {file: set(re.split(r"[^a-z0-9]+", str(file.relative_to(folder)).lower())) for file in files}
    known = {word for names in SPLITS.values() for word in names}
    if not any(found & known for found in words.values()):
        chosen = files if split == "train" else []
    else:
        chosen = [file for file in files if words[file] & SPLITS.get(split, {split})]
    if not chosen:
        names = ", ".join(str(file.relative_to(folder)) for file in files[:8]) or "none"
        raise DataError(f"{folder} has no file of the split {split} (data.split); its data files are: {names}")
    return chosen


SPLITS = {"train": {"train"}, "validation": {"validation", "valid", "val", "dev"}, "test": {"test"}}
"""What a file of each split is called."""
NO_DATA = {"dataset_infos.json", "dataset_info.json", "config.json", "configuration.json"}


def placed_rows(files: list[Path], folder: Path) -> Rows:
    """Rows of several files, one after the other."""
    for file in files:
        for number, row in file_rows(file):
            place = Place(number)
            place.file = str(file.relative_to(folder))
            yield place, row


def column(row: Row, name: str, where: str) -> Any:
    """`row[name]`, or a DataError that lists the columns there are."""
    if name not in row:
        raise DataError(f"{where} has no column `{name}`; its columns are: {', '.join(map(str, row)) or 'none'}")
    return row[name]


# --------------------------------------------------------------------------------------------------------- pieces


def _decode(data: bytes, path: Path, line: int = 1) -> str:
    """Text of `data`, which starts at `line` of the file."""
    if (null := data.find(b"\0")) >= 0 and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        line += data.count(b"\n", 0, null)
        raise DataError(f"{path}, line {line}: a NUL byte; the file is damaged, or is no UTF-8 text")
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += data[: error.start].count(b"\n")
        bad = data[error.start : error.start + 1].hex()
        raise DataError(f"{path}, line {line}: byte 0x{bad} is not UTF-8; save the file as UTF-8") from error


def _json(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        place = f"line {line + error.lineno - 1}, character {error.colno}"
        raise DataError(f"{path}, {place}: not JSON: {error.msg}{_hint(text, path, error)}") from error
    except RecursionError as error:
        raise DataError(f"{path}, line {line}: nested too deeply") from error
    except ValueError as error:  # a key twice, a number of thousands of digits
        raise DataError(f"{path}, line {line}: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> Row:
    """An object, each key of which stands there once."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key `{twice}` twice")
    return row


def _hint(text: str, path: Path, error: json.JSONDecodeError) -> str:
    if suffix(path) == ".json" and error.msg == "Extra data":
        return "; is it JSON lines (.jsonl)?"
    if suffix(path) == ".jsonl" and text in ("[", "{"):
        return "; is it one JSON value over several lines (.json)?"
    return "; is it CSV (.csv)?" if error.pos == 0 and "," in text else ""


def _check_header(header: list[str], path: Path) -> None:
    if header and header[0].lstrip().startswith(("{", "[{")):
        raise DataError(f"{path}, line 1: JSON, where the names of the columns should be; give it the suffix .jsonl")
    if len(set(header)) < len(header):
        raise DataError(f"{path}, line 1: two columns have the same name: {', '.join(header)}")


def _object(value: Any, where: str, hint: str = "") -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: {_a(_kind(value))}; expected an object with columns, `{{...}}`{hint}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aAoO" else f"a {noun}"

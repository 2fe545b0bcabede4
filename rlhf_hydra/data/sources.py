"""Rows from files and hubs, and what is wrong with them. The only file that knows Hugging Face from ModelScope.

A row is a dict from column to value. It comes with the number under which its reader finds it: the line of a .jsonl
or .csv file, the position, counted from 1, of any other.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import Data, ToyData
from rlhf_hydra.data import toy

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row]]


class DataError(Failure, ValueError):
    """Data that cannot be used. The message names file, row and column, and the way out."""


def read(cfg: Data) -> Rows:
    """Numbered rows of `cfg`, at most `cfg.limit`, lazily. Raises DataError, also when there is not one row."""
    rows = islice(_open(cfg), cfg.limit)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{describe(cfg)} has no rows")
    yield first
    yield from rows


def describe(cfg: Data) -> str:
    """The source in a message: its file, or `hub:path/subset[split]`."""
    if isinstance(cfg, ToyData):
        return "data=toy"
    if cfg.path is None or Path(cfg.path).suffix in READERS:
        return str(cfg.path)
    return f"{cfg.hub}:{cfg.path}{'/' + cfg.subset if cfg.subset else ''}[{cfg.split}]"


def column(row: Row, name: str, where: str) -> Any:
    """`row[name]`, or a DataError that lists the columns there are."""
    if name not in row:
        raise DataError(f"{where} has no column `{name}`; its columns are: {', '.join(map(str, row)) or 'none'}")
    return row[name]


def _open(cfg: Data) -> Rows:
    if isinstance(cfg, ToyData):
        return toy.rows(cfg)
    if cfg.path is None:
        raise DataError("data.path is not set: name a file or the id of a dataset on data.hub")
    path = Path(cfg.path).expanduser()
    if reader := READERS.get(path.suffix):
        if not path.is_file():
            raise DataError(f"data.path: there is no file {path} (looked at {path.absolute()})")
        return reader(path)
    if path.is_file():
        raise DataError(f"data.path: {path} is none of {', '.join(READERS)}")
    if cfg.path.startswith((".", "/", "~")) and not path.is_dir():
        raise DataError(f"data.path: there is no file or folder {path.absolute()}")
    return _hub_rows(cfg)


# -------------------------------------------------------------------------------------------------------- files


def _jsonl_rows(path: Path) -> Rows:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if text := _decode(line, path, number).strip():
                yield number, _object(_json(text, path, number), f"{path}, line {number}")


def _json_rows(path: Path) -> Rows:
    rows = _json(_decode(path.read_bytes(), path), path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds one {_kind(rows)}; expected a list of rows, `[{{...}}, ...]`")
    for number, row in enumerate(rows, start=1):
        yield number, _object(row, f"{path}, row {number}")


def _csv_rows(path: Path) -> Rows:
    cells = csv.reader(io.StringIO(_decode(path.read_bytes(), path), newline=""), strict=True)
    try:
        header = next(cells, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path}, line 1: two columns have the same name: {', '.join(header)}")
        start = cells.line_num + 1
        for row in cells:
            if len(row) != len(header) and row:
                raise DataError(f"{path}, line {start}: {len(row)} cells under {len(header)} columns")
            if row:
                yield start, dict(zip(header, row, strict=True))
            start = cells.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {cells.line_num}: not CSV: {error}") from error


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file, or broken after row {number}: {error}") from error


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""Reader of each kind of file, by suffix."""


def _decode(data: bytes, path: Path, line: int = 1) -> str:
    """Text of `data`, which starts at `line` of the file."""
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += data[: error.start].count(b"\n")
        bad = data[error.start : error.start + 1].hex()
        raise DataError(f"{path}, line {line}: byte 0x{bad} is not UTF-8; save the file as UTF-8") from error


def _json(text: str, path: Path, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; is it JSON lines (.jsonl)?" if path.suffix == ".json" and error.msg == "Extra data" else ""
        place = f"line {line + error.lineno - 1}, character {error.colno}"
        raise DataError(f"{path}, {place}: not JSON: {error.msg}{hint}") from error


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: a {_kind(value)}; expected an object with columns, `{{...}}`")
    return value


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


# --------------------------------------------------------------------------------------------------------- hubs


def _hub_rows(cfg: Data) -> Rows:
    """Rows of a dataset on a hub, or in a local folder; both hubs end in `datasets.load_dataset`."""
    try:
        from datasets import load_dataset

        rows = load_dataset(_folder(cfg), cfg.subset, split=cfg.split)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"cannot load {describe(cfg)}: {type(error).__name__}: {reason}\n"
            "check data.path, data.subset, data.split and the network, or set data.path to a file"
        ) from error
    return ((number, dict(row)) for number, row in enumerate(rows, start=1))


def _folder(cfg: Data) -> str:
    """What `load_dataset` is given: ModelScope's datasets are downloaded to a folder first."""
    path = str(cfg.path)
    if (folder := Path(path).expanduser()).is_dir():
        return str(folder)
    if cfg.hub == "huggingface":
        return path
    from modelscope.hub.snapshot_download import dataset_snapshot_download

    return str(dataset_snapshot_download(path))

"""Where rows come from: files, folders, saved datasets, Hugging Face and ModelScope."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, MutableMapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf_hydra.config.schema import Data, ToyData
from rlhf_hydra.data import toy
from rlhf_hydra.data.files import READERS, DataError, Row, Rows, file_rows, folder_files, placed_rows, suffix
from rlhf_hydra.models.hub import dataset_commit, dataset_folder, is_unreachable, patiently, verify_dataset

Known = MutableMapping[str, str]
"""What was found out before about a source: the hash of a file of that size and time, the commit of a branch."""


def read(cfg: Data) -> Rows:
    """Numbered rows of `cfg`, at most `cfg.limit`, lazily. Raises DataError, also when there is not one row."""
    rows = islice(_open(cfg), cfg.limit)
    first = next(rows, None)
    if first is None:
        part = f" in data.split={cfg.split}" if "[" in cfg.split else ""
        raise DataError(f"{describe(cfg)} has no rows{part}")
    yield first
    yield from rows


def describe(cfg: Data) -> str:
    """The source in a message: its file, or `hub:path/subset[split]`."""
    if isinstance(cfg, ToyData):
        return "data=toy"
    if cfg.path is None or suffix(Path(cfg.path)) in READERS:
        return str(cfg.path)
    where = "" if Path(cfg.path).expanduser().is_dir() else f"{cfg.hub}:"
    revision = f"@{cfg.revision}" if cfg.revision else ""
    return f"{where}{cfg.path}{revision}{'/' + cfg.subset if cfg.subset else ''}[{cfg.split}]"


def fingerprint(cfg: Data, known: Known) -> str:
    """What changes when the rows may have: of files their content, of Hugging Face the commit. `known` saves reading
    a file again whose size and time of change are the same, and stands in for a hub that cannot be reached."""
    if isinstance(cfg, ToyData):
        return "toy"
    path = _path(cfg)
    if path.is_file():
        return _file_hash(path, known)
    if not path.is_dir():
        if cfg.hub == "huggingface":
            key = f"commit {cfg.path} {cfg.revision}"
            known[key] = dataset_commit(str(cfg.path), cfg.revision) or known.get(key, "")
            return known[key]
        path = Path(dataset_folder(str(cfg.path), cfg.revision))
    files = sorted(file for file in path.rglob("*") if file.is_file())
    hashes = (f"{file.relative_to(path)} {_file_hash(file, known)}" for file in files)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _file_hash(path: Path, known: Known) -> str:
    state = path.stat()
    key = f"file {path.absolute()} {state.st_size} {state.st_mtime_ns}"
    if key not in known:
        with path.open("rb") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return known[key]


def _path(cfg: Data) -> Path:
    """`cfg.path` as a path. Raises DataError if it is plainly no id of a hub and there is nothing."""
    if cfg.path is None:
        raise DataError("data.path is not set: name a file or the id of a dataset on data.hub")
    path = Path(cfg.path).expanduser()
    if suffix(path) in READERS and not path.exists():
        raise DataError(f"data.path: there is no file {path} (looked at {path.absolute()})")
    if path.is_file() and suffix(path) not in READERS:
        raise DataError(f"data.path: {path} is none of {', '.join(READERS)}")
    if cfg.path.startswith((".", "/", "~")) and not path.exists():
        raise DataError(f"data.path: there is no file or folder {path.absolute()}")
    return path


def _open(cfg: Data) -> Rows:
    if isinstance(cfg, ToyData):
        return toy.rows(cfg)
    path = _path(cfg)
    if path.is_file():
        return _sliced(lambda: file_rows(path), cfg.split, describe(cfg))
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _saved_rows(path, cfg)
    return _dataset_rows(path, cfg)


# -------------------------------------------------------------------------------------------------------- splits

SPLIT = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
"""`train`, `train[100:]`, `train[:10%]`, `train[-500:]`."""


def _name(split: str) -> str:
    match = SPLIT.fullmatch(split)
    return match["name"] if match else split


def _sliced(rows: Any, split: str, where: str) -> Rows:
    """The slice of rows() that `split` names; its name plays no role here, since a file is one split. Percentages and
    numbers from the end need a first pass that counts."""
    match = SPLIT.fullmatch(split)
    if match is None:
        raise DataError(f"{where}: data.split={split!r} is no split such as train, train[:100] or train[10%:20%]")
    marks = match["start"], match["stop"]
    relative = any(mark and (mark.startswith("-") or mark.endswith("%")) for mark in marks)
    total = sum(1 for _ in rows()) if relative else 0
    start, stop = (_mark(mark, total) for mark in marks)
    return islice(rows(), start or 0, stop)


def _mark(mark: str | None, total: int) -> int | None:
    if mark is None:
        return None
    number = round(int(mark[:-1]) * total / 100) if mark.endswith("%") else int(mark)
    return max(0, number + total) if number < 0 else number


# ------------------------------------------------------------------------------------------- datasets of folders, hubs


def _saved_rows(path: Path, cfg: Data) -> Rows:
    """Rows of a folder that `save_to_disk` wrote."""
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except Exception as error:
        raise DataError(f"{path} looks like a saved dataset and cannot be read: {_reason(error)}") from error
    if isinstance(data, DatasetDict):
        name = _name(cfg.split)
        if name not in data:
            raise DataError(f"{path} has no split {name} (data.split); it has: {', '.join(map(str, data))}")
        data = data[name]
    data = _undecoded(data, cfg.images_column)
    return _sliced(lambda: _numbered(data), cfg.split, str(path))


def _dataset_rows(path: Path, cfg: Data) -> Rows:
    """Rows of a folder with data files, or of a dataset on a hub."""
    folder = path if path.is_dir() else None
    try:
        if folder is None and cfg.hub == "modelscope":
            folder = Path(dataset_folder(str(cfg.path), cfg.revision))
        if folder and cfg.subset is None and not _has_card(folder):
            files = folder_files(folder, _name(cfg.split))
            return _sliced(lambda: placed_rows(files, folder), cfg.split, describe(cfg))
        return _loaded_rows(folder, cfg)
    except DataError:
        raise
    except Exception as error:
        raise _unloadable(cfg, folder, error) from error


def _has_card(folder: Path) -> bool:
    """Whether the folder says itself which of its files are what, in the README of a dataset."""
    card = folder / "README.md"
    return card.is_file() and "\nconfigs:" in card.read_text(encoding="utf-8", errors="replace")


def _loaded_rows(folder: Path | None, cfg: Data) -> Rows:
    """Rows by the rules of `datasets`, which knows subsets, cards and Hugging Face."""
    from datasets import load_dataset

    if cfg.streaming and ("%" in cfg.split or "[-" in cfg.split or ":-" in cfg.split):
        raise DataError(f"data.split={cfg.split}: the number of rows is not known with data.streaming=true")
    split = _name(cfg.split) if cfg.streaming else cfg.split
    commit = None if folder else dataset_commit(str(cfg.path), cfg.revision)
    load = partial(load_dataset, str(folder or cfg.path), cfg.subset, split=split, streaming=cfg.streaming)
    # Without a commit it is a folder, or a hub that has not answered three times, of which there may be a copy.
    data = patiently(lambda: load(revision=commit)) if commit else load(revision=cfg.revision)
    if not cfg.streaming and folder is None:
        _verify(str(cfg.path), data)
    data = _undecoded(data, cfg.images_column)
    if not cfg.streaming:
        return _numbered(data)
    return _guarded(_sliced(lambda: _numbered(data), cfg.split, describe(cfg)), cfg, folder)


def _undecoded(data: Any, column: str | None) -> Any:
    """`data`, whose images come as the files that they are, and not as pixels."""
    from datasets import Image

    feature: Any = (data.features or {}).get(column)
    inner = getattr(feature, "feature", feature)  # of a list
    if not isinstance(inner, Image):
        return data
    file = Image(decode=False)
    return data.cast_column(column, file if inner is feature else type(feature)(file))


def _verify(path: str, data: Any) -> None:
    """Raises OSError where a download has a wrong checksum; what `datasets` made of it is removed too."""
    try:
        verify_dataset(path)
    except OSError:
        for file in data.cache_files:
            shutil.rmtree(Path(file["filename"]).parent, ignore_errors=True)
        raise


def _guarded(rows: Rows, cfg: Data, folder: Path | None) -> Rows:
    """`rows`, whose source may fail while it is read."""
    try:
        yield from rows
    except DataError:
        raise
    except Exception as error:
        raise _unloadable(cfg, folder, error) from error


def _unloadable(cfg: Data, folder: Path | None, error: Exception) -> DataError:
    """What to say about a dataset that cannot be loaded: of a folder, which of its files is broken, and where."""
    for file in sorted(folder.rglob("*")) if folder else []:
        if file.is_file() and suffix(file) in READERS:
            try:
                for _ in file_rows(file):
                    pass
            except DataError as broken:
                return broken
    fix = "check data.path, data.subset, data.split, the network and, for gated data, your token, or take a file"
    why = "the hub does not answer, and there is no copy here" if is_unreachable(error) else _reason(error)
    return DataError(f"cannot load {describe(cfg)}: {why}\n{fix}")


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[int, Row]]:
    return ((number, dict(row)) for number, row in enumerate(rows, start=1))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"

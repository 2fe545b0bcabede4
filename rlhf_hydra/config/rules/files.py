"""Paths that look like files are there."""

from pathlib import Path

from rlhf_hydra.config.errors import Problem, nearest
from rlhf_hydra.config.schema import RunConfig

FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".gz", ".parquet", ".arrow")


def looks_local(path: str) -> bool:
    return path.startswith(("/", "./", "../", "~")) or path.endswith(FILE_SUFFIXES)


def is_absent(run: RunConfig, path: str) -> bool:
    """Whether a file of this machine is meant that is not there. A run that is sent elsewhere finds its files there."""
    return not run.cluster.is_elsewhere and looks_local(path) and not Path(path).expanduser().exists()


def no_such_file(key: str, path: str) -> Problem:
    file = Path(path).expanduser()
    beside = [child.name for child in file.parent.iterdir()] if file.parent.is_dir() else []
    near = nearest(file.name, beside)
    says = "does not exist" if file.parent.is_dir() else f"does not exist, nor does its folder {file.parent.absolute()}"
    return Problem(
        "", key, says, f"Did you mean {' or '.join(str(file.parent / name) for name in near)}?" if near else ""
    )

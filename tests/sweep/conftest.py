import sys

import pytest

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.compose import Composer
from rlhf_hydra.sweep.space import Space
from rlhf_hydra.sweep.trial import Book


@pytest.fixture(scope="session")
def composer() -> Composer:
    return Composer()


@pytest.fixture(scope="session")
def points(composer):
    """The overrides that each run of a command line has of its own."""

    def find(*overrides: str) -> list[list[str]]:
        return [point.own for point in Space.of(composer, overrides).points()]

    return find


@pytest.fixture
def plan(composer, tmp_path):
    """The book of a command line in a folder, as `-m` makes it."""

    def make(*overrides: str) -> Book:
        book = Book.open(tmp_path)
        for point in Space.of(composer, overrides).points():
            book.add(point, checked_run(point.overrides, composer), ["python", "-m", "rlhf_hydra"])
        book.write()
        return book

    return make


@pytest.fixture
def program(tmp_path):
    """A stand-in for a run: Python that finds its trial's folder in `here` and its number in `number`."""

    def write(text: str):
        file = tmp_path / "program.py"
        head = "import os, signal, sys\nfrom pathlib import Path\nhere = Path(sys.argv[1])\n"
        file.write_text(f"{head}number = int(here.name.partition('-')[0])\n{text}")
        return lambda trial: [sys.executable, str(file), str(trial.folder)]

    return write

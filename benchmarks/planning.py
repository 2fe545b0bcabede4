"""What a sweep of 960 trials costs before its first trial starts, and its report, in CPU seconds of one core.

.venv/bin/python benchmarks/planning.py
"""

import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf_hydra.config.compose import Composer
from rlhf_hydra.sweep.overview import study
from rlhf_hydra.sweep.room import Room, here
from rlhf_hydra.sweep.runs import read_sweep
from rlhf_hydra.sweep.trial import Book
from rlhf_hydra.tasks import checked_runs

GRID = [
    "model=tiny",
    "data=toy",
    "critic.samples_per_update=64",
    f"policy.optim.lr={','.join(f'{n}e-6' for n in range(1, 11))}",
    f"algo.kl.coef={','.join(f'{n}e-3' for n in range(1, 9))}",
    "algo.loss.clip_low=0.1,0.15,0.2",
    "algo.epochs=1,2",
    "seed=1,2",
]


@contextmanager
def lap(name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    print(f"{name:<40}{time.process_time() - start:6.1f} s")


def main() -> None:
    with TemporaryDirectory() as place:
        with lap("compose and check 960 runs"):
            runs = list(checked_runs(Namespace(overrides=GRID, multirun=True), Composer()))
        with lap("their folders, and what each needs"):
            book = Book.open(Path(place))
            for point, run in runs:
                book.add(point, run, ["python", "-m", "rlhf_hydra"])
            book.write()
            Room(here()).require({key: trial.run for key, trial in book.trials.items()})
        with lap("read them again (resume)"):
            Book.load(Path(place))
        with lap("read and conclude (report)"):
            study(read_sweep([Path(place)]), Path(place))


if __name__ == "__main__":
    main()

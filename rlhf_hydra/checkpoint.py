"""A run's state on disk: written aside, then renamed, so that what is there is whole."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import Checkpoint
from rlhf_hydra.interrupts import Stopped

FOLDER = "checkpoints"
DRIVER = "driver.json"


class NoCheckpoint(Failure):
    """A run cannot go on, since nothing of it was saved."""


class Stateful(Protocol):
    """Whatever the driver holds that changes during a run and decides how it goes on."""

    def state(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts."""

    def load_state(self, state: dict[str, Any]) -> None: ...


class HasWeights(Protocol):
    """The roles that learn."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


class Keeper:
    """Remembers the state after each step and saves it when due; also when the run is stopped between two saves."""

    def __init__(
        self,
        run_folder: Path,
        cfg: Checkpoint,
        last_step: int,
        crew: HasWeights,
        parts: Mapping[str, Stateful],
        note: Callable[[str], None],
    ) -> None:
        self.folder, self.cfg, self.last_step = run_folder, cfg, last_step
        self.crew, self.parts, self.note = crew, parts, note
        self.step, self.saved = 0, -1
        self.state = self._snapshot()

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Stopped) and self.saved != self.step:
            self._save()

    def resume(self, checkpoint: Path) -> int:
        """Give everything its state back; the step after which it was taken."""
        record = json.loads((checkpoint / DRIVER).read_text())
        self.step = self.saved = record["step"]  # first: a run that is stopped while it loads has nothing to save
        self.crew.load(checkpoint.resolve())
        for name, part in self.parts.items():
            part.load_state(record["state"][name])
        self.state = self._snapshot()
        return self.step

    def mark(self, step: int) -> None:
        """`step` is done."""
        self.step, self.state = step, self._snapshot()
        if step == self.last_step or (self.cfg.every and step % self.cfg.every == 0):
            self._save()

    def _snapshot(self) -> str:
        return json.dumps({name: part.state() for name, part in self.parts.items()})

    def _save(self) -> None:
        final = self.folder / FOLDER / f"step-{self.step:06d}"
        aside = final.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self.crew.save(aside.resolve())
        record = {"step": self.step, "state": json.loads(self.state)}
        (aside / DRIVER).write_text(json.dumps(record, indent=1) + "\n")
        shutil.rmtree(final, ignore_errors=True)  # there only if it is not whole
        aside.rename(final)
        for old in whole(self.folder)[: -self.cfg.keep]:
            shutil.rmtree(old)
        self.saved = self.step
        self.note(f"saved {final}")


def whole(run_folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    found = (path.parent for path in (run_folder / FOLDER).glob(f"step-*/{DRIVER}"))
    return sorted(path for path in found if path.suffix != ".part")


def latest(run_folder: Path) -> Path:
    """The newest complete checkpoint. NoCheckpoint if there is none."""
    found = whole(run_folder)
    if not found:
        raise NoCheckpoint(f"{run_folder / FOLDER} holds no complete checkpoint to go on from")
    return found[-1]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))

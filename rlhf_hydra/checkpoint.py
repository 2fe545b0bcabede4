"""A run's state on disk: written aside, then renamed, so that what is there is whole."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rlhf_hydra.config.conditions import usual_direction
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.schema import Checkpoint
from rlhf_hydra.interrupts import Stopped

FOLDER = "checkpoints"
DRIVER = "driver.json"
BEST = "best"
"""Link to the checkpoint where `checkpoint.best` was best."""
MODEL = "model"
"""The policy as a Hugging Face folder, in the best checkpoint."""


class NoCheckpoint(Failure):
    """A run cannot go on, since nothing of it was saved."""


class NotSaved(Failure):
    """The disk is full; the checkpoints that there were are still there."""


class NoMetric(Failure):
    """`checkpoint.best` names a metric that the run does not have."""


class Stateful(Protocol):
    """Whatever the driver holds that changes during a run and decides how it goes on."""

    def state(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts."""

    def load_state(self, state: dict[str, Any]) -> None: ...


class HasWeights(Protocol):
    """The roles that learn."""

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def export(self, folder: Path) -> None: ...


class Best:
    """The best value of one metric so far, and the step that reached it; the earlier of two equal ones."""

    def __init__(self, metric: str | None, mode: str | None) -> None:
        self.metric, self.sign = metric, 1 if (mode or usual_direction(metric or "")) == "max" else -1
        self.step: int | None = None
        self.value = math.nan
        self.waited = 0
        """Times that there was a value since, none of them better."""

    def improves(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether `step` is the best so far. NoMetric if what should have the metric has not."""
        if self.metric is None:
            return False
        is_eval = self.metric.startswith("eval/")
        kin = [name for name in metrics if name.startswith("eval/") == is_eval]
        if kin and self.metric not in kin and self.step is None:
            raise NoMetric(f"checkpoint.best={self.metric} is no metric of this run; there are: {', '.join(kin)}")
        value = metrics.get(self.metric, math.nan)
        if math.isnan(value) or self.sign * value <= self.sign * self.value:
            self.waited += self.metric in metrics
            return False
        self.step, self.value, self.waited = step, value, 0
        return True

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "value": None if self.step is None else self.value, "waited": self.waited}

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.value = state["step"], math.nan if state["step"] is None else state["value"]
        self.waited = state["waited"]


class Keeper:
    """Remembers the state after each step and saves it when due; also when the run is stopped between two saves.

    Of the checkpoints, the newest stay, and the best.
    """

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
        self.best = Best(cfg.best, cfg.best_mode)
        self.crew, self.parts, self.note = crew, {**parts, BEST: self.best}, note
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
        """`step` is done: from now on, a stop saves it."""
        self.step, self.state = step, self._snapshot()

    def keep(self, metrics: Mapping[str, float]) -> None:
        """Save the marked step if it is due, or the best so far by `metrics`."""
        improved = self.best.improves(metrics, self.step)
        self.state = self._snapshot()
        every = self.cfg.every
        is_last = self.step == self.last_step or self.is_out_of_patience
        due = is_last or (every and self.step and self.step % every == 0)
        if improved or (due and self.saved != self.step):
            self._save(improved)

    @property
    def is_out_of_patience(self) -> bool:
        """`checkpoint.patience` evaluations have found nothing better."""
        return self.cfg.patience is not None and self.best.waited >= self.cfg.patience

    def _snapshot(self) -> str:
        return json.dumps({name: part.state() for name, part in self.parts.items()})

    def _save(self, is_best: bool = False) -> None:
        final = self.folder / FOLDER / f"step-{self.step:06d}"
        for dead in (self.folder / FOLDER).glob("step-*.part"):
            shutil.rmtree(dead)
        aside = final.with_suffix(".part")
        try:
            with writing(final):
                self._write(aside, is_best)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        replaced = final.with_name(f"{final.name}-replaced.part")
        if final.exists():  # it is not whole, or lacks what was evaluated since
            final.rename(replaced)
        aside.rename(final)
        shutil.rmtree(replaced, ignore_errors=True)
        if is_best:
            self._link(final)
        for old in whole(self.folder)[: -self.cfg.keep]:
            if step_of(old) != self.best.step:
                shutil.rmtree(old)
        self.saved = self.step
        self.note(f"saved {final}" + (f", the best {self.best.metric}: {self.best.value:.4g}" if is_best else ""))

    def _write(self, folder: Path, is_best: bool) -> None:
        folder.mkdir(parents=True)
        self.crew.save(folder.resolve())
        if is_best:
            self.crew.export(folder.resolve() / MODEL)
        record = {"step": self.step, "state": json.loads(self.state)}
        (folder / DRIVER).write_text(json.dumps(record, indent=1) + "\n")

    def _link(self, checkpoint: Path) -> None:
        aside = checkpoint.with_name(f"{BEST}.part")
        aside.unlink(missing_ok=True)
        aside.symlink_to(checkpoint.name)
        aside.replace(checkpoint.with_name(BEST))


FULL = ("No space left on device", "Disk quota exceeded", "inline_container")
"""What the libraries that write weights say of a full disk; the last is torch's."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """In here `folder` is written, whose parents are there. NotSaved if its disk has no room."""
    try:
        yield
    except Exception as error:
        if not any(word in str(error) for word in FULL):
            raise
        free = shutil.disk_usage(next(place for place in folder.parents if place.exists())).free / 2**30
        reason = str(error).strip().splitlines()[-1]
        says = f"{folder} could not be written, with {free:.2f} GiB free on its disk: {reason}"
        raise NotSaved(f"{says}\nMake room; task=resume goes on from the newest checkpoint.") from error


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


def remembered(checkpoint: Path, part: str) -> dict[str, Any]:
    """The state of one part of the run at a checkpoint."""
    return json.loads((checkpoint / DRIVER).read_text())["state"][part]


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))

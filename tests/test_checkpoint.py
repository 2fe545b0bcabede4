import json

import pytest

from rlhf_hydra.checkpoint import Best, Keeper, NoCheckpoint, NotSaved, latest, step_of, whole
from rlhf_hydra.config.schema import Checkpoint
from rlhf_hydra.interrupts import Stopped


class Part:
    """A number that changes."""

    def __init__(self, value=0):
        self.value = value

    def state(self):
        return {"value": self.value}

    def load_state(self, state):
        self.value = state["value"]


class Crew:
    """Weights that are one number, and that cannot be written when `broken`."""

    def __init__(self):
        self.weight, self.broken = 0, False

    def save(self, folder):
        for role in ("policy", "critic"):
            (folder / role).mkdir()
            (folder / role / "weights.json").write_text(json.dumps(self.weight))
            if self.broken:
                raise OSError(28, "No space left on device")

    def load(self, folder):
        self.weight = json.loads((folder / "policy" / "weights.json").read_text())


@pytest.fixture
def keep(tmp_path):
    def make(every=0, keep=2, last_step=10):
        crew, part, notes = Crew(), Part(), []
        keeper = Keeper(tmp_path, Checkpoint(every=every, keep=keep), last_step, crew, {"part": part}, notes.append)
        return keeper, crew, part

    return make


def advance(keeper, crew, part, steps):
    for step in steps:
        crew.weight, part.value = 10 * step, 100 * step
        keeper.mark(step)
        keeper.keep({})


def names(run_folder):
    return sorted(path.name for path in (run_folder / "checkpoints").iterdir())


def test_saves_when_due_and_at_the_end(keep, tmp_path):
    keeper, crew, part = keep(every=3, keep=9, last_step=7)
    advance(keeper, crew, part, range(1, 8))
    assert names(tmp_path) == ["step-000003", "step-000006", "step-000007"]


def test_saves_only_at_the_end_unless_told(keep, tmp_path):
    keeper, crew, part = keep(last_step=4)
    advance(keeper, crew, part, range(1, 4))
    assert whole(tmp_path) == []
    advance(keeper, crew, part, [4])
    assert step_of(latest(tmp_path)) == 4


def test_keeps_the_newest(keep, tmp_path):
    keeper, crew, part = keep(every=1, keep=2)
    advance(keeper, crew, part, range(1, 6))
    assert names(tmp_path) == ["step-000004", "step-000005"]


def test_resume_gives_everything_its_state_back(keep, tmp_path):
    advance(*keep(every=2), steps=range(1, 6))
    keeper, crew, part = keep(every=2)
    assert keeper.resume(latest(tmp_path)) == 4
    assert (crew.weight, part.value) == (40, 400)
    advance(keeper, crew, part, [5, 6])
    assert step_of(latest(tmp_path)) == 6


def test_a_crash_while_saving_leaves_the_last_one_whole(keep, tmp_path):
    keeper, crew, part = keep(every=1, keep=1)
    advance(keeper, crew, part, [1])
    crew.broken = True
    with (
        pytest.raises(NotSaved, match="step-000002 could not be written, with .* GiB free on its disk: .*No space"),
        keeper,
    ):
        advance(keeper, crew, part, [2])
    assert names(tmp_path) == ["step-000001"]  # what was written of the other would fill the disk
    (tmp_path / "checkpoints/step-000009.part").mkdir()  # of a process that was killed
    assert step_of(latest(tmp_path)) == 1
    again, crew, part = keep(every=1, keep=1)
    again.resume(latest(tmp_path))
    assert (crew.weight, part.value) == (10, 100)
    advance(again, crew, part, [2])
    assert names(tmp_path) == ["step-000002"]


def test_what_is_aside_or_not_whole_is_no_checkpoint(tmp_path):
    for name in ("step-000002.part", "step-000003"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-000002.part" / "driver.json").write_text("{}")
    with pytest.raises(NoCheckpoint, match="no complete checkpoint"):
        latest(tmp_path)


def test_a_stop_saves_the_state_of_the_last_step_that_was_done(keep, tmp_path):
    keeper, crew, part = keep()
    with pytest.raises(Stopped), keeper:
        advance(keeper, crew, part, [1, 2])
        part.value = 999  # step 3 has begun: prompts are taken, weights are still those of step 2
        raise Stopped(15)
    resumed, crew, part = keep()
    assert resumed.resume(latest(tmp_path)) == 2
    assert (crew.weight, part.value) == (20, 200)


def test_a_stop_before_the_first_step_saves_the_start(keep, tmp_path):
    keeper, crew, part = keep()
    with pytest.raises(Stopped), keeper:
        part.value = 999
        raise Stopped(15)
    resumed, crew, part = keep()
    assert resumed.resume(latest(tmp_path)) == 0 and part.value == 0


def test_a_stop_right_after_a_save_saves_nothing_again(keep, tmp_path):
    keeper, crew, part = keep(every=1)
    with pytest.raises(Stopped), keeper:
        advance(keeper, crew, part, [1])
        crew.broken = True
        raise Stopped(15)
    assert names(tmp_path) == ["step-000001"]


def test_a_stop_right_after_resuming_saves_nothing_again(keep, tmp_path):
    advance(*keep(every=1), steps=[1])
    keeper, crew, part = keep()
    with pytest.raises(Stopped), keeper:
        keeper.resume(latest(tmp_path))
        crew.broken = True
        raise Stopped(15)
    assert names(tmp_path) == ["step-000001"]


def test_a_stop_while_resuming_saves_nothing(keep, tmp_path):
    advance(*keep(every=1), steps=[1])
    keeper, crew, _ = keep()

    def load(folder):
        raise Stopped(15)

    crew.load = load
    with pytest.raises(Stopped), keeper:
        keeper.resume(latest(tmp_path))
    assert names(tmp_path) == ["step-000001"]


def test_other_errors_save_nothing(keep, tmp_path):
    """Whoever failed in the middle of a step has left half of it in the weights."""
    keeper, crew, part = keep()
    with pytest.raises(KeyError), keeper:
        advance(keeper, crew, part, [1])
        raise KeyError
    assert whole(tmp_path) == []


@pytest.mark.parametrize(
    ("metric", "mode", "steps"),
    [
        ("eval/loss", None, [0, 1, 3]),
        ("eval/loss", "max", [0, 2]),
        ("eval/accuracy", None, [0, 2]),
        ("eval/accuracy", "min", [0, 1, 3]),
    ],
)
def test_of_a_loss_the_least_is_the_best_unless_the_mode_says_otherwise(metric, mode, steps):
    best = Best(metric, mode)
    assert [step for step, value in enumerate([3.0, 2.0, 4.0, 1.0]) if best.improves({metric: value}, step)] == steps

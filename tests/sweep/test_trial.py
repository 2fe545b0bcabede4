import json
from dataclasses import replace

import pytest

from rlhf_hydra.config.check import checked_run
from rlhf_hydra.config.errors import ConfigError
from rlhf_hydra.config.failure import Failure
from rlhf_hydra.config.saved import load_run_yaml, saved_command
from rlhf_hydra.sweep.conduct import resume
from rlhf_hydra.sweep.status import write
from rlhf_hydra.sweep.trial import Book, Occupied, digest, locked


def hashed(composer, *overrides: str) -> str:
    return digest(checked_run(overrides, composer))


def test_the_hash_is_of_what_decides_the_result(composer):
    plain = hashed(composer)
    assert plain == hashed(composer, "outputs=elsewhere", "tracking=jsonl", "sweep.seeds=3", "cluster.address=host:1")
    assert plain == hashed(composer, "algo=ppo", "algo.kl.coef=0.010")  # the defaults, written out
    assert len({plain, *(hashed(composer, line) for line in ("seed=1", "algo.kl.coef=0.02", "cluster=cpu"))}) == 4


def test_a_saved_run_has_the_hash_of_the_run(plan):
    book = plan("algo=ppo,grpo")
    for trial in book.trials.values():
        assert trial.key.endswith(digest(load_run_yaml(trial.folder / "run.yaml")))


def test_every_trial_is_listed_and_waits_in_a_folder_of_its_own(plan, tmp_path):
    plan("seed=1,2", "steps=3")
    trials = json.loads((tmp_path / "sweep.json").read_text())["trials"]
    assert [(entry["number"], entry["overrides"]) for entry in trials.values()] == [(0, ["seed=1"]), (1, ["seed=2"])]
    assert sorted(path.name for path in (tmp_path / "trials").iterdir()) == sorted(trials)
    for key, entry in trials.items():
        status = json.loads((tmp_path / "trials" / key / "status.json").read_text())
        assert (status["state"], status["overrides"]) == ("waiting", entry["overrides"])
        alone = f"python -m rlhf_hydra {entry['overrides'][0]} steps=3"
        assert saved_command(tmp_path / "trials" / key / "run.yaml") == alone


def test_values_that_are_the_same_are_one_trial(plan):
    assert len(plan("algo.kl.coef=0.010,0.01,1e-2").trials) == 1


def test_a_changed_grid_keeps_what_is_done(plan):
    first = plan("seed=1,2,3")
    one, two, three = first.trials.values()
    write(two.folder, replace(two.status, state="done"))
    write(three.folder, replace(three.status, state="failed"))
    second = plan("seed=0,1,2")  # 0 is new, 3 is gone
    states = {trial.overrides[0]: (trial.key, trial.status.state) for trial in second.trials.values()}
    assert states["seed=1"] == (one.key, "waiting")
    assert states["seed=2"] == (two.key, "done")
    assert states["seed=0"][0].startswith("3-") and "seed=3" not in states


def test_a_trial_that_is_done_stays_when_the_grid_moves_on(plan):
    trial = next(iter(plan("seed=1,2").trials.values()))
    write(trial.folder, replace(trial.status, state="done"))
    moved = plan("seed=3", "steps=3,40")  # 40 is the tiny model's own
    assert [trial.overrides for trial in moved.trials.values()] == [["seed=1"], ["steps=3"], ["steps=40"]]
    again = plan("seed=1", "steps=3,40")
    assert again.trials[trial.key].status.state == "done"
    assert again.trials[trial.key].overrides == again.trials[trial.key].status.overrides == ["seed=1", "steps=40"]


def test_a_book_is_read_as_it_was_written_with_changes_to_how_it_is_run(plan, tmp_path):
    written = plan("seed=1,2")
    read = Book.load(tmp_path, ["sweep.max_parallel=1"])
    assert read.trials.keys() == written.trials.keys()
    for key, trial in read.trials.items():
        assert trial.run.sweep.max_parallel == 1
        assert replace(trial.run, sweep=written.trials[key].run.sweep) == written.trials[key].run


@pytest.mark.parametrize(
    "change", ["steps=3", "sweep=optuna", "sweep.zip=[[seed,steps]]", "sweep.seeds=2", "sweep.trials=9"]
)
def test_a_plan_is_not_changed_by_going_on(plan, tmp_path, change):
    book = plan("sweep=random", "sweep.trials=2", "seed=1,2,3")
    book.head = {"sweep": "random"}
    book.write()
    with pytest.raises(ConfigError, match=f"{change.partition('=')[0]} .*: the trials are planned"):
        resume(tmp_path, [change])


def test_a_folder_without_a_sweep_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no sweep in it"):
        Book.load(tmp_path)


def test_one_sweep_at_a_time_in_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(Occupied, match="runs in"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_had_is_said(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(Failure, match="file cannot be taken for a sweep .*: choose another folder"),
        locked(tmp_path / "file"),
    ):
        pass

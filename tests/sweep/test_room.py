import pytest
from driving import compose

from rlhf_hydra.cluster.hardware import NotEnough
from rlhf_hydra.sweep.room import CORES, MEMORY, Room, asked, memory_gib

RAY = {"CPU": 2.0, "GPU": 0.0, MEMORY: 64.0}
HERE = {CORES: 4.0, MEMORY: 64.0, "GPU of this machine": 0.0}


def test_over_ray_a_trial_takes_its_placement_group():
    # engine, reward, reference, critic, policy: 5 workers of 0.2 CPUs
    assert asked(compose("cluster=cpu"))["CPU"] == pytest.approx(1.0)
    wide = compose("cluster=a100x8", "model=qwen2.5-0.5b")
    assert asked(wide)["GPU"] == 8


def test_what_is_taken_and_given_back():
    run, room = compose("cluster=cpu"), Room(RAY)
    assert room.at_once(run) == (2, "each takes 1 of 2 CPU")
    first = room.take(run)
    assert room.fits(run)
    room.take(run)
    assert not room.fits(run)
    room.give_back(first)
    assert room.fits(run)


def test_two_trials_that_need_it_all_go_one_after_the_other():
    run, room = compose("cluster=cpu", "cluster.cpus_per_worker=0.4"), Room(RAY, most=2)
    assert room.at_once(run)[0] == 1
    taken = room.take(run)
    assert not room.fits(run)
    room.give_back(taken)
    assert room.fits(run)


def test_in_process_a_trial_takes_a_core():
    run = compose("cluster=local")
    assert Room(HERE).at_once(run) == (4, f"each takes 1 of 4 {CORES}")
    assert Room(HERE, most=3).at_once(run) == (3, "sweep.max_parallel")
    assert Room({**HERE, MEMORY: 4.0}).at_once(run)[0] < 4


def test_memory_is_what_the_control_groups_leave(tmp_path):
    whole = memory_gib(tmp_path / "none", tmp_path / "none")
    assert whole > 0.5
    (tmp_path / "job/step").mkdir(parents=True)
    (tmp_path / "mine").write_text("0::/job/step\n")
    (tmp_path / "job/step/memory.max").write_text("max\n")
    assert memory_gib(tmp_path, tmp_path / "mine") == whole
    (tmp_path / "job/memory.max").write_text(f"{2**29}\n")
    assert memory_gib(tmp_path, tmp_path / "mine") == 0.5


def test_what_could_never_start_is_refused_with_numbers():
    small, large = compose("cluster=cpu"), compose("cluster=cpu", "cluster.cpus_per_worker=2")
    with pytest.raises(NotEnough, match=r"trial b could never start: it needs 10 CPU, there are 2"):
        Room(RAY).require({"a": small, "b": large})
    Room(RAY).require({"a": small})
